//! One opened output of a container.

use std::fs::File;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::unix::pipe;

use super::cri::{CriLog, CriWriter, LogStream};
use super::{StdioError, StdioUri, Turner, append, fifo};

/// Where one output stream goes. Files take writes at once; a FIFO may make an async writer wait for its reader,
/// and gives a synchronous one [`io::ErrorKind::WouldBlock`].
#[derive(Debug)]
pub enum Sink {
    Null,
    Fifo(pipe::Sender),
    File(File),
    Cri(CriWriter),
}

/// Both outputs of a container.
#[derive(Debug)]
pub struct Sinks {
    pub stdout: Sink,
    pub stderr: Sink,
}

impl Sinks {
    /// Opens both; two equal `cri://` addresses share one file, line by line. FIFOs need a tokio runtime.
    pub fn open(stdout: &str, stderr: &str) -> Result<Self, StdioError> {
        Self::open_turned_by(None, stdout, stderr)
    }

    /// The same for writers who have another turn full logs over.
    pub fn open_turned_by(turner: Option<&Turner>, stdout: &str, stderr: &str) -> Result<Self, StdioError> {
        let (out, err) = (StdioUri::parse(stdout)?, StdioUri::parse(stderr)?);
        let same = out == err;
        let (stdout, log) = open(out, LogStream::Stdout, turner)?;
        let stderr = match log {
            Some(log) if same => Sink::Cri(log.writer(LogStream::Stderr)),
            _ => open(err, LogStream::Stderr, turner)?.0,
        };
        Ok(Self { stdout, stderr })
    }
}

impl Sink {
    /// Nothing is going to be written for a while: what can be opened again then is closed.
    pub fn rest(&self) {
        if let Self::Cri(log) = self {
            log.rest();
        }
    }
}

fn open(
    uri: StdioUri,
    stream: LogStream,
    turner: Option<&Turner>,
) -> Result<(Sink, Option<Arc<CriLog>>), StdioError> {
    Ok(match uri {
        StdioUri::Null => (Sink::Null, None),
        StdioUri::Fifo(path) => (Sink::Fifo(fifo::writer(&path)?), None),
        StdioUri::File(path) => (Sink::File(append(&path)?), None),
        StdioUri::Cri(path) => {
            let log = CriLog::open(&path, turner)?;
            (Sink::Cri(log.writer(stream)), Some(log))
        }
    })
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Null => Ok(bytes.len()),
            Sink::Fifo(pipe) => pipe.try_write(bytes),
            Sink::File(file) => file.write(bytes),
            Sink::Cri(log) => log.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Sink::Fifo(pipe) => Pin::new(pipe).poll_write(cx, bytes),
            other => Poll::Ready(other.write(bytes)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.get_mut() {
            Sink::Cri(log) => log.finish(),
            _ => Ok(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn both_streams_share_one_cri_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("0.log");
        let address = StdioUri::cri(&path);
        let mut sinks = Sinks::open(&address, &address).unwrap();
        Write::write_all(&mut sinks.stdout, b"out\n").unwrap();
        AsyncWriteExt::write_all(&mut sinks.stderr, b"err\n")
            .await
            .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let tails: Vec<_> = text.lines().map(|l| l.split_once(' ').unwrap().1).collect();
        assert_eq!(tails, ["stdout F out", "stderr F err"]);
    }

    #[tokio::test]
    async fn a_reader_on_its_way_misses_nothing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("f");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let address = path.to_str().unwrap().to_owned();
        let writing = async {
            let held = super::super::readers([&address, ""]).await.unwrap();
            assert_eq!(held.len(), 1);
            let mut sink = Sinks::open(&address, "").unwrap().stdout;
            AsyncWriteExt::write_all(&mut sink, b"abc").await.unwrap();
        };
        let reading = tokio::task::spawn_blocking({
            let path = path.clone();
            move || std::fs::read(path).unwrap()
        });
        assert_eq!(tokio::join!(writing, reading).1.unwrap(), b"abc");
        assert!(super::super::readers([&address, ""]).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_fifo_carries_bytes_both_ways() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("f");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let address = path.to_str().unwrap();
        let mut sink = Sinks::open(address, "").unwrap().stdout;
        let mut input = super::super::open_input(address).unwrap().unwrap();
        AsyncWriteExt::write_all(&mut sink, b"abc").await.unwrap();
        let mut got = [0; 3];
        input.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"abc");
    }
}
