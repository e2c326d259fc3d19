//! What a provider says of somebody, bounded and in our own words.

use serde_json::{Map, Value};

use super::Failure;
use crate::config::ClaimNames;

/// Most characters of a username, as for the accounts of our own.
const MAX_USERNAME: usize = 128;
/// Longest e-mail address (RFC 5321 §4.5.3.1.3).
const MAX_EMAIL: usize = 254;
/// Most characters of a name; what is longer is cut.
const MAX_NAME: usize = 256;
/// Longest name of a group.
const MAX_GROUP: usize = 256;
/// Most groups of one person.
const MAX_GROUPS: usize = 1_000;

/// What a provider says of somebody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Its own name for them, which never changes.
    pub(super) sub: String,
    /// The name that they sign in with there.
    pub(super) username: Option<String>,
    /// Their e-mail address.
    pub(super) email: Option<String>,
    /// Whether it says that it knows the address to be theirs.
    pub(super) email_verified: bool,
    /// Their full name.
    pub(super) name: Option<String>,
    /// Their groups, by its names.
    pub(super) groups: Vec<String>,
    /// Organisations that they are in.
    pub(super) organizations: Vec<String>,
}

impl Said {
    /// What claims say, by the names that the configuration has for them.
    ///
    /// # Errors
    /// If groups are no list of names: who is in which group is nothing to guess.
    pub(super) fn of_claims(
        claims: &Map<String, Value>,
        names: &ClaimNames,
        organization: Option<&str>,
    ) -> Result<Self, Failure> {
        let organization = organization.and_then(|name| text(claims, name));
        Ok(Self {
            sub: text(claims, "sub").unwrap_or_default().to_owned(),
            username: names.username.iter().find_map(|name| username(text(claims, name)?)),
            email: text(claims, &names.email).and_then(email),
            email_verified: is_true(claims, "email_verified") || is_true(claims, "xms_edov"),
            name: text(claims, &names.name).and_then(full_name),
            groups: groups(find(claims, &names.groups))?,
            organizations: organization.map(str::to_owned).into_iter().collect(),
        })
    }
}

/// A claim by its name; a name with dots leads into objects where no claim has it as it stands.
pub(super) fn find<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        find(claims.get(first)?.as_object()?, rest)
    })
}

fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    find(claims, name)?.as_str().filter(|text| !text.is_empty())
}

/// Some providers write booleans as text.
fn is_true(claims: &Map<String, Value>, name: &str) -> bool {
    match claims.get(name) {
        Some(Value::Bool(value)) => *value,
        Some(Value::String(text)) => text == "true" || text == "1",
        Some(Value::Number(number)) => number.as_u64() == Some(1),
        _ => false,
    }
}

/// A username that can stand in a header; what cannot is none.
pub(super) fn username(text: &str) -> Option<String> {
    let text = text.trim();
    let fine = !text.is_empty() && text.chars().count() <= MAX_USERNAME && !text.chars().any(char::is_control);
    fine.then(|| text.to_owned())
}

/// An e-mail address; what is none, or has more than one place to be cut, is not taken for one.
pub(super) fn email(text: &str) -> Option<String> {
    let (name, host) = text.split_once('@')?;
    let fine = text.len() <= MAX_EMAIL
        && !name.is_empty()
        && !host.is_empty()
        && !host.contains('@')
        && !text
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || matches!(c, '"' | ',' | ';' | '<' | '>'));
    fine.then(|| text.to_owned())
}

pub(super) fn full_name(text: &str) -> Option<String> {
    let cut: String = text.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    let cut = cut.trim();
    (!cut.is_empty()).then(|| cut.to_owned())
}

/// A list of names, or a single one.
fn groups(value: Option<&Value>) -> Result<Vec<String>, Failure> {
    let malformed = || Failure::wrong("the groups that it names are no list of names");
    let names: Vec<&str> = match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => {
            let names: Option<Vec<&str>> = many.iter().map(Value::as_str).collect();
            names.ok_or_else(malformed)?
        }
        Some(_) => return Err(malformed()),
    };
    bounded(names.into_iter().map(str::to_owned).collect())
}

/// As many groups as anybody may have.
///
/// # Errors
/// If there are more: to leave some out would be to decide which of them count.
pub(super) fn bounded(mut names: Vec<String>) -> Result<Vec<String>, Failure> {
    if names.len() > MAX_GROUPS {
        return Err(Failure::wrong("it names more than 1000 groups; have it send fewer"));
    }
    names.retain(|name| !name.is_empty() && name.len() <= MAX_GROUP && !name.chars().any(char::is_control));
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names() -> ClaimNames {
        ClaimNames {
            username: vec!["preferred_username".to_owned(), "email".to_owned()],
            email: "email".to_owned(),
            name: "name".to_owned(),
            groups: "realm.roles".to_owned(),
        }
    }

    fn said(claims: &Value) -> Result<Said, Failure> {
        Said::of_claims(claims.as_object().unwrap(), &names(), Some("hd"))
    }

    #[test]
    fn claims_are_bounded_and_what_is_malformed_is_not_there() {
        let full = said(&json!({
            "sub": "1", "preferred_username": " ada ", "email": "ada@example.com", "email_verified": true,
            "name": "Ada\u{7} Lovelace", "realm": { "roles": ["b", "a", "b", ""] }, "hd": "example.com",
        }))
        .unwrap();
        assert_eq!(full.username.as_deref(), Some("ada"));
        assert_eq!(full.name.as_deref(), Some("Ada Lovelace"));
        assert_eq!(full.groups, ["a", "b"]);
        assert_eq!(full.organizations, ["example.com"]);
        assert!(full.email_verified);
        let dotted = said(&json!({ "realm.roles": "one", "realm": { "roles": ["other"] } })).unwrap();
        assert_eq!(dotted.groups, ["one"]);
        for email in [
            "ada",
            "@example.com",
            "ada@",
            "a@b@c",
            "a b@c",
            "\"a\"@evil.com,x@example.com",
            "a@b\n",
        ] {
            assert_eq!(
                said(&json!({ "sub": "1", "email": email })).unwrap().email,
                None,
                "{email}"
            );
        }
        for verified in [
            json!(false),
            json!("false"),
            json!(0),
            json!(null),
            json!([]),
            json!("yes"),
        ] {
            assert!(
                !said(&json!({ "email_verified": verified })).unwrap().email_verified,
                "{verified}"
            );
        }
        for groups in [json!({"a": 1}), json!([1]), json!(7), json!(vec!["g"; 1001])] {
            assert!(said(&json!({ "realm.roles": groups })).is_err(), "{groups}");
        }
        assert_eq!(
            said(&json!({ "preferred_username": "x".repeat(129) }))
                .unwrap()
                .username,
            None
        );
    }
}
