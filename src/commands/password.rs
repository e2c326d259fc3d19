//! A password from whoever types the command: hidden in a terminal, a line of standard input elsewhere, never an argument.

use std::io::{IsTerminal as _, Read as _};

use zeroize::Zeroizing;

/// Longest password that is read.
const MAX_PASSWORD: u64 = 1024;

/// Hidden and asked twice on a terminal; else one line of standard input.
///
/// # Errors
/// A sentence on why there is none.
pub fn read() -> Result<Zeroizing<String>, String> {
    let input = std::io::stdin();
    let password = if input.is_terminal() {
        let ask = |prompt: &str| {
            rpassword::prompt_password(prompt)
                .map(Zeroizing::new)
                .map_err(|error| format!("cannot read the password: {error}"))
        };
        let password = ask("Password: ")?;
        if *password != *ask("Once more: ")? {
            return Err("the two passwords differ".to_owned());
        }
        password
    } else {
        let mut text = Zeroizing::new(String::new());
        input
            .lock()
            .take(MAX_PASSWORD + 2)
            .read_to_string(&mut text)
            .map_err(|error| format!("cannot read the password: {error}"))?;
        Zeroizing::new(
            text.strip_suffix('\n')
                .map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line))
                .to_owned(),
        )
    };
    if password.is_empty() {
        return Err("the password is empty".to_owned());
    }
    if password.contains('\n') || u64::try_from(password.len()).unwrap_or(u64::MAX) > MAX_PASSWORD {
        return Err("a password is one line of at most 1024 bytes".to_owned());
    }
    Ok(password)
}
