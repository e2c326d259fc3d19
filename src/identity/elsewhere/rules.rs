//! Who of those that a provider knows may sign in, and as whom.

use super::said::Said;
use crate::config::IdentityProvider;
use crate::domain::user::{Subject, User};

/// Why somebody may not sign in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// The provider gives nothing that they could be known by.
    #[error("the provider's name for them (sub) cannot be used")]
    Nameless,
    /// It decides, and the provider does not say that it is theirs.
    #[error("their e-mail address is not verified, or not known")]
    Email,
    /// Neither their address nor its domain is on the list.
    #[error("neither their e-mail address nor its domain is allowed")]
    Domain,
    /// They are in no group of the list.
    #[error("they are in none of the groups that are allowed")]
    Group,
    /// They are in no organisation of the list.
    #[error("they are in none of the organisations that are allowed")]
    Organization,
}

/// The person, if every list of the configuration that is there has them.
pub(super) fn admit(provider: &IdentityProvider, said: &Said) -> Result<User, NotAllowed> {
    let subject = Subject::at_provider(&provider.id, &said.sub).ok_or(NotAllowed::Nameless)?;
    let email = said
        .email
        .as_ref()
        .filter(|_| said.email_verified || !provider.require_verified_email);
    let allowed = &provider.allowed;
    if !allowed.domains.is_empty() || !allowed.emails.is_empty() {
        let email = email.ok_or(NotAllowed::Email)?.to_lowercase();
        let domain = email.rsplit_once('@').map(|(_, domain)| domain.to_owned());
        let known = allowed.emails.contains(&email) || domain.is_some_and(|domain| allowed.domains.contains(&domain));
        if !known {
            return Err(NotAllowed::Domain);
        }
    }
    if !allowed.groups.is_empty() && !allowed.groups.iter().any(|group| said.groups.contains(group)) {
        return Err(NotAllowed::Group);
    }
    let in_organization = |name: &String| said.organizations.iter().any(|own| own.to_lowercase() == *name);
    if !allowed.organizations.is_empty() && !allowed.organizations.iter().any(in_organization) {
        return Err(NotAllowed::Organization);
    }
    // A username that is an e-mail address says so to upstreams: it is held to the same rule.
    let username = said
        .username
        .clone()
        .filter(|name| email.is_some() || said.email.as_ref() != Some(name));
    Ok(User {
        username: username.unwrap_or_else(|| subject.to_string()),
        email: email.cloned(),
        name: said.name.clone(),
        groups: groups(provider, &said.groups),
        subject,
    })
}

/// Groups by the names that they have here.
fn groups(provider: &IdentityProvider, theirs: &[String]) -> Vec<String> {
    if provider.groups_map.is_empty() {
        return theirs.to_vec();
    }
    let mut ours: Vec<String> = provider
        .groups_map
        .iter()
        .filter(|(name, _)| theirs.contains(name))
        .map(|(_, own)| own.clone())
        .collect();
    ours.sort();
    ours.dedup();
    ours
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Allowed, ClaimNames, Manners, Protocol};
    use std::time::Duration;

    fn provider(change: impl FnOnce(&mut IdentityProvider)) -> IdentityProvider {
        let mut provider = IdentityProvider {
            id: "idp".to_owned(),
            name: "Idp".to_owned(),
            protocol: Protocol::OpenId {
                issuer: "https://idp.example".to_owned(),
                manners: Manners::default(),
            },
            client_id: "us".to_owned(),
            client_secret: None,
            scopes: None,
            allowed: Allowed::default(),
            claims: ClaimNames {
                username: Vec::new(),
                email: "email".to_owned(),
                name: "name".to_owned(),
                groups: "groups".to_owned(),
            },
            groups_map: Vec::new(),
            require_verified_email: true,
            recheck: Duration::from_secs(900),
        };
        change(&mut provider);
        provider
    }

    fn ada() -> Said {
        Said {
            sub: "1".to_owned(),
            username: Some("ada".to_owned()),
            email: Some("Ada@Example.com".to_owned()),
            email_verified: true,
            name: None,
            groups: vec!["eng".to_owned(), "all".to_owned()],
            organizations: vec!["Acme".to_owned()],
        }
    }

    /// Spec: E9
    #[test]
    fn every_list_that_is_there_has_to_have_them() {
        type Change = fn(&mut IdentityProvider);
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let cases: [(Change, Result<(), NotAllowed>); 11] = [
            (|_| {}, Ok(())),
            (|p| p.allowed.domains = vec!["example.com".into()], Ok(())),
            (
                |p| p.allowed.domains = vec!["ample.com".into()],
                Err(NotAllowed::Domain),
            ),
            (|p| p.allowed.emails = vec!["ada@example.com".into()], Ok(())),
            (
                |p| p.allowed.emails = vec!["bob@example.com".into()],
                Err(NotAllowed::Domain),
            ),
            (|p| p.allowed.groups = vec!["eng".into(), "x".into()], Ok(())),
            (|p| p.allowed.groups = vec!["x".into()], Err(NotAllowed::Group)),
            (|p| p.allowed.organizations = vec!["acme".into()], Ok(())),
            (
                |p| p.allowed.organizations = vec!["acm".into()],
                Err(NotAllowed::Organization),
            ),
            (
                |p| {
                    p.allowed.domains = vec!["example.com".into()];
                    p.allowed.groups = vec!["x".into()];
                },
                Err(NotAllowed::Group),
            ),
            (
                |p| {
                    p.allowed.domains = vec!["other.com".into()];
                    p.allowed.emails = vec!["ada@example.com".into()];
                },
                Ok(()),
            ),
        ];
        for (index, (change, outcome)) in cases.into_iter().enumerate() {
            assert_eq!(admit(&provider(change), &ada()).map(|_| ()), outcome, "{index}");
        }
        let mapped = provider(|p| p.groups_map = vec![("eng".into(), "engineering".into()), ("x".into(), "y".into())]);
        assert_eq!(admit(&mapped, &ada()).unwrap().groups, list(&["engineering"]));
    }

    /// Spec: E9
    #[test]
    fn an_address_that_is_not_verified_is_none() {
        let unverified = Said {
            email_verified: false,
            ..ada()
        };
        assert_eq!(admit(&provider(|_| {}), &unverified).unwrap().email, None);
        let deciding = provider(|p| p.allowed.domains = vec!["example.com".into()]);
        assert_eq!(admit(&deciding, &unverified), Err(NotAllowed::Email));
        let trusting = provider(|p| {
            p.allowed.domains = vec!["example.com".into()];
            p.require_verified_email = false;
        });
        assert_eq!(
            admit(&trusting, &unverified).unwrap().email.as_deref(),
            Some("Ada@Example.com")
        );
        let by_email = Said {
            username: unverified.email.clone(),
            ..unverified
        };
        assert_eq!(admit(&provider(|_| {}), &by_email).unwrap().username, "idp:1");
        let nameless = Said {
            sub: String::new(),
            ..ada()
        };
        assert_eq!(admit(&provider(|_| {}), &nameless), Err(NotAllowed::Nameless));
    }
}
