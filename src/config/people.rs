//! `users`: the built-in accounts.

use std::collections::HashSet;

use argon2::{Params, PasswordHash, password_hash};

use super::read::{At, Object};
use super::values::shown;
use super::{Account, keys};
use crate::domain::user::{Subject, User};

/// Most memory that checking one password may take, in KiB.
const MAX_MEMORY: u32 = 256 << 10;
/// Most passes over that memory.
const MAX_PASSES: u32 = 32;
/// Most lanes.
const MAX_LANES: u32 = 16;
/// Shortest hash that is worth comparing.
const MIN_HASH: usize = 16;
/// Argon2 version 1.3 (RFC 9106).
const VERSION: u32 = 0x13;

/// The accounts; at least one, since nobody could sign in otherwise, unless people can come from `elsewhere`.
pub(super) fn read(top: &Object<'_>, elsewhere: bool) -> Vec<Account> {
    let items = top.items("users");
    match top.get("users") {
        _ if elsewhere => {}
        None => top.missing("users", "[{username: ada, password_hash: …}], at least one account"),
        Some(at) if at.is_list() && items.is_empty() => at.problem("add at least one account, or nobody can sign in"),
        Some(_) => {}
    }
    let mut names = HashSet::new();
    let mut accounts = Vec::new();
    for item in items {
        let Some((account, username)) = item.account() else {
            continue;
        };
        if names.insert(account.user.username.clone()) {
            accounts.push(account);
        } else {
            username.problem(format!(
                "{} is taken by an earlier account",
                shown(&account.user.username)
            ));
        }
    }
    accounts
}

impl<'a> At<'a> {
    fn account(&self) -> Option<(Account, At<'a>)> {
        let object = self.object(keys::USER)?;
        let at = object.required("username", "ada").cloned();
        let username = at.as_ref().and_then(|at| {
            let text = at.text()?;
            let subject = Subject::of_username(text);
            subject.map(|subject| (text.to_owned(), subject)).or_else(|| {
                at.refuse(format!(
                    "{} is not a username; write 1 to 128 characters without `:` and without space around them",
                    shown(text)
                ))
            })
        });
        let hash = object.required("password_hash", "… with what `mcpgate hash-password` prints");
        let password_hash = hash.and_then(|at| {
            let text = at.secret()?;
            match argon2id(&text) {
                Ok(()) => Some(text),
                Err(wrong) => at.refuse(format!("{wrong}; write what `mcpgate hash-password` prints")),
            }
        });
        let email = object.optional("email", |at| {
            let text = at.text()?;
            let fine = text.len() <= 254
                && !text.contains(char::is_whitespace)
                && text
                    .split_once('@')
                    .is_some_and(|(name, host)| !name.is_empty() && !host.is_empty() && !host.contains('@'));
            if fine {
                Some(text.to_owned())
            } else {
                at.refuse(format!(
                    "{} is not an e-mail address; write ada@example.com",
                    shown(text)
                ))
            }
        });
        let name = object.optional("name", |at| at.text().map(str::to_owned));
        let groups = object.or("groups", Vec::new(), At::groups);
        let (username, subject) = username?;
        let user = User {
            subject,
            username,
            email,
            name,
            groups,
        };
        Some((
            Account {
                user,
                password_hash: password_hash?,
            },
            at?,
        ))
    }
}

/// Whether a PHC string is an argon2id hash that can be checked at a bearable price.
fn argon2id(text: &str) -> Result<(), &'static str> {
    let hash = PasswordHash::new(text).map_err(|_| "is not a password hash in PHC format")?;
    if hash.algorithm != argon2::ARGON2ID_IDENT {
        return Err("is not an argon2id hash");
    }
    if hash.version != Some(VERSION) {
        return Err("is not of argon2 version 19 (v=19)");
    }
    let params = Params::try_from(&hash).map_err(|_: password_hash::Error| "has argon2 parameters that do not work")?;
    if params.m_cost() > MAX_MEMORY {
        return Err("needs more than 256 MiB of memory for every sign-in (m is at most 262144)");
    }
    if params.t_cost() > MAX_PASSES || params.p_cost() > MAX_LANES {
        return Err("needs too much time for every sign-in (t is at most 32, p at most 16)");
    }
    if hash.salt.is_none_or(|salt| salt.len() < argon2::MIN_SALT_LEN)
        || hash.hash.is_none_or(|output| output.len() < MIN_HASH)
    {
        return Err("has no salt of 8 bytes or no hash of 16 bytes at its end");
    }
    Ok(())
}
