//! Where the file of an audit log ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::MAX_LINE;

/// Puts what stands behind the last whole line into a file beside, whose name ends in `.torn`: it was being written when the
/// process was killed. How many bytes that were.
pub(super) fn put_aside(file: &mut File, path: &Path) -> io::Result<u64> {
    let tail = tail(file)?;
    let rest = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let torn = tail.get(rest..).unwrap_or_default();
    if torn.is_empty() {
        return Ok(0);
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".torn");
    let mut aside = OpenOptions::new().create(true).append(true).mode(0o600).open(name)?;
    aside.write_all(torn)?;
    aside.write_all(b"\n")?;
    aside.sync_data()?;
    let torn = u64::try_from(torn.len()).unwrap_or(u64::MAX);
    let length = file.metadata()?.len().saturating_sub(torn);
    file.set_len(length)?;
    file.sync_data()?;
    Ok(torn)
}

/// The end of a file, with at least one whole line in it if there is one.
pub(super) fn tail(file: &mut File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let most = u64::try_from(2 * MAX_LINE).unwrap_or(u64::MAX);
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut tail = Vec::new();
    file.take(most).read_to_end(&mut tail)?;
    Ok(tail)
}

pub(super) fn last_line(tail: &[u8]) -> Option<&[u8]> {
    let whole = tail.strip_suffix(b"\n")?;
    let begin = whole.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    tail.get(begin..)
}
