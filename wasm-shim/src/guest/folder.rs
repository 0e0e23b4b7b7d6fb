//! Folders of a volume in which each name a guest chose is a file: what `wasi:keyvalue` and `wasi:blobstore` keep, and
//! where a container's core dumps and profiles go.
//!
//! Owns how names become file names, and how a file is replaced as a whole. Refuses to know interfaces and what is in
//! the files. Others may write the same volume, native neighbours too: links are not followed, and what is no regular
//! file is not there. A file that was put in place is in the kernel's hands; whether it outlives a loss of power is the
//! volume's matter.

use nix::dir::{Dir, OwningIter};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Names told in one answer.
pub const PAGE: usize = 1_000;

/// What a file name begins with that stands for no name: a file on its way.
const UNFINISHED: char = '.';

/// A byte of a name that its file name writes in two hexadecimal digits after this sign (RFC 3986, 2.1).
const ESCAPE: char = '%';

/// How long nobody has written to an unfinished file when it is taken for one of a process that was killed: whoever writes may
/// be another process, on another host.
pub const FORSAKEN: Duration = Duration::from_secs(3600);

/// Numbers the unfinished files of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Numbers that are tried for one file: a process of the same id may have left files when it crashed.
const NUMBERS: usize = 1_000;

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it is not there")]
    NotThere,
    #[error("it may not be written")]
    AccessDenied,
    /// Another holds the folder: to be asked again.
    #[error("others use it all the time")]
    Busy,
    #[error("{0}")]
    Other(String),
}

impl From<Errno> for Refused {
    fn from(error: Errno) -> Self {
        match error {
            Errno::ENOENT => Self::NotThere,
            Errno::EROFS | Errno::EACCES | Errno::EPERM => Self::AccessDenied,
            Errno::EAGAIN => Self::Busy,
            Errno::ENAMETOOLONG => Self::Other("it is too long for the name of a file".to_owned()),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(number) => Errno::from_raw(number).into(),
            None => Self::Other(error.to_string()),
        }
    }
}

/// A directory and what is beneath it.
#[derive(Debug, Clone)]
pub struct Folder {
    directory: Arc<OwnedFd>,
    read_only: bool,
}

/// Names in a folder, and where the next ones begin.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    pub names: Vec<String>,
    pub cursor: Option<u64>,
}

/// Names in a folder, one after the other, in the directory's own order.
#[derive(Debug)]
pub struct Listing(OwningIter);

impl Iterator for Listing {
    type Item = Result<String, Refused>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.next()? {
                Ok(entry) => match entry.file_name().to_str().ok().and_then(name) {
                    Some(name) => return Some(Ok(name)),
                    None => continue,
                },
                Err(error) => return Some(Err(error.into())),
            }
        }
    }
}

/// A file on its way to a name; one that never gets there is removed.
#[derive(Debug)]
pub struct Unfinished {
    folder: Folder,
    name: String,
    placed: bool,
}

impl Folder {
    /// What is in `directory`.
    pub fn new(directory: OwnedFd, read_only: bool) -> Self {
        Self {
            directory: Arc::new(directory),
            read_only,
        }
    }

    /// Whether nothing in it may be changed.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Makes the folder of this name within this one, if it is not there.
    ///
    /// # Errors
    /// When none can be made.
    pub fn make(&self, name: &str) -> Result<(), Refused> {
        self.may_write()?;
        match mkdirat(&*self.directory, file_name(name).as_str(), Mode::S_IRWXU) {
            Err(Errno::EEXIST) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the folder of this name within this one.
    ///
    /// # Errors
    /// [`Refused::NotThere`] when there is none, or something else has its name.
    pub fn enter(&self, name: &str) -> Result<Self, Refused> {
        match openat2(&*self.directory, file_name(name).as_str(), directory()) {
            Ok(directory) => Ok(Self::new(directory, self.read_only)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Err(Refused::NotThere),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the folder of this name, which must be empty.
    ///
    /// # Errors
    /// When it is not there, or not empty.
    pub fn remove(&self, name: &str) -> Result<(), Refused> {
        self.may_write()?;
        Ok(unlinkat(
            &*self.directory,
            file_name(name).as_str(),
            UnlinkatFlags::RemoveDir,
        )?)
    }

    /// The folder itself once more, as a descriptor of its own.
    ///
    /// # Errors
    /// When descriptors are used up.
    pub fn again(&self) -> Result<OwnedFd, Refused> {
        Ok(openat2(&*self.directory, ".", directory())?)
    }

    /// The file of this name, open for reading.
    ///
    /// # Errors
    /// When it cannot be opened, though it is there.
    pub fn file(&self, name: &str) -> Result<Option<File>, Refused> {
        let how = beneath(OFlag::O_RDONLY | OFlag::O_NONBLOCK);
        let file = match openat2(&*self.directory, file_name(name).as_str(), how) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT | Errno::ELOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(file.metadata()?.is_file().then_some(file))
    }

    /// Begins a file which only its owner may read, to be put in place when it is whole.
    ///
    /// # Errors
    /// When none can be made.
    pub fn begin(&self) -> Result<(Unfinished, File), Refused> {
        self.may_write()?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let how = beneath(flags).mode(Mode::S_IRUSR | Mode::S_IWUSR);
        for _ in 0..NUMBERS {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{UNFINISHED}{}-{number}", std::process::id());
            let file = match openat2(&*self.directory, name.as_str(), how) {
                Err(Errno::EEXIST) => continue,
                opened => File::from(opened?),
            };
            let unfinished = Unfinished {
                folder: self.clone(),
                name,
                placed: false,
            };
            return Ok((unfinished, file));
        }
        Err(Refused::Other(
            "unfinished files of others have all names".to_owned(),
        ))
    }

    /// Removes unfinished files to which nobody has written for so long. One who still writes is refused when he finishes.
    ///
    /// # Errors
    /// When the directory cannot be read or changed.
    pub fn sweep(&self, unwritten: Duration) -> Result<(), Refused> {
        self.may_write()?;
        for entry in Dir::from_fd(self.again()?)? {
            let entry = entry?;
            let name = entry.file_name();
            if !name.to_str().is_ok_and(is_unfinished) {
                continue;
            }
            let removed = match fstatat(&*self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) if !is_file(&stat) || since_written(&stat) < unwritten => continue,
                Ok(_) => unlinkat(&*self.directory, name, UnlinkatFlags::NoRemoveDir),
                Err(error) => Err(error),
            };
            match removed {
                // It was placed, or removed, meanwhile.
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Copies a file to this name, in the place of what has it.
    ///
    /// # Errors
    /// When it cannot be read to its end, or written.
    pub fn receive(&self, mut file: File, name: &str) -> Result<(), Refused> {
        let (unfinished, mut copy) = self.begin()?;
        io::copy(&mut file, &mut copy)?;
        unfinished.place(self, name)
    }

    /// Removes the file of this name; one that is not there is removed already.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn delete(&self, name: &str) -> Result<(), Refused> {
        self.may_write()?;
        let name = file_name(name);
        match unlinkat(&*self.directory, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the file of this name another one, here or in another folder of the volume, in the place of what has it there.
    ///
    /// # Errors
    /// When it is not there, or cannot be moved.
    pub fn rename(&self, name: &str, folder: &Self, to: &str) -> Result<(), Refused> {
        self.may_write()?;
        folder.may_write()?;
        if !self.has(name)? {
            return Err(Refused::NotThere);
        }
        match self.move_file(&file_name(name), folder, to) {
            Err(Errno::EXDEV) => {
                let file = self.file(name)?.ok_or(Refused::NotThere)?;
                folder.receive(file, to)?;
                self.delete(name)
            }
            moved => Ok(moved?),
        }
    }

    /// `EXDEV` where the kernel does not: from one file system to another, and to another directory where its Landlock
    /// knows no right to that (before Linux 5.19).
    fn move_file(&self, file: &str, folder: &Self, to: &str) -> Result<(), Errno> {
        renameat(&*self.directory, file, &*folder.directory, file_name(to).as_str())
    }

    /// Whether there is a file of this name.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn has(&self, name: &str) -> Result<bool, Refused> {
        let name = file_name(name);
        match fstatat(&*self.directory, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(is_file(&stat)),
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Names from a cursor on, in the directory's own order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn names(&self, cursor: u64) -> Result<Page, Refused> {
        let mut names = Vec::new();
        for (place, name) in (0..).zip(self.listing()?) {
            let name = name?;
            if place < cursor {
                continue;
            }
            if names.len() == PAGE {
                return Ok(Page {
                    names,
                    cursor: Some(place),
                });
            }
            names.push(name);
        }
        Ok(Page { names, cursor: None })
    }

    /// All names.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn listing(&self) -> Result<Listing, Refused> {
        Ok(Listing(Dir::from_fd(self.again()?)?.into_iter()))
    }

    /// When it was made, or, where the file system does not say, last changed.
    ///
    /// # Errors
    /// When the directory cannot be looked at.
    pub fn made_at(&self) -> Result<SystemTime, Refused> {
        let metadata = File::from(self.again()?).metadata()?;
        Ok(metadata.created().or_else(|_| metadata.modified())?)
    }

    /// # Errors
    /// [`Refused::AccessDenied`] when nothing in it may be changed.
    pub fn may_write(&self) -> Result<(), Refused> {
        if self.read_only {
            Err(Refused::AccessDenied)
        } else {
            Ok(())
        }
    }
}

impl Unfinished {
    /// Puts the file in place: whoever reads `name` in `folder` meets the old file or this one.
    ///
    /// # Errors
    /// When it cannot be there; it is removed then.
    pub fn place(mut self, folder: &Folder, name: &str) -> Result<(), Refused> {
        folder.may_write()?;
        match self.folder.move_file(&self.name, folder, name) {
            Err(Errno::EXDEV) => {
                let how = beneath(OFlag::O_RDONLY);
                let file = openat2(&*self.folder.directory, self.name.as_str(), how)?;
                folder.receive(file.into(), name)
            }
            moved => {
                moved?;
                self.placed = true;
                Ok(())
            }
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.placed {
            let directory = &*self.folder.directory;
            // Nothing is left to be done when even this fails; the file has no name that anybody could ask for.
            let _ = unlinkat(directory, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Does work on the blocking threads of the runtime.
///
/// # Errors
/// Those of the work; or when it panicked.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Refused::Other(error.to_string())))
}

fn is_file(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
}

/// None where the file system's clock is before ours.
fn since_written(stat: &FileStat) -> Duration {
    let written = UNIX_EPOCH + Duration::from_secs(stat.st_mtime.try_into().unwrap_or_default());
    SystemTime::now().duration_since(written).unwrap_or_default()
}

/// Whether this is how [`Folder::begin`] names files. Others may have names of their own that begin like them.
fn is_unfinished(name: &str) -> bool {
    let numbers = name
        .strip_prefix(UNFINISHED)
        .and_then(|rest| rest.split_once('-'));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.is_some_and(|(process, number)| is_number(process) && is_number(number))
}

fn beneath(flags: OFlag) -> OpenHow {
    OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS)
}

fn directory() -> OpenHow {
    beneath(OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}

/// The file name of a name: letters, digits, `-` and `_` as they are, a `.` where it is not the first, all else escaped.
/// The empty name is a lone sign of escape.
fn file_name(name: &str) -> String {
    if name.is_empty() {
        return ESCAPE.to_string();
    }
    let mut file = String::with_capacity(name.len());
    for (place, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => file.push(char::from(byte)),
            b'.' if place > 0 => file.push('.'),
            other => file.push_str(&format!("{ESCAPE}{other:02X}")),
        }
    }
    file
}

/// The name that a file name stands for; `None` when it is none's.
fn name(file: &str) -> Option<String> {
    if file.len() == ESCAPE.len_utf8() && file.starts_with(ESCAPE) {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(file.len());
    let mut rest = file.bytes();
    while let Some(byte) = rest.next() {
        if char::from(byte) == ESCAPE {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes)
        .ok()
        .filter(|name| file_name(name) == file)
}

#[cfg(test)]
mod tests;
