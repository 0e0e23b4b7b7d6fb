//! A process's standard streams: the ends it gets, and the pumps that carry what it writes to where it belongs.
//!
//! Nothing here uses tokio's blocking pool: the shim must stay a single thread (see `sys::clone`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use amphipod_shim_api::stdio::{self, LogStream, Sink, Sinks, StdioError, StdioUri};
use nix::fcntl::OFlag;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::task::JoinSet;

use crate::init::ChildStreams;
use crate::null;
use amphipod_shim_api::terminal::{Master, type_in};
use amphipod_shim_api::watchers::Watchers;

/// One read from a container's pipe; the pipe itself holds 64 KiB.
const READ: usize = 16 * 1024;
/// How long the output of an ended process is waited for: longer only if something else holds its streams open.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// How often that is waited for while output is on its way to a slow reader, who would lose it otherwise.
const SLOW_READER_ROUNDS: usize = 30;

/// Addresses of the streams, as Create and Exec give them.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
    /// Where clients hear what the process says.
    pub attach: Option<PathBuf>,
}

/// Why streams could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error(transparent)]
    Stdio(#[from] StdioError),
    #[error("cannot make a standard stream: {0}")]
    Io(#[from] io::Error),
}

/// Streams before the process is there.
#[derive(Debug)]
pub struct Opened {
    pub child: ChildStreams,
    pub streams: Streams,
    /// Where a terminal's output goes.
    terminal: Option<Sink>,
}

/// The shim's side of the streams.
#[derive(Debug, Default)]
pub struct Streams {
    pumps: JoinSet<()>,
    /// Pumps that have read something and not delivered it yet.
    delivering: Arc<AtomicUsize>,
    /// Keeps the standard input from ending; dropped by CloseIO.
    pub stdin: Option<File>,
    pub master: Option<Arc<Master>>,
    watchers: Option<Watchers>,
}

/// Waits for those who are to read; to be kept until everything is open.
pub async fn readers(addresses: &Addresses) -> Result<Vec<File>, StreamError> {
    Ok(stdio::readers([&addresses.stdout, &addresses.stderr]).await?)
}

/// Opens everything; pumps of pipes start at once.
pub fn open(addresses: &Addresses) -> Result<Opened, StreamError> {
    let sinks = Sinks::open(&addresses.stdout, &addresses.stderr)?;
    let mut streams = Streams {
        watchers: addresses.attach.as_deref().map(Watchers::listen).transpose()?,
        ..Streams::default()
    };
    if addresses.terminal {
        streams.stdin = hold(&addresses.stdin)?;
        return Ok(Opened {
            child: ChildStreams::default(),
            streams,
            terminal: Some(sinks.stdout),
        });
    }
    let stdin = match hold(&addresses.stdin)? {
        None => null::open(OFlag::O_RDONLY)?,
        Some(held) => {
            // With both ends held, opening for reading does not wait for a writer.
            let end = OpenOptions::new().read(true).open(path_of(&addresses.stdin)?)?;
            streams.stdin = Some(held);
            end.into()
        }
    };
    let stdout = streams.output(sinks.stdout, LogStream::Stdout)?;
    let stderr = streams.output(sinks.stderr, LogStream::Stderr)?;
    let child = ChildStreams {
        stdin: Some(stdin),
        stdout: Some(stdout),
        stderr: Some(stderr),
        preserved: 0,
    };
    Ok(Opened {
        child,
        streams,
        terminal: None,
    })
}

fn path_of(address: &str) -> Result<std::path::PathBuf, StdioError> {
    match StdioUri::parse(address)? {
        StdioUri::Fifo(path) => Ok(path),
        _ => Err(StdioError::BadAddress(address.into())),
    }
}

fn hold(address: &str) -> Result<Option<File>, StreamError> {
    if address.is_empty() {
        return Ok(None);
    }
    let path = path_of(address)?;
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path);
    Ok(Some(open.map_err(|source| StdioError::Open { path, source })?))
}

/// Carries bytes until the pipe ends. When they cannot be kept (a full disk), they are dropped and that is said once:
/// a container must not stop because its log does.
async fn pump(mut from: pipe::Receiver, mut to: Outlet) {
    let mut buffer = vec![0; READ];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => break,
            Ok(length) => to.deliver(&buffer[..length]).await,
            Err(error) => {
                tracing::warn!(%error, "read a container's output");
                break;
            }
        }
    }
    if let Err(error) = to.sink.shutdown().await {
        tracing::warn!(%error, "finish a container's log");
    }
}

/// Where a stream's bytes go.
struct Outlet {
    sink: Sink,
    stream: LogStream,
    watchers: Option<Watchers>,
    failed: bool,
    delivering: Arc<AtomicUsize>,
}

impl Outlet {
    async fn deliver(&mut self, bytes: &[u8]) {
        self.delivering.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.sink.write_all(bytes).await
            && !self.failed
        {
            tracing::warn!(%error, "a container's output is lost");
            self.failed = true;
        }
        if let Some(watchers) = &self.watchers {
            watchers.tell(self.stream, bytes).await;
        }
        self.delivering.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Streams {
    fn outlet(&self, sink: Sink, stream: LogStream) -> Outlet {
        Outlet {
            sink,
            stream,
            watchers: self.watchers.clone(),
            failed: false,
            delivering: Arc::clone(&self.delivering),
        }
    }

    /// A file is given to the process as it is; everything else gets a pipe and a pump.
    fn output(&mut self, sink: Sink, stream: LogStream) -> io::Result<OwnedFd> {
        match sink {
            Sink::Null => null::open(OFlag::O_WRONLY),
            Sink::File(file) => Ok(file.into()),
            sink => {
                let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
                nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
                let outlet = self.outlet(sink, stream);
                self.pumps
                    .spawn(pump(pipe::Receiver::from_owned_fd(ours)?, outlet));
                Ok(theirs)
            }
        }
    }

    /// Connects a terminal's master, once the container has made it.
    pub fn connect_terminal(&mut self, master: OwnedFd, output: Option<Sink>) -> io::Result<()> {
        let master = Arc::new(Master::new(master)?);
        let outlet = self.outlet(output.unwrap_or(Sink::Null), LogStream::Stdout);
        self.pumps.spawn(from_terminal(Arc::clone(&master), outlet));
        if let Some(stdin) = &self.stdin {
            let input = pipe::Receiver::from_file(stdin.try_clone()?)?;
            // Input ends with the process, not the other way round: it is not waited for.
            tokio::spawn(type_in(input, Arc::downgrade(&master), |_| {}));
        }
        self.master = Some(master);
        Ok(())
    }

    /// Waits for the output of an ended process to be where it belongs.
    pub async fn drain(&mut self) {
        self.stdin = None;
        for _ in 0..SLOW_READER_ROUNDS {
            let all = async { while self.pumps.join_next().await.is_some() {} };
            let ended = tokio::time::timeout(DRAIN_LIMIT, all).await.is_ok();
            if ended || self.delivering.load(Ordering::Relaxed) == 0 {
                break;
            }
        }
        if !self.pumps.is_empty() {
            tracing::debug!("a stream is still held open after its process ended");
            self.pumps.abort_all();
        }
        if let Some(watchers) = self.watchers.take() {
            watchers.close();
        }
        self.master = None;
    }
}

impl Opened {
    /// Takes the parts apart once the child has its ends.
    pub fn connect(self, master: Option<OwnedFd>) -> io::Result<Streams> {
        let mut streams = self.streams;
        if let Some(master) = master {
            streams.connect_terminal(master, self.terminal)?;
        }
        Ok(streams)
    }
}

async fn from_terminal(master: Arc<Master>, mut to: Outlet) {
    let mut buffer = vec![0; READ];
    while let Ok(length @ 1..) = master.read(&mut buffer).await {
        to.deliver(&buffer[..length]).await;
    }
}
