//! What a password has to be that somebody chooses here: long, and none of those that are tried first (NIST SP 800-63B §3.1.1.2).
//! Nothing is asked about the kinds of its characters.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::domain::secret::random_bytes;
use crate::domain::user::User;

/// Fewest characters.
pub const SHORTEST: usize = 10;
/// Most bytes; more are not looked at when signing in.
pub const LONGEST: usize = 1024;
/// Of those that leaked most often, the ones that are long enough; compared in lower case.
const COMMON: [&str; 28] = [
    "1234567890",
    "0123456789",
    "0987654321",
    "12345678910",
    "123456789a",
    "1111111111",
    "0000000000",
    "1q2w3e4r5t",
    "1qaz2wsx3edc",
    "abcdefghij",
    "abc1234567",
    "administrator",
    "changeme123",
    "iloveyou123",
    "letmein123",
    "mypassword",
    "p@ssw0rd123",
    "passw0rd123",
    "password12",
    "password123",
    "password1234",
    "password12345",
    "q1w2e3r4t5",
    "qwerty12345",
    "qwertyuiop",
    "qwertyuiop1",
    "welcome123",
    "zxcvbnm123",
];

/// Why a password will not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It can be guessed by trying.
    #[error("A password has at least {SHORTEST} characters.")]
    Short,
    /// It would not be read when signing in.
    #[error("A password has at most {LONGEST} bytes.")]
    Long,
    /// It is among those that are tried first.
    #[error("That password is one of the first that anybody would try.")]
    Common,
    /// It says who they are.
    #[error("A password must not be your name or your e-mail address.")]
    Own,
}

/// A password of 20 characters that nobody chose.
#[must_use]
pub fn generated() -> Zeroizing<String> {
    Zeroizing::new(URL_SAFE_NO_PAD.encode(random_bytes::<15>()))
}

/// Whether somebody may choose this.
///
/// # Errors
/// The first rule that does not hold.
pub fn check(password: &str, user: &User) -> Result<(), Unfit> {
    if password.chars().count() < SHORTEST {
        return Err(Unfit::Short);
    }
    if password.len() > LONGEST {
        return Err(Unfit::Long);
    }
    let plain = password.to_lowercase();
    let mut own = [Some(&user.username), user.email.as_ref(), user.name.as_ref()]
        .into_iter()
        .flatten();
    if own.any(|text| text.to_lowercase() == plain) {
        return Err(Unfit::Own);
    }
    let mut characters = plain.chars();
    let first = characters.next();
    let is_one = characters.all(|next| Some(next) == first);
    if is_one || COMMON.contains(&plain.as_str()) {
        return Err(Unfit::Common);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::user::Subject;

    #[test]
    fn what_is_short_common_or_their_own_will_not_do() {
        let user = User {
            subject: Subject::of_username("ada.lovelace").unwrap(),
            username: "ada.lovelace".to_owned(),
            email: Some("ada@example.com".to_owned()),
            name: None,
            groups: Vec::new(),
        };
        for (password, expected) in [
            ("correct horse", Ok(())),
            ("ÄÖÜäöüßßß!", Ok(())),
            ("ten chars!", Ok(())),
            ("nine char", Err(Unfit::Short)),
            ("", Err(Unfit::Short)),
            (&"x1".repeat(513), Err(Unfit::Long)),
            ("Ada.Lovelace", Err(Unfit::Own)),
            ("ADA@example.com", Err(Unfit::Own)),
            ("Password123", Err(Unfit::Common)),
            ("aaaaaaaaaaaaa", Err(Unfit::Common)),
        ] {
            assert_eq!(check(password, &user), expected, "{password}");
        }
        assert!(
            COMMON
                .iter()
                .all(|common| common.len() >= SHORTEST && common.to_lowercase() == *common)
        );
    }
}
