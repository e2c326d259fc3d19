//! `mcpgate audit verify`: whether a log is as it was written. It needs no gateway.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::{FAILED, WRONG};
use crate::telemetry::chain::{self, Head, Seal};

/// Longest key that is read.
const MAX_KEY: u64 = 4 << 10;

/// What can be done with an audit log.
#[derive(Subcommand)]
pub enum Audit {
    /// Check that no line was changed, removed, added or moved
    Verify(Verify),
}

/// Which files, and what is known of them.
#[derive(Args)]
pub struct Verify {
    /// The files, the oldest first
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The file that audit.key is in, if there is one
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The hash that the last line should have: shows what is missing at the end
    #[arg(long, value_name = "HASH")]
    expect: Option<String>,
}

/// Does it. 0 if everything holds, 1 if not, 2 if it cannot be told.
#[must_use]
pub fn run(command: &Audit) -> ExitCode {
    let Audit::Verify(wanted) = command;
    match verify(wanted) {
        Ok(said) => {
            // Nobody reads it if it cannot be written.
            match writeln!(std::io::stdout(), "{said}") {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(FAILED),
            }
        }
        Err((code, why)) => {
            eprintln!("mcpgate: {why}");
            ExitCode::from(code)
        }
    }
}

fn verify(wanted: &Verify) -> Result<String, (u8, String)> {
    let seal = seal(wanted.key_file.as_deref())?;
    let mut reached: Option<Head> = None;
    let mut said = String::new();
    for path in &wanted.files {
        let shown = path.display();
        let file = File::open(path).map_err(|error| (WRONG, format!("{shown} cannot be read: {error}")))?;
        let found = chain::verify(BufReader::new(file), &seal, reached.as_ref())
            .map_err(|broken| (FAILED, format!("{shown}, {broken}")))?;
        let lines = found.to.seq - found.from.seq;
        let begins = if found.from.seq == 0 {
            "from the beginning".to_owned()
        } else {
            format!("continues line {} ({})", found.from.seq, found.from.hash)
        };
        let _ = writeln!(said, "{shown}: {lines} lines hold, {begins}");
        reached = Some(found.to);
    }
    let last = reached.map(|head| head.hash).unwrap_or_default();
    if let Some(expected) = &wanted.expect
        && !expected.eq_ignore_ascii_case(&last)
    {
        let why = format!(
            "the last line has the hash {last}, and {expected} was expected: lines are missing at the end, or came after"
        );
        return Err((FAILED, why));
    }
    let _ = write!(said, "last hash: {last}");
    Ok(said)
}

fn seal(key_file: Option<&Path>) -> Result<Seal, (u8, String)> {
    let Some(path) = key_file else {
        return Ok(Seal::Plain);
    };
    let unreadable = |why: String| (WRONG, format!("{} cannot be read: {why}", path.display()));
    let length = std::fs::metadata(path)
        .map_err(|error| unreadable(error.to_string()))?
        .len();
    if length > MAX_KEY {
        return Err(unreadable("it is larger than a key".to_owned()));
    }
    let key = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?);
    // As secrets of the configuration are read: without the line break that editors put at the end.
    Seal::keyed(key.trim_end_matches(['\n', '\r']).as_bytes()).map_err(|error| unreadable(error.to_string()))
}
