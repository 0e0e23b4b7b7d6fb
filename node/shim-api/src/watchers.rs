//! Who listens to a container besides its log: clients of a Unix socket, each told what comes after it was taken in. That it
//! is, an empty frame says: what is said before is not heard. The socket may be made when somebody asks for it: a process of
//! thousands of containers, to whom nobody listens, has no descriptor for each.
//!
//! A client that takes nothing for a while is dropped: it must not stop the container for ever, and where the container
//! cannot be made to wait, not at all.

use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::attach::{FRAME_LIMIT, frame};
use crate::stdio::LogStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Clients at once; further ones are turned away.
const CLIENTS: usize = 16;
/// Frames on their way to one client.
const QUEUE: usize = 64;
/// How long the container waits for a client that is slow.
const SLOW_LIMIT: Duration = Duration::from_secs(10);

type Clients = Arc<Mutex<Vec<mpsc::Sender<Arc<[u8]>>>>>;

/// The clients of one container's socket, which is closed with the last clone of this at the latest: a container that is
/// not to be has no end.
#[derive(Debug, Clone)]
pub struct Watchers(Arc<Socket>);

#[derive(Debug)]
struct Socket {
    clients: Clients,
    path: PathBuf,
    door: Mutex<Door>,
}

#[derive(Debug)]
enum Door {
    /// Nobody asked for it yet.
    Absent,
    Open(AbortHandle),
    /// What is at the path now may be another container's.
    Closed,
}

impl Watchers {
    /// Listens at `path`, in the place of whatever an earlier container left there.
    ///
    /// # Errors
    /// When a socket cannot be made there.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let watchers = Self::absent(path);
        watchers.open()?;
        Ok(watchers)
    }

    /// Will listen at `path` when somebody asks for it.
    pub fn absent(path: &Path) -> Self {
        Watchers(Arc::new(Socket {
            clients: Clients::default(),
            path: path.into(),
            door: Mutex::new(Door::Absent),
        }))
    }

    /// Listens from now on, if it did not before.
    ///
    /// # Errors
    /// When a socket cannot be made, or the container has ended.
    pub fn open(&self) -> io::Result<()> {
        let mut door = lock(&self.0.door);
        match *door {
            Door::Open(_) => return Ok(()),
            Door::Closed => return Err(io::Error::other("the container has ended")),
            Door::Absent => {}
        }
        let listener = bind(&self.0.path)?;
        *door = Door::Open(tokio::spawn(accept(listener, Arc::clone(&self.0.clients))).abort_handle());
        Ok(())
    }

    /// Tells everyone; a container without clients pays one look for it.
    pub async fn tell(&self, stream: LogStream, bytes: &[u8]) {
        let clients = lock(&self.0.clients).clone();
        if clients.is_empty() {
            return;
        }
        let frame: Arc<[u8]> = frame(stream, bytes).into();
        let mut lost = false;
        for client in &clients {
            if client.send_timeout(Arc::clone(&frame), SLOW_LIMIT).await.is_err() {
                lost = true;
            }
        }
        if lost {
            lock(&self.0.clients).retain(|client| !client.is_closed() && client.capacity() > 0);
        }
    }

    /// Tells everyone without waiting: who is too far behind is dropped.
    pub fn tell_now(&self, stream: LogStream, bytes: &[u8]) {
        let mut clients = lock(&self.0.clients);
        if clients.is_empty() {
            return;
        }
        for part in bytes.chunks(FRAME_LIMIT) {
            let frame: Arc<[u8]> = frame(stream, part).into();
            clients.retain(|client| client.try_send(Arc::clone(&frame)).is_ok());
        }
    }

    /// The container has ended: its clients hear that when they have heard all.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Socket {
    fn close(&self) {
        let Door::Open(accepting) = std::mem::replace(&mut *lock(&self.door), Door::Closed) else {
            return;
        };
        accepting.abort();
        lock(&self.clients).clear();
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "a container's socket stays");
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.close();
    }
}

/// In the place of whatever an earlier container left there.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = StdListener::bind(path)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: UnixListener, clients: Clients) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept a client of a container's output");
                tokio::time::sleep(SLOW_LIMIT).await;
                continue;
            }
        };
        let mut clients = lock(&clients);
        clients.retain(|client| !client.is_closed());
        if clients.len() < CLIENTS {
            let (sender, queue) = mpsc::channel(QUEUE);
            let taken_in: Arc<[u8]> = frame(LogStream::Stdout, &[]).into();
            // A queue nobody else knows yet has room.
            if sender.try_send(taken_in).is_err() {
                continue;
            }
            clients.push(sender);
            tokio::spawn(serve(stream, queue));
        }
    }
}

async fn serve(stream: UnixStream, mut queue: mpsc::Receiver<Arc<[u8]>>) {
    let (mut reader, mut writer) = stream.into_split();
    let writing = async {
        while let Some(frame) = queue.recv().await {
            if writer.write_all(&frame).await.is_err() {
                return;
            }
        }
    };
    let mut nothing = [0; 1];
    tokio::select! {
        () = writing => {}
        // Clients say nothing: this is their end.
        _ = reader.read(&mut nothing) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::next;

    #[tokio::test]
    async fn a_client_hears_what_comes_after_it_and_the_end() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("socket");
        let watchers = Watchers::listen(&path).unwrap();
        watchers.tell_now(LogStream::Stdout, b"too early");
        let mut client = UnixStream::connect(&path).await.unwrap();
        let taken_in = next(&mut client).await.unwrap();
        assert_eq!(taken_in, Some((LogStream::Stdout, Vec::new())));
        watchers.tell_now(LogStream::Stderr, b"now");
        watchers.tell(LogStream::Stdout, b"later").await;
        watchers.close();
        let mut heard = Vec::new();
        while let Some(frame) = next(&mut client).await.unwrap() {
            heard.push(frame);
        }
        let expected = [
            (LogStream::Stderr, b"now".to_vec()),
            (LogStream::Stdout, b"later".to_vec()),
        ];
        assert_eq!(heard, expected);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn nothing_stays_of_a_container_that_is_not_to_be() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("socket");
        let watchers = Watchers::listen(&path).unwrap();
        let mut client = UnixStream::connect(&path).await.unwrap();
        assert!(next(&mut client).await.unwrap().is_some());
        let accepting = match &*lock(&watchers.0.door) {
            Door::Open(accepting) => accepting.clone(),
            other => panic!("{other:?}"),
        };
        let told = watchers.clone();
        drop(watchers);
        assert!(path.exists());
        drop(told);
        assert!(!path.exists());
        assert_eq!(next(&mut client).await.unwrap(), None);
        while !accepting.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn nobody_listens_until_somebody_asks() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("socket");
        let watchers = Watchers::absent(&path);
        watchers.tell_now(LogStream::Stdout, b"to nobody");
        assert!(!path.exists());
        for _ in 0..2 {
            watchers.open().unwrap();
            let mut client = UnixStream::connect(&path).await.unwrap();
            assert!(next(&mut client).await.unwrap().is_some());
        }
        watchers.close();
        assert!(!path.exists());
        assert!(watchers.open().is_err(), "of a container that has ended");
    }

    #[tokio::test]
    async fn what_is_closed_leaves_its_successor_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("socket");
        let watchers = Watchers::listen(&path).unwrap();
        watchers.close();
        let _successor = Watchers::listen(&path).unwrap();
        drop(watchers);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_dropped() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("socket");
        let watchers = Watchers::listen(&path).unwrap();
        let _client = UnixStream::connect(&path).await.unwrap();
        while lock(&watchers.0.clients).is_empty() {
            tokio::task::yield_now().await;
        }
        while !lock(&watchers.0.clients).is_empty() {
            watchers.tell_now(LogStream::Stdout, &[0; FRAME_LIMIT]);
            tokio::task::yield_now().await;
        }
    }
}
