//! A small HTTP/1.1 client that sends exactly the bytes that it is given: a library would refuse to send half of what
//! these tests are about.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Nothing in these tests may take longer: a hang is a failure.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the server closed the connection after it.
    pub closed: bool,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
        let first = found.next().map(|(_, value)| value.as_str());
        assert!(
            found.next().is_none() || name.eq_ignore_ascii_case("set-cookie"),
            "{name} is there twice: {self:?}"
        );
        first
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {} {}", self.status, self.text()))
    }

    /// The OAuth error code of a JSON body.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }

    pub fn location(&self) -> url::Url {
        let location = self
            .header("location")
            .unwrap_or_else(|| panic!("no Location: {} {}", self.status, self.text()));
        url::Url::parse(location).unwrap_or_else(|_| panic!("not absolute: {location}"))
    }

    /// A parameter of the redirect's query, which must be there once at most.
    pub fn redirected(&self, name: &str) -> Option<String> {
        let url = self.location();
        let mut values = url
            .query_pairs()
            .filter(|(own, _)| own == name)
            .map(|(_, value)| value.into_owned());
        let first = values.next();
        assert!(values.next().is_none(), "{name} is there twice in {url}");
        first
    }
}

/// Sends bytes on a connection of their own and reads one answer.
pub async fn send(address: SocketAddr, bytes: &[u8]) -> Reply {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        read_reply(&mut stream, bytes.starts_with(b"HEAD ")).await
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| {
        panic!(
            "no answer to {}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(300)])
        )
    })
}

/// Reads one answer off a connection; `status` 0 if the server closed it without one.
pub async fn read_reply(stream: &mut TcpStream, to_head: bool) -> Reply {
    let mut buffer = Vec::new();
    let head_end = loop {
        if let Some(at) = find(&buffer, b"\r\n\r\n") {
            // An interim answer is not the answer.
            if buffer.starts_with(b"HTTP/1.1 100") {
                buffer.drain(..at + 4);
                continue;
            }
            break at;
        }
        if read_more(stream, &mut buffer).await == 0 {
            return Reply {
                closed: true,
                ..Reply::default()
            };
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let mut rest = buffer.split_off(head_end + 4);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut reply = Reply {
        status,
        headers,
        ..Reply::default()
    };
    if to_head || status == 204 || status == 304 {
        return reply;
    }
    if reply.header("transfer-encoding").is_some() {
        while let Some((length, start)) = chunk_head(&rest).await_more(stream, &mut rest).await {
            while rest.len() < start + length + 2 {
                if read_more(stream, &mut rest).await == 0 {
                    reply.closed = true;
                    return reply;
                }
            }
            reply.body.extend_from_slice(&rest[start..start + length]);
            rest.drain(..start + length + 2);
            if length == 0 {
                break;
            }
        }
    } else if let Some(length) = reply
        .header("content-length")
        .map(|value| value.parse::<usize>().unwrap())
    {
        while rest.len() < length && read_more(stream, &mut rest).await > 0 {}
        reply.body = rest;
    } else {
        while read_more(stream, &mut rest).await > 0 {}
        reply.body = rest;
        reply.closed = true;
    }
    reply
}

/// The head of the next chunk, or that more bytes are needed.
struct ChunkHead(Option<(usize, usize)>);

fn chunk_head(bytes: &[u8]) -> ChunkHead {
    ChunkHead(find(bytes, b"\r\n").map(|at| {
        let line = String::from_utf8_lossy(&bytes[..at]).into_owned();
        (usize::from_str_radix(line.trim(), 16).unwrap(), at + 2)
    }))
}

impl ChunkHead {
    async fn await_more(self, stream: &mut TcpStream, rest: &mut Vec<u8>) -> Option<(usize, usize)> {
        let mut head = self;
        while head.0.is_none() {
            if read_more(stream, rest).await == 0 {
                return None;
            }
            head = chunk_head(rest);
        }
        head.0
    }
}

async fn read_more(stream: &mut TcpStream, into: &mut Vec<u8>) -> usize {
    let mut chunk = vec![0; 16 << 10];
    // A reset after an early answer counts as the end: the answer was read before it.
    let read = stream.read(&mut chunk).await.unwrap_or(0);
    into.extend_from_slice(&chunk[..read]);
    read
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// A request as bytes; `Content-Length` is added where there is a body.
pub fn request(method: &str, target: &str, host: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
    for &(name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    if !body.is_empty() || method == "POST" {
        text.extend(["Content-Length: ", &body.len().to_string(), "\r\n"]);
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A form's body.
pub fn form(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish()
}
