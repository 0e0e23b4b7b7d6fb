//! The CRI log format, as the kubelet reads it: `<RFC3339Nano> stdout|stderr F|P <line>`.
//!
//! Owns the splitting into lines and parts, and that lines never mix. Refuses to know files and reading.

use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use jiff::Timestamp;
use tokio::io::AsyncWrite;

use super::rotating::Rotating;
use super::{StdioError, Turner};

/// Longest content of one log line; what is longer becomes partial (`P`) lines (containerd's default).
const LINE_LIMIT: usize = 16 * 1024;

/// Which of the two streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

impl LogStream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One log file, shared by the streams written to it; lines never mix.
#[derive(Debug)]
pub struct CriLog {
    file: Mutex<Rotating>,
}

impl CriLog {
    /// Opens a log to append to, making it if needed; a symbolic link is refused. A full one is turned over by its writer, or by
    /// `turner`.
    pub fn open(path: &Path, turner: Option<&Turner>) -> Result<Arc<Self>, StdioError> {
        Ok(Arc::new(Self {
            file: Mutex::new(Rotating::open(path, turner)?),
        }))
    }

    /// A writer for one stream.
    pub fn writer(self: &Arc<Self>, stream: LogStream) -> CriWriter {
        CriWriter {
            log: Arc::clone(self),
            stream,
            pending: Vec::new(),
        }
    }

    fn file(&self) -> MutexGuard<'_, Rotating> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.file().append(lines)
    }
}

/// Turns a stream of bytes into CRI log lines. Every write is taken whole; a line is on disk when its newline has
/// been written, or [`LINE_LIMIT`] bytes of it, or at [`CriWriter::finish`] (also done on drop).
#[derive(Debug)]
pub struct CriWriter {
    log: Arc<CriLog>,
    stream: LogStream,
    /// The beginning of a line whose end has not come, shorter than [`LINE_LIMIT`].
    pending: Vec<u8>,
}

impl CriWriter {
    /// Lets go of the file, if another opens it for its writer, until there is something to write.
    pub fn rest(&self) {
        self.log.file().rest();
    }

    /// Writes what is left without a newline as a partial line, as containerd does at the end of a stream.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut out = Vec::with_capacity(self.pending.len() + 64);
        line(&mut out, self.stream, Timestamp::now(), 'P', &self.pending);
        self.pending.clear();
        self.log.append(&out)
    }
}

fn line(out: &mut Vec<u8>, stream: LogStream, at: Timestamp, tag: char, content: &[u8]) {
    out.extend_from_slice(format!("{at:.9} {} {tag} ", stream.name()).as_bytes());
    out.extend_from_slice(content);
    out.push(b'\n');
}

/// The lines which `bytes` completes, given what was pending; updates what is pending.
fn split(pending: &mut Vec<u8>, bytes: &[u8], stream: LogStream, at: Timestamp) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 64);
    let mut rest = bytes;
    while !rest.is_empty() {
        let room = LINE_LIMIT - pending.len();
        let newline = rest.iter().take(room + 1).position(|&b| b == b'\n');
        match newline {
            Some(end) => {
                pending.extend_from_slice(&rest[..end]);
                line(&mut out, stream, at, 'F', pending);
                pending.clear();
                rest = &rest[end + 1..];
            }
            None if rest.len() > room => {
                pending.extend_from_slice(&rest[..room]);
                line(&mut out, stream, at, 'P', pending);
                pending.clear();
                rest = &rest[room..];
            }
            None => {
                pending.extend_from_slice(rest);
                break;
            }
        }
    }
    out
}

impl Write for CriWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let lines = split(&mut self.pending, bytes, self.stream, Timestamp::now());
        self.log.append(&lines)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncWrite for CriWriter {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.get_mut().write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().finish())
    }
}

impl Drop for CriWriter {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::warn!(%error, "the last part of a log line is lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tails(bytes: &[u8]) -> Vec<String> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines()
            .map(|l| l.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    #[test]
    fn lines_are_kept_until_they_end() {
        let mut pending = Vec::new();
        let at = Timestamp::UNIX_EPOCH;
        assert!(split(&mut pending, b"ab", LogStream::Stdout, at).is_empty());
        let out = split(&mut pending, b"c\n\nd", LogStream::Stdout, at);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "1970-01-01T00:00:00.000000000Z stdout F abc\n1970-01-01T00:00:00.000000000Z stdout F \n"
        );
        assert_eq!(pending, b"d");
    }

    #[test]
    fn long_lines_become_parts() {
        let mut pending = Vec::new();
        let mut bytes = vec![b'x'; LINE_LIMIT + 1];
        bytes.push(b'\n');
        let out = tails(&split(
            &mut pending,
            &bytes,
            LogStream::Stderr,
            Timestamp::UNIX_EPOCH,
        ));
        assert_eq!(out[0], format!("stderr P {}", "x".repeat(LINE_LIMIT)));
        assert_eq!(out[1], "stderr F x");
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_full() {
        let mut bytes = vec![b'x'; LINE_LIMIT];
        bytes.push(b'\n');
        let out = tails(&split(
            &mut Vec::new(),
            &bytes,
            LogStream::Stderr,
            Timestamp::UNIX_EPOCH,
        ));
        assert_eq!(out.len(), 1);
        assert!(out[0].starts_with("stderr F"));
    }

    #[test]
    fn the_end_without_newline_is_partial() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("0.log");
        let log = CriLog::open(&path, None).unwrap();
        let mut writer = log.writer(LogStream::Stdout);
        writer.write_all(b"half").unwrap();
        drop(writer);
        assert_eq!(tails(&std::fs::read(&path).unwrap()), ["stdout P half"]);
    }

    #[test]
    fn streams_at_the_same_time_never_mix() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("0.log");
        let log = CriLog::open(&path, None).unwrap();
        std::thread::scope(|scope| {
            for stream in [LogStream::Stdout, LogStream::Stderr] {
                let mut writer = log.writer(stream);
                scope.spawn(move || (0..1000).for_each(|_| writer.write_all(b"0123456789\n").unwrap()));
            }
        });
        let lines = tails(&std::fs::read(&path).unwrap());
        assert_eq!(lines.len(), 2000);
        assert!(lines.iter().all(|l| l.ends_with(" F 0123456789")), "a mixed line");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_however_it_is_cut(text in "[ab\n]{0,200}", cuts in prop::collection::vec(0usize..50, 0..20)) {
            let (mut pending, mut out) = (Vec::new(), Vec::new());
            let mut rest = text.as_bytes();
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                out.extend(split(&mut pending, now, LogStream::Stdout, Timestamp::UNIX_EPOCH));
                rest = later;
            }
            out.extend(split(&mut pending, rest, LogStream::Stdout, Timestamp::UNIX_EPOCH));
            let mut seen: String = tails(&out).iter().map(|l| format!("{}\n", &l["stdout F ".len()..])).collect();
            seen.push_str(std::str::from_utf8(&pending).unwrap());
            prop_assert_eq!(seen, text);
        }
    }
}
