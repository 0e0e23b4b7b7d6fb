//! Files that are replaced as a whole: a reader sees the old one or the new one. Who waits for the disk awaits it: a slow one
//! takes tens of milliseconds, which would be other Pods' time on the threads that serve them all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces `path` by a file holding `bytes`, synced before it takes the name, and the name with it: without that a loss of power
/// may bring the old file back.
pub async fn write_atomic(path: &Path, bytes: Vec<u8>) -> io::Result<()> {
    let path = path.to_owned();
    aside(move || {
        replace(&path, &bytes, File::sync_data)?;
        sync_name(&path)
    })
    .await
}

/// The same without the sync, which takes milliseconds: for what outlives the agent and need not outlive the machine. One that
/// loses power may leave an empty file.
pub fn write_of_this_boot(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, |_| Ok(()))
}

/// Brings to the disk a file that was written without.
pub async fn sync(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    aside(move || {
        File::open(&path)?.sync_data()?;
        sync_name(&path)
    })
    .await
}

/// Where blocking holds up nobody. What was begun there comes to its end, whoever gave up waiting.
async fn aside(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await?
}

/// A name is its directory's, which is a file of its own.
fn sync_name(path: &Path) -> io::Result<()> {
    File::open(parent(path)?)?.sync_all()
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent()
        .ok_or_else(|| io::Error::other("the path has no parent"))
}

fn replace(path: &Path, bytes: &[u8], settle: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent(path)?.join(format!(".{name}.{}", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    settle(&file)?;
    fs::rename(&temporary, path)
}
