//! Lines of a CRI log file (`<RFC3339Nano> stdout|stderr F|P <text>`) and what of them is shown. Pure.

use jiff::Timestamp;

use super::query::{LogQuery, Stream};

/// The longest line believed: a runtime splits at 16 KiB, so four times that is no log line. The rest of
/// such a line is skipped.
const LINE_LIMIT: usize = 64 * 1024;

/// One line of the file.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub time: &'a str,
    pub stream: Stream,
    /// The text goes on in the next record of the stream.
    pub partial: bool,
    pub text: &'a [u8],
}

/// Reads a line without its newline; None for what is not in the format.
pub fn parse(line: &[u8]) -> Option<Record<'_>> {
    let mut fields = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(fields.next()?)
        .ok()
        .filter(|t| !t.is_empty())?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // The tag may carry more after a colon.
    let partial = match fields.next()?.split(|b| *b == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(Record {
        time,
        stream,
        partial,
        text: fields.next().unwrap_or_default(),
    })
}

/// Turns bytes of the file, in any portions, into bytes to show.
#[derive(Debug)]
pub struct Renderer {
    query: LogQuery,
    /// The beginning of a line whose end was not read yet.
    pending: Vec<u8>,
    /// In a line too long to be one.
    skipping: bool,
    /// Per stream, whether its last record was partial: the next one continues its line.
    continues: [bool; 2],
    /// Bytes that may still be shown.
    left: u64,
}

impl Renderer {
    pub fn new(query: LogQuery) -> Self {
        let left = query.limit_bytes.unwrap_or(u64::MAX);
        Self {
            query,
            pending: Vec::new(),
            skipping: false,
            continues: [false; 2],
            left,
        }
    }

    /// Whether all that may be shown was.
    pub fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Shows the lines that end in these bytes.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            self.keep(&rest[..end]);
            self.end_line(out);
            rest = &rest[end + 1..];
        }
        self.keep(rest);
    }

    /// Shows what is left without a newline at the end of the file.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.end_line(out);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.pending.len() + bytes.len() > LINE_LIMIT {
            self.skipping = true;
            self.pending.clear();
        }
        if !self.skipping {
            self.pending.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.pending);
        if !std::mem::take(&mut self.skipping)
            && let Some(record) = parse(&line)
        {
            self.show(&record, out);
        }
        self.pending = line;
        self.pending.clear();
    }

    fn show(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        let continues = std::mem::replace(&mut self.continues[record.stream as usize], record.partial);
        if !self.is_wanted(record) {
            return;
        }
        let start = out.len();
        if self.query.timestamps && !continues {
            out.extend_from_slice(record.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(record.text);
        if !record.partial {
            out.push(b'\n');
        }
        let length = (out.len() - start) as u64;
        if length > self.left {
            out.truncate(start + usize::try_from(self.left).unwrap_or(usize::MAX));
        }
        self.left = self.left.saturating_sub(length);
    }

    fn is_wanted(&self, record: &Record<'_>) -> bool {
        let stream = self.query.stream.is_none_or(|wanted| wanted == record.stream);
        stream && self.query.since.is_none_or(|since| is_since(record.time, since))
    }
}

/// A time that cannot be read is not kept back.
fn is_since(time: &str, since: Timestamp) -> bool {
    time.parse::<Timestamp>().map_or(true, |time| time >= since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOG: &str = "2026-01-01T00:00:00.5Z stdout F one\n2026-01-01T00:00:01Z stderr F two\n\
        2026-01-01T00:00:02Z stdout P thr\n2026-01-01T00:00:03Z stderr F between\n2026-01-01T00:00:04Z stdout F ee\n\
        junk\n2026-01-01T00:00:05Z stdout F \n";

    fn show(query: LogQuery, log: &str) -> String {
        let (mut renderer, mut out) = (Renderer::new(query), Vec::new());
        renderer.feed(log.as_bytes(), &mut out);
        renderer.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_shown_by_the_query() {
        let all = LogQuery::default;
        let since = Some("2026-01-01T00:00:04Z".parse().unwrap());
        for (query, expected) in [
            (all(), "one\ntwo\nthrbetween\nee\n\n"),
            (
                LogQuery {
                    stream: Some(Stream::Stdout),
                    ..all()
                },
                "one\nthree\n\n",
            ),
            (
                LogQuery {
                    stream: Some(Stream::Stderr),
                    ..all()
                },
                "two\nbetween\n",
            ),
            (LogQuery { since, ..all() }, "ee\n\n"),
            (
                LogQuery {
                    limit_bytes: Some(6),
                    ..all()
                },
                "one\ntw",
            ),
            (
                LogQuery {
                    timestamps: true,
                    stream: Some(Stream::Stdout),
                    ..all()
                },
                "2026-01-01T00:00:00.5Z one\n2026-01-01T00:00:02Z three\n2026-01-01T00:00:05Z \n",
            ),
        ] {
            assert_eq!(show(query.clone(), LOG), expected, "{query:?}");
        }
    }

    #[test]
    fn a_line_that_never_ends_is_skipped_and_holds_no_memory() {
        let (mut renderer, mut out) = (Renderer::new(LogQuery::default()), Vec::new());
        for _ in 0..1_000 {
            renderer.feed(&[b'x'; 10_000], &mut out);
            assert!(renderer.pending.len() <= LINE_LIMIT);
        }
        renderer.feed(b"\n2026-01-01T00:00:00Z stdout F next\n", &mut out);
        assert_eq!(out, b"next\n");
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(bytes: Vec<u8>) {
            parse(&bytes);
        }

        #[test]
        fn portions_make_no_difference(log in "(2026-01-01T00:00:0[0-9]Z std(out|err) [FP] [a-z \n]{0,9}\n){0,6}",
            cut in 0usize..200, limit in proptest::option::of(0u64..50)) {
            let query = LogQuery { limit_bytes: limit, timestamps: true, ..LogQuery::default() };
            let (first, second) = log.as_bytes().split_at(cut.min(log.len()));
            let (mut renderer, mut out) = (Renderer::new(query.clone()), Vec::new());
            renderer.feed(first, &mut out);
            renderer.feed(second, &mut out);
            renderer.finish(&mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), show(query, &log));
        }

        #[test]
        fn what_was_split_at_any_length_is_one_line_again(text in "[a-z ]{0,60}", size in 1usize..9) {
            let parts: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let mut log = String::new();
            for part in &parts {
                log += &format!("2026-01-01T00:00:00Z stdout P {}\n", std::str::from_utf8(part).unwrap());
            }
            log += "2026-01-01T00:00:00Z stdout F \n";
            prop_assert_eq!(show(LogQuery::default(), &log), format!("{text}\n"));
        }
    }
}
