//! Server-sent events (HTML Living Standard §9.2), as far as a proxy has to know them: where one ends, and what it says.
//!
//! ```text
//! id: 7 ⏎ event: message ⏎ data: {"jsonrpc"… ⏎ ⏎ : ping ⏎ ⏎ data: …
//! └──────────────── one event ─────────────────┘└─ comment ─┘
//! ```
//! A line ends with CR LF, LF or CR, an event with an empty line, and a chunk anywhere. [`Boundary`] says whether something
//! may be put in between; it looks at the last bytes alone, so that an event without an end costs nothing. [`Events`] gives
//! out whole events and holds one that has not ended yet, up to a limit.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

/// A comment, which clients skip, to show everybody on the way that a silent stream is alive.
pub const KEEP_ALIVE: &[u8] = b": keepalive\n\n";

/// May stand before the first line of a stream, and nowhere else.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

const CR: u8 = b'\r';
const LF: u8 = b'\n';

/// Where in a stream we are: whether a comment may go in here. Between the halves of a line's end it may not, even though
/// the standard would let it: some clients look for the empty line as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Boundary {
    /// The last bytes that went by; before the first one it is as if an event had ended.
    last: [u8; 3],
}

/// Whole events, one after another, whatever the chunks.
#[derive(Debug)]
pub struct Events {
    limit: usize,
    /// The beginning of an event.
    held: BytesMut,
    /// What came after it and was not looked at.
    chunk: Bytes,
    /// Whether nothing of the current line came yet.
    at_line_start: bool,
    /// Whether the last byte was CR: LF would be the second half of the same line's end.
    after_cr: bool,
    /// Whether nothing came yet.
    at_start: bool,
}

/// An event, or what stands for one: its lines and the empty line that ends it, byte for byte. A block of comments is one,
/// and an empty line alone; they have no data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    raw: Bytes,
    /// Whether it is the first of its stream, where a byte order mark may stand.
    first: bool,
}

/// An event is longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is too long")]
pub struct TooLarge;

/// The lines of an event, each with its end.
struct Lines<'a>(&'a [u8]);

/// One line: what it says and how it ends.
struct Line<'a> {
    text: &'a [u8],
    end: &'a [u8],
}

// === impl Boundary ===

impl Boundary {
    /// The beginning of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self { last: [LF; 3] }
    }

    /// More of the stream.
    pub fn pass(&mut self, chunk: &[u8]) {
        match *chunk {
            [] => {}
            [.., a, b, c] => self.last = [a, b, c],
            [b, c] => self.last = [self.last[2], b, c],
            [c] => self.last = [self.last[1], self.last[2], c],
        }
    }

    /// Whether no event is under way. After CR it may still be that LF follows; then the answer is no, unless this stream
    /// ends its lines with CR alone.
    #[must_use]
    pub const fn is_between(self) -> bool {
        matches!(self.last, [_, LF, LF] | [CR | LF, CR, LF] | [_, CR, CR])
    }
}

impl Default for Boundary {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Events ===

impl Events {
    /// The beginning of a stream; at most `limit` bytes are held of an event that has not ended.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            held: BytesMut::new(),
            chunk: Bytes::new(),
            at_line_start: true,
            after_cr: false,
            at_start: true,
        }
    }

    /// More of the stream. The one who pushes asks for events until there is none before pushing again; if not, nothing is
    /// lost, but it is copied.
    pub fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            let mut both = BytesMut::with_capacity(self.chunk.len() + chunk.len());
            both.extend_from_slice(&self.chunk);
            both.extend_from_slice(&chunk);
            self.chunk = both.freeze();
        }
    }

    /// The next whole event. One that came in one chunk is not copied.
    ///
    /// # Errors
    /// If an event is longer than the limit. The stream cannot go on through here then; [`Events::into_rest`] has all that
    /// was not given out.
    #[expect(
        clippy::should_implement_trait,
        reason = "`None` is not the end, but that more has to come first"
    )]
    pub fn next(&mut self) -> Result<Option<Event>, TooLarge> {
        let Some(length) = self.scan() else {
            if self.held.len() + self.chunk.len() > self.limit {
                return Err(TooLarge);
            }
            let chunk = std::mem::take(&mut self.chunk);
            self.held.extend_from_slice(&chunk);
            return Ok(None);
        };
        // What is over the limit is refused whether it comes in pieces or not.
        if self.held.len() + length > self.limit {
            return Err(TooLarge);
        }
        let tail = self.chunk.split_to(length);
        let raw = if self.held.is_empty() {
            tail
        } else {
            self.held.extend_from_slice(&tail);
            self.held.split().freeze()
        };
        Ok(Some(self.event(raw)))
    }

    /// Whether nothing is held: everything that came was given out.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held.is_empty() && self.chunk.is_empty()
    }

    /// What is held, as it came: for going on without looking.
    #[must_use]
    pub fn into_rest(mut self) -> Bytes {
        if self.held.is_empty() {
            return self.chunk;
        }
        self.held.extend_from_slice(&self.chunk);
        self.held.freeze()
    }

    /// The stream has ended: an event without its empty line, which clients are to ignore.
    #[must_use]
    pub fn finish(self) -> Option<Event> {
        let first = self.at_start;
        Some(self.into_rest())
            .filter(|raw| !raw.is_empty())
            .map(|raw| Event { raw, first })
    }

    fn event(&mut self, raw: Bytes) -> Event {
        Event {
            raw,
            first: std::mem::take(&mut self.at_start),
        }
    }

    /// How much of the chunk belongs to the current event, if that ends in it.
    fn scan(&mut self) -> Option<usize> {
        let mut bytes = self.chunk.iter().copied().enumerate().peekable();
        while let Some((index, byte)) = bytes.next() {
            let second_half = std::mem::replace(&mut self.after_cr, byte == CR) && byte == LF;
            match byte {
                LF if second_half => {
                    // An event that ended with CR is given out at once, and the LF after it stands for itself.
                    if index == 0 && self.held.is_empty() && self.at_line_start {
                        return Some(1);
                    }
                }
                CR | LF if self.at_line_start => {
                    let has_second_half = byte == CR && bytes.peek().is_some_and(|(_, next)| *next == LF);
                    if has_second_half {
                        self.after_cr = false;
                    }
                    return Some(index + 1 + usize::from(has_second_half));
                }
                CR | LF => self.at_line_start = true,
                _ => self.at_line_start = false,
            }
        }
        None
    }
}

// === impl Event ===

impl Event {
    /// All of it, as it came.
    #[must_use]
    pub const fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// What kind of event it is; `message` where it does not say.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.values(b"event")
            .last()
            .filter(|name| !name.is_empty())
            .unwrap_or(b"message")
    }

    /// Its data, lines joined by LF; `None` if there is no such line, and nobody is told of it then.
    #[must_use]
    pub fn data(&self) -> Option<Cow<'_, [u8]>> {
        let mut lines = self.values(b"data");
        let mut data = Cow::Borrowed(lines.next()?);
        for line in lines {
            let data = data.to_mut();
            data.push(LF);
            data.extend_from_slice(line);
        }
        Some(data)
    }

    /// Its id, if it has one.
    #[must_use]
    pub fn id(&self) -> Option<&[u8]> {
        self.values(b"id").filter(|id| !id.contains(&0)).last()
    }

    /// The same event with other data, in the place of the first line of the old. Every other line stays as it was.
    #[must_use]
    pub fn with_data(&self, data: &[u8]) -> Bytes {
        let mut new = BytesMut::with_capacity(self.raw.len() + data.len());
        new.extend_from_slice(self.mark());
        let mut written = false;
        for line in self.lines() {
            if line.value_of(b"data").is_none() {
                // CR before a line that was left out, and LF after it: now neighbours, and still two ends.
                if line.text.is_empty()
                    && line.end == b"\n"
                    && let Some(last @ &mut CR) = new.last_mut()
                {
                    *last = LF;
                }
                new.extend_from_slice(line.text);
                new.extend_from_slice(line.end);
            } else if !std::mem::replace(&mut written, true) {
                let end = if line.end.is_empty() { b"\n" } else { line.end };
                // An empty text has one line as well.
                let mut lines = Lines(data).map(|line| line.text).peekable();
                if lines.peek().is_none() || data.ends_with(b"\n") || data.ends_with(b"\r") {
                    append(&mut new, lines.chain([&[][..]]), end);
                } else {
                    append(&mut new, lines, end);
                }
            }
        }
        new.freeze()
    }

    /// The byte order mark, where it has one.
    fn mark(&self) -> &[u8] {
        let marked = self.first && self.raw.starts_with(BYTE_ORDER_MARK);
        self.raw
            .get(..BYTE_ORDER_MARK.len())
            .filter(|_| marked)
            .unwrap_or_default()
    }

    fn lines(&self) -> Lines<'_> {
        Lines(self.raw.get(self.mark().len()..).unwrap_or_default())
    }

    fn values<'a>(&'a self, field: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.lines().filter_map(move |line| line.value_of(field))
    }
}

fn append<'a>(event: &mut BytesMut, lines: impl Iterator<Item = &'a [u8]>, end: &[u8]) {
    for line in lines {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(line);
        event.extend_from_slice(end);
    }
}

// === impl Lines ===

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        if self.0.is_empty() {
            return None;
        }
        let length = self.0.iter().position(|byte| matches!(*byte, CR | LF));
        let (text, rest) = self.0.split_at(length.unwrap_or(self.0.len()));
        let end = match rest {
            [CR, LF, ..] => 2,
            [] => 0,
            _ => 1,
        };
        let (end, rest) = rest.split_at(end);
        self.0 = rest;
        Some(Line { text, end })
    }
}

impl<'a> Line<'a> {
    /// What it says of a field, without the one space that may follow the colon.
    fn value_of(&self, field: &[u8]) -> Option<&'a [u8]> {
        match self.text.strip_prefix(field)? {
            [] => Some(&[]),
            [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The events of a stream that comes in these pieces, and what is left at its end.
    fn events(pieces: &[&[u8]]) -> (Vec<Event>, Vec<u8>) {
        let mut reader = Events::new(1 << 20);
        let mut found = Vec::new();
        for piece in pieces {
            reader.push(Bytes::copy_from_slice(piece));
            while let Some(event) = reader.next().unwrap() {
                found.push(event);
            }
        }
        (found, reader.into_rest().to_vec())
    }

    type Told = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

    /// What a client would be told.
    fn told(events: &[Event]) -> Vec<Told> {
        let told = |event: &Event| {
            let data = event.data()?.into_owned();
            Some((event.name().to_vec(), data, event.id().map(<[u8]>::to_vec)))
        };
        events.iter().filter_map(told).collect()
    }

    /// A stream read by the letter of the standard, byte by byte: data and name of each event.
    fn by_the_letter(stream: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let stream = stream.strip_prefix(BYTE_ORDER_MARK).unwrap_or(stream);
        let text = stream.to_vec();
        let mut lines = Vec::new();
        let mut line = Vec::new();
        let mut index = 0;
        while index < text.len() {
            match text[index] {
                b'\r' => {
                    lines.push(std::mem::take(&mut line));
                    index += usize::from(text.get(index + 1) == Some(&b'\n'));
                }
                b'\n' => lines.push(std::mem::take(&mut line)),
                byte => line.push(byte),
            }
            index += 1;
        }
        let (mut found, mut name, mut data) = (Vec::new(), Vec::new(), Vec::<u8>::new());
        let mut any = false;
        for line in lines {
            if line.is_empty() {
                if any {
                    data.pop();
                    let name = if name.is_empty() {
                        b"message".to_vec()
                    } else {
                        name.clone()
                    };
                    found.push((name, data.clone()));
                }
                (any, name, data) = (false, Vec::new(), Vec::new());
                continue;
            }
            let (field, value) = match line.iter().position(|byte| *byte == b':') {
                Some(at) => {
                    let value = &line[at + 1..];
                    (&line[..at], value.strip_prefix(b" ").unwrap_or(value))
                }
                None => (&line[..], &[][..]),
            };
            match field {
                b"event" => name = value.to_vec(),
                b"data" => {
                    any = true;
                    data.extend_from_slice(value);
                    data.push(b'\n');
                }
                _ => {}
            }
        }
        found
    }

    /// Spec: K7
    #[test]
    fn every_line_end_is_one() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!(
                "event: endpoint{end}data: /a?b{end}{end}: x{end}{end}id: 7{end}data:1{end}data{end}data:  3{end}{end}"
            );
            let (found, rest) = events(&[stream.as_bytes()]);
            assert_eq!(
                told(&found),
                [
                    (b"endpoint".to_vec(), b"/a?b".to_vec(), None),
                    (b"message".to_vec(), b"1\n\n 3".to_vec(), Some(b"7".to_vec()))
                ],
                "{end:?}"
            );
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn a_mark_at_the_start_is_no_part_of_the_first_line() {
        let (found, _) = events(&[b"\xef\xbb", b"\xbfdata: 1\n\n\xef\xbb\xbfdata: 2\n\n"]);
        assert_eq!(told(&found), [(b"message".to_vec(), b"1".to_vec(), None)]);
        assert_eq!(found[0].with_data(b"2"), &b"\xef\xbb\xbfdata: 2\n\n"[..]);
    }

    #[test]
    fn other_data_leaves_the_rest_alone() {
        for (before, data, after) in [
            ("data: 1\n\n", "2", "data: 2\n\n"),
            (
                ": c\r\nid: 7\r\ndata:1\r\nx: y\r\ndata: 2\r\n\r\n",
                "z",
                ": c\r\nid: 7\r\ndata: z\r\nx: y\r\n\r\n",
            ),
            ("data: 1\r\r", "a\nb", "data: a\rdata: b\r\r"),
            ("data: 1\n\n", "a\r\n\r\n", "data: a\ndata: \ndata: \n\n"),
            ("data: 1\n\n", "", "data: \n\n"),
            ("data: 1\rdata: 2\n\n", "3", "data: 3\n\n"),
            ("datax: 1\nevent: data\n\n", "2", "datax: 1\nevent: data\n\n"),
        ] {
            let (found, _) = events(&[before.as_bytes()]);
            assert_eq!(found[0].with_data(data.as_bytes()), after.as_bytes(), "{before:?}");
        }
    }

    /// Spec: K4
    #[test]
    fn a_comment_goes_between_events_only() {
        for (stream, between) in [
            ("", true),
            ("\n", true),
            ("data: 1\n\n", true),
            ("data: 1\r\n\r\n", true),
            ("data: 1\r\r", true),
            (": ping\n\n", true),
            ("data: 1\r\n\n", true),
            ("data: 1\r\r\n", true),
            ("data: 1\n\r\n", true),
            ("d", false),
            ("data: 1", false),
            ("data: 1\n", false),
            ("data: 1\r", false),
            ("data: 1\r\n", false),
            // Here LF may follow.
            ("data: 1\r\n\r", false),
            ("data: 1\n\nid", false),
            ("data: 1\n\ni", false),
            ("data: 1\n\n:\n", false),
        ] {
            let mut whole = Boundary::new();
            whole.pass(stream.as_bytes());
            let mut pieces = Boundary::default();
            for byte in stream.as_bytes() {
                pieces.pass(&[*byte]);
                pieces.pass(b"");
            }
            assert_eq!(
                (whole.is_between(), pieces.is_between()),
                (between, between),
                "{stream:?}"
            );
        }
    }

    #[test]
    fn an_event_without_an_end_is_not_collected_for_ever() {
        let mut reader = Events::new(100);
        let mut pushed = 0;
        let refused = loop {
            reader.push(Bytes::from_static(b"data: no end "));
            pushed += 13;
            match reader.next() {
                Ok(None) => assert!(pushed <= 100),
                other => break other,
            }
        };
        assert_eq!((refused, pushed), (Err(TooLarge), 104));
        assert_eq!(reader.into_rest().len(), 104, "nothing is lost");
        let mut reader = Events::new(100);
        reader.push(Bytes::from(format!("data: {}\n\n", "x".repeat(100))));
        assert_eq!(reader.next(), Err(TooLarge), "in one piece neither");
        let mut reader = Events::new(100);
        reader.push(Bytes::from("data: 1\n\n".repeat(1000)));
        let mut count = 0;
        while reader.next().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(
            (count, reader.is_idle()),
            (1000, true),
            "many small ones are no large one"
        );
    }

    #[test]
    fn an_event_in_one_piece_is_not_copied() {
        let chunk = Bytes::from_static(b"data: 1\n\ndata: 2\n\n");
        let mut reader = Events::new(100);
        reader.push(chunk.clone());
        reader.next().unwrap().unwrap();
        let second = reader.next().unwrap().unwrap();
        assert_eq!(second.raw().as_ptr(), chunk.slice(9..).as_ptr());
        assert_eq!(reader.finish(), None);
    }

    /// Lines as servers write them, and as they do not.
    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            4 => Just("data: {\"a\":1}"),
            2 => Just("event: endpoint"),
            1 => Just("event"),
            1 => Just("id: 7"),
            1 => Just(": ping"),
            1 => Just("data"),
            1 => Just("data:x: y"),
            1 => Just("\u{feff}"),
            1 => Just(""),
        ];
        let end =
            prop_oneof![3 => Just("\n"), 2 => Just("\r\n"), 2 => Just("\r"), 3 => Just("\n\n"), 1 => Just("\r\n\r\n")];
        proptest::collection::vec((part, end), 0..12).prop_map(|lines| {
            lines
                .iter()
                .flat_map(|(part, end)| [part.as_bytes(), end.as_bytes()].concat())
                .collect()
        })
    }

    proptest! {
        /// Spec: K7
        #[test]
        fn any_split_of_a_stream_tells_the_same(stream in streams(), cuts in proptest::collection::vec(0_usize..200, 0..12)) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= stream.len()).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            let (whole, whole_rest) = events(&[&stream]);
            let (split, split_rest) = events(&pieces);
            prop_assert_eq!(told(&whole), told(&split));
            let letter: Vec<_> = told(&whole).into_iter().map(|(name, data, _)| (name, data)).collect();
            prop_assert_eq!(letter, by_the_letter(&stream));
            for (found, rest) in [(whole, whole_rest), (split, split_rest)] {
                let mut all: Vec<u8> = found.iter().flat_map(|event| event.raw().to_vec()).collect();
                all.extend_from_slice(&rest);
                prop_assert_eq!(&all, &stream);
            }
        }

        /// Spec: K4
        #[test]
        fn a_comment_at_a_boundary_changes_nothing(stream in streams(), at in 0_usize..200) {
            let at = at.min(stream.len());
            let mut boundary = Boundary::new();
            boundary.pass(&stream[..at]);
            // Before a byte order mark the proxy takes the mark away.
            if boundary.is_between() && !(at == 0 && stream.starts_with(BYTE_ORDER_MARK)) {
                let with = [&stream[..at], KEEP_ALIVE, &stream[at..]].concat();
                prop_assert_eq!(by_the_letter(&with), by_the_letter(&stream));
            }
        }

        #[test]
        fn other_data_is_what_is_read_then(stream in streams(), data in "[a-z\\n]{0,20}") {
            let (found, _) = events(&[&stream]);
            for event in found.iter().filter(|event| event.data().is_some()) {
                let new = event.with_data(data.as_bytes());
                let (again, rest) = events(&[&new]);
                prop_assert!(rest.is_empty());
                let again = told(&again);
                prop_assert_eq!(again.len(), 1);
                prop_assert_eq!(&again[0].1, data.as_bytes());
                prop_assert_eq!(again[0].0.as_slice(), event.name());
            }
        }
    }
}
