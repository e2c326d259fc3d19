//! The PROXY protocol, versions 1 and 2: what a balancer that does not understand HTTP says of a connection before its first
//! byte. Exactly the header is read from the socket, because what comes after it may be TLS.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// A header has to be whole in this time: it is the first thing that a balancer sends.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest line of version 1, by its specification.
const MAX_LINE: usize = 107;
/// The longest header of version 2 that we read: the addresses, and some remarks of the balancer, which are passed over.
const MAX_BINARY: usize = 4 << 10;
/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version, family and length.
const BINARY_HEAD: usize = 16;
const LINE_START: &[u8] = b"PROXY ";

/// Why a connection has no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// It begins with something else.
    #[error("it does not begin with a PROXY header")]
    Missing,
    /// It begins like one.
    #[error("its PROXY header cannot be read")]
    Malformed,
    /// It is longer than any.
    #[error("its PROXY header is too long")]
    TooLong,
    /// It did not come, or not to its end.
    #[error("its PROXY header did not come in time")]
    Late,
    /// The connection broke.
    #[error("it broke: {0}")]
    Broken(#[from] io::Error),
}

/// Reads the header of a connection: where it came from, or `None` if the balancer speaks for itself, as it does to see
/// whether we are well.
///
/// # Errors
/// If there is none, or it is not in order.
pub(super) async fn read(socket: &mut TcpStream) -> Result<Option<SocketAddr>, HeaderError> {
    tokio::time::timeout(PATIENCE, read_header(socket))
        .await
        .unwrap_or(Err(HeaderError::Late))
}

async fn read_header(socket: &mut TcpStream) -> Result<Option<SocketAddr>, HeaderError> {
    let mut header = vec![0; SIGNATURE.len()];
    socket.read_exact(&mut header).await?;
    if header == SIGNATURE {
        header.resize(BINARY_HEAD, 0);
        socket
            .read_exact(header.get_mut(SIGNATURE.len()..).unwrap_or_default())
            .await?;
        let length = match header.get(14..16) {
            Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
            _ => 0,
        };
        if BINARY_HEAD + length > MAX_BINARY {
            return Err(HeaderError::TooLong);
        }
        header.resize(BINARY_HEAD + length, 0);
        socket
            .read_exact(header.get_mut(BINARY_HEAD..).unwrap_or_default())
            .await?;
    } else if header.starts_with(LINE_START) {
        read_line(socket, &mut header).await?;
    } else {
        return Err(HeaderError::Missing);
    }
    source(&header)
}

/// Reads on until the end of the line, and no further.
async fn read_line(socket: &mut TcpStream, line: &mut Vec<u8>) -> Result<(), HeaderError> {
    let mut ahead = [0; MAX_LINE];
    loop {
        let room = MAX_LINE - line.len().min(MAX_LINE);
        if room == 0 {
            return Err(HeaderError::TooLong);
        }
        let seen = socket.peek(ahead.get_mut(..room).unwrap_or_default()).await?;
        if seen == 0 {
            return Err(HeaderError::Malformed);
        }
        let seen = ahead.get(..seen).unwrap_or_default();
        let end = seen.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let begin = line.len();
        line.resize(begin + end.unwrap_or(seen.len()), 0);
        socket.read_exact(line.get_mut(begin..).unwrap_or_default()).await?;
        if end.is_some() {
            return Ok(());
        }
    }
}

/// Where a whole header says that its connection comes from.
pub(super) fn source(header: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    // The parser lets any byte stand for the first space.
    if !header.starts_with(LINE_START) && !header.starts_with(SIGNATURE) {
        return Err(HeaderError::Missing);
    }
    let rules = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    match ProxyHeader::parse(header, rules) {
        Ok((found, length)) if length == header.len() => Ok(found
            .proxied_address()
            .filter(|address| address.protocol == proxy_header::Protocol::Stream)
            .map(|address| address.source)),
        Ok(_) | Err(_) => Err(HeaderError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    const LONGEST: &str =
        "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";

    fn binary(command: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
        [SIGNATURE, &[command, family][..], &length.to_be_bytes(), rest].concat()
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0, other)
    }

    #[tokio::test]
    async fn exactly_the_header_is_taken_however_it_comes() {
        let four = [203, 0, 113, 9, 10, 0, 0, 1, 0x15, 0x38, 0x01, 0xbb];
        let with_remarks = [&four[..], &[0xea, 0, 3, 1, 2, 3]].concat();
        for (header, expected) in [
            (
                b"PROXY TCP4 203.0.113.9 10.0.0.1 5432 443\r\n".to_vec(),
                Some("203.0.113.9:5432"),
            ),
            (b"PROXY TCP6 2001:db9::1 ::1 1 2\r\n".to_vec(), Some("[2001:db9::1]:1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:: ffff:: 1 2\r\n".to_vec(), None),
            (
                LONGEST.as_bytes().to_vec(),
                Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
            ),
            (binary(0x21, 0x11, 12, &four), Some("203.0.113.9:5432")),
            (binary(0x21, 0x11, 18, &with_remarks), Some("203.0.113.9:5432")),
            (binary(0x20, 0x00, 0, &[]), None),
            (binary(0x21, 0x00, 0, &[]), None),
            (binary(0x21, 0x12, 12, &four), None),
        ] {
            let expected = expected.map(|text| text.parse::<SocketAddr>().unwrap());
            for piece in [1, 7, header.len() + 5] {
                let (mut socket, mut other) = pair().await;
                let all = [&header[..], b"\x16rest"].concat();
                let sending = tokio::spawn(async move {
                    for piece in all.chunks(piece) {
                        other.write_all(piece).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    other
                });
                assert_eq!(read(&mut socket).await.unwrap(), expected, "{header:?}");
                let mut rest = [0; 5];
                socket.read_exact(&mut rest).await.unwrap();
                assert_eq!(&rest, b"\x16rest");
                drop(sending.await.unwrap());
            }
        }
        assert!(LONGEST.len() <= MAX_LINE);
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused_before_much_of_it_was_read() {
        let endless = format!("PROXY TCP4 {}", "1".repeat(10_000));
        for bad in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 5432 443\n".to_vec(),
            b"PROXY TCP4 203.0.113.999 10.0.0.1 5432 443\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 5432 443\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 99999 443\r\n".to_vec(),
            b"PROXY TCP5 203.0.113.9 10.0.0.1 5432 443\r\n".to_vec(),
            b"PROXY-TCP4 203.0.113.9 10.0.0.1 5432 443\r\n".to_vec(),
            endless.into_bytes(),
            binary(0x21, 0x11, 0xffff, &[0; 64]),
            binary(0x21, 0x11, 4, &[1, 2, 3, 4]),
            binary(0x31, 0x11, 12, &[0; 12]),
            binary(0x21, 0x99, 12, &[0; 12]),
            vec![0; 64],
        ] {
            let (mut socket, mut other) = pair().await;
            other.write_all(&bad).await.unwrap();
            drop(other);
            assert!(read(&mut socket).await.is_err(), "{bad:?}");
        }
        // Nothing, and half a header, end when the sender is gone.
        for short in [&b""[..], b"PROXY TCP4 203.0.113.9", SIGNATURE] {
            let (mut socket, mut other) = pair().await;
            other.write_all(short).await.unwrap();
            drop(other);
            assert!(read(&mut socket).await.is_err(), "{short:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_header_is_not_waited_for() {
        let (mut socket, mut other) = pair().await;
        other.write_all(b"PROXY TCP4 203.0").await.unwrap();
        assert!(matches!(read(&mut socket).await, Err(HeaderError::Late)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_source_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), version in 0..3) {
            let start: &[u8] = match version { 0 => b"PROXY TCP4 ", 1 => SIGNATURE, _ => b"" };
            // Whatever comes of it, it comes to an end.
            let _ = source(&[start, &bytes].concat());
        }

        #[test]
        fn every_address_comes_through(source_address: SocketAddr, port: u16) {
            let destination = match source_address {
                SocketAddr::V4(_) => SocketAddr::from(([10, 0, 0, 1], port)),
                SocketAddr::V6(_) => SocketAddr::from(([0; 8], port)),
            };
            let header = ProxyHeader::with_address(proxy_header::ProxiedAddress::stream(source_address, destination));
            let mut buffer = [0; 300];
            let length = header.encode_to_slice_v2(&mut buffer).unwrap();
            let found = source(&buffer[..length]).unwrap().unwrap();
            prop_assert_eq!((found.ip(), found.port()), (source_address.ip(), source_address.port()));
        }
    }
}
