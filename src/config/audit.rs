//! `audit`: whether what matters for security is written down, and where.

use zeroize::Zeroizing;

use super::read::{At, Object};
use super::{AuditConfig, AuditTo, keys};

/// Shortest key that is worth having.
const MIN_KEY: usize = 16;

/// The audit log; `None` if there is none.
pub(super) fn read(top: &Object<'_>) -> Option<AuditConfig> {
    let at = top.get("audit")?;
    let object = at.object(keys::AUDIT)?;
    let file = object.optional("file", |at| at.text().map(|text| at.reader.directory.join(text)));
    let stdout = object.or("stdout", false, At::boolean);
    let key = object.optional("key", |at| {
        let key = at.secret()?;
        if key.len() < MIN_KEY {
            return at.refuse(
                "the key is shorter than 16 characters; write a random one, such as `openssl rand -hex 32` makes",
            );
        }
        Some(Zeroizing::new(key.to_string()))
    });
    let to = match (file, stdout) {
        (Some(file), false) => AuditTo::File(file),
        (None, true) => AuditTo::Stdout,
        (Some(_), true) => return at.refuse("has both a file and stdout; write one of them"),
        (None, false) if object.get("file").is_some() => return None,
        (None, false) => return at.refuse("says not where; write file: /var/log/mcpgate/audit.jsonl, or stdout: true"),
    };
    Some(AuditConfig { to, key })
}
