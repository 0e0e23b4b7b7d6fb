//! Buckets of `wasi:keyvalue`: directories of a volume, in which each key is a file.
//!
//! Owns names, limits and how a value is replaced as a whole. Refuses to know the interface. Others may write the same
//! volume, native neighbours too: links are not followed, and what is no regular file is no key. A value that was set
//! is in the kernel's hands; whether it outlives a loss of power is the volume's matter.

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of one value: it is held by the host, outside of the container's budget, on its way to the guest.
pub const MAX_VALUE: u64 = 1 << 20;

/// Keys told in one answer.
const PAGE: usize = 1_000;

/// What a file name begins with that is no key: a value on its way.
const UNFINISHED: char = '.';

/// A byte of a key that its file name writes in two hexadecimal digits after this sign (RFC 3986, 2.1).
const ESCAPE: char = '%';

/// Numbers the unfinished files of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    NoSuchStore,
    AccessDenied,
    /// Another holds the bucket: to be asked again.
    Busy,
    Other(String),
}

impl From<Errno> for Refused {
    fn from(error: Errno) -> Self {
        match error {
            Errno::EROFS | Errno::EACCES | Errno::EPERM => Self::AccessDenied,
            Errno::EAGAIN => Self::Busy,
            Errno::ENAMETOOLONG => Self::Other("the key is too long for a file name".to_owned()),
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

/// All buckets of a container: a directory among its mounts.
#[derive(Debug)]
pub struct Buckets {
    pub directory: OwnedFd,
    pub read_only: bool,
}

/// One bucket, open.
#[derive(Debug, Clone)]
pub struct Bucket {
    directory: Arc<OwnedFd>,
    read_only: bool,
}

/// Keys of a bucket, and where the next ones begin.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    pub keys: Vec<String>,
    pub cursor: Option<u64>,
}

impl Buckets {
    /// Opens a bucket; where the mount may be written it is made by its first use.
    ///
    /// # Errors
    /// When there is none of this name and none can be made.
    pub fn open(&self, name: &str) -> Result<Bucket, Refused> {
        let file = file_name(name);
        if !self.read_only {
            match mkdirat(&self.directory, file.as_str(), Mode::S_IRWXU) {
                Err(Errno::EEXIST) | Ok(()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let opened = openat2(
            &self.directory,
            file.as_str(),
            beneath(OFlag::O_RDONLY | OFlag::O_DIRECTORY),
        );
        match opened {
            Ok(directory) => Ok(Bucket {
                directory: Arc::new(directory),
                read_only: self.read_only,
            }),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Err(Refused::NoSuchStore),
            Err(error) => Err(error.into()),
        }
    }
}

impl Bucket {
    /// The value of a key.
    ///
    /// # Errors
    /// When it is too large or cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Refused> {
        let name = file_name(key);
        let opened = openat2(
            &*self.directory,
            name.as_str(),
            beneath(OFlag::O_RDONLY | OFlag::O_NONBLOCK),
        );
        let file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT | Errno::ELOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut value = Vec::new();
        file.take(MAX_VALUE + 1).read_to_end(&mut value)?;
        check_size(&value)?;
        Ok(Some(value))
    }

    /// Sets a key: whoever reads it meets the old value or the new one.
    ///
    /// # Errors
    /// When the value is too large or cannot be written.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), Refused> {
        self.may_write()?;
        check_size(value)?;
        let name = file_name(key);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let unfinished = format!("{UNFINISHED}{}-{number}", std::process::id());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let how = beneath(flags).mode(Mode::S_IRUSR | Mode::S_IWUSR);
        let file = openat2(&*self.directory, unfinished.as_str(), how)?;
        let written = File::from(file).write_all(value).map_err(Refused::from);
        let renamed = written.and_then(|()| {
            Ok(renameat(
                &*self.directory,
                unfinished.as_str(),
                &*self.directory,
                name.as_str(),
            )?)
        });
        if renamed.is_err() {
            // Nothing is left to be done when even this fails; the name is no key.
            let _ = unlinkat(&*self.directory, unfinished.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        renamed
    }

    /// Removes a key; one that is not there is removed already.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn delete(&self, key: &str) -> Result<(), Refused> {
        self.may_write()?;
        match unlinkat(
            &*self.directory,
            file_name(key).as_str(),
            UnlinkatFlags::NoRemoveDir,
        ) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a key is there.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn exists(&self, key: &str) -> Result<bool, Refused> {
        match fstatat(
            &*self.directory,
            file_name(key).as_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        ) {
            Ok(stat) => Ok(is_file(&stat)),
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Keys from a cursor on, in the directory's own order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn keys(&self, cursor: u64) -> Result<Page, Refused> {
        let again = openat2(
            &*self.directory,
            ".",
            beneath(OFlag::O_RDONLY | OFlag::O_DIRECTORY),
        )?;
        let begin = usize::try_from(cursor).unwrap_or(usize::MAX);
        let mut keys = Vec::new();
        let mut directory = Dir::from_fd(again)?;
        for entry in directory.iter() {
            keys.extend(entry?.file_name().to_str().ok().and_then(key));
            if keys.len() > begin.saturating_add(PAGE) {
                break;
            }
        }
        let more = keys.len() > begin.saturating_add(PAGE);
        let page: Vec<String> = keys.into_iter().skip(begin).take(PAGE).collect();
        Ok(Page {
            cursor: more.then(|| cursor.saturating_add(page.len() as u64)),
            keys: page,
        })
    }

    /// Adds to a number in decimal digits, 0 when the key is not there. No other increment of this bucket, by any
    /// process, comes between.
    ///
    /// # Errors
    /// [`Refused::Busy`] while another increments; otherwise when the value is no number, or it would be too large.
    pub fn increment(&self, key: &str, delta: u64) -> Result<u64, Refused> {
        self.may_write()?;
        let again = openat2(
            &*self.directory,
            ".",
            beneath(OFlag::O_RDONLY | OFlag::O_DIRECTORY),
        )?;
        let _turn = Flock::lock(again, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)?;
        let now = match self.get(key)? {
            None => 0,
            Some(value) => {
                number(&value).ok_or_else(|| Refused::Other("the value is no number".to_owned()))?
            }
        };
        let next = now
            .checked_add(delta)
            .ok_or_else(|| Refused::Other("the number would be too large".to_owned()))?;
        self.set(key, next.to_string().as_bytes())?;
        Ok(next)
    }

    fn may_write(&self) -> Result<(), Refused> {
        if self.read_only {
            Err(Refused::AccessDenied)
        } else {
            Ok(())
        }
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn check_size(value: &[u8]) -> Result<(), Refused> {
    if value.len() as u64 > MAX_VALUE {
        Err(Refused::Other(format!(
            "the value has more than {MAX_VALUE} bytes"
        )))
    } else {
        Ok(())
    }
}

fn is_file(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
}

fn beneath(flags: OFlag) -> OpenHow {
    OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS)
}

/// The file name of a key: letters, digits, `-` and `_` as they are, a `.` where it is not the first, all else escaped.
/// The empty key is a lone sign of escape.
fn file_name(key: &str) -> String {
    if key.is_empty() {
        return ESCAPE.to_string();
    }
    let mut name = String::with_capacity(key.len());
    for (place, byte) in key.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            b'.' if place > 0 => name.push('.'),
            other => name.push_str(&format!("{ESCAPE}{other:02X}")),
        }
    }
    name
}

/// The key of a file name; `None` when none has this name.
fn key(name: &str) -> Option<String> {
    if name.len() == ESCAPE.len_utf8() && name.starts_with(ESCAPE) {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if char::from(byte) == ESCAPE {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|key| file_name(key) == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn buckets(home: &Path, read_only: bool) -> Buckets {
        Buckets {
            directory: File::open(home).unwrap().into(),
            read_only,
        }
    }

    #[test]
    fn names_of_keys() {
        for (of, name) in [
            ("", "%"),
            ("a-Z_0.x", "a-Z_0.x"),
            (".", "%2E"),
            ("..", "%2E."),
            ("../etc/passwd", "%2E.%2Fetc%2Fpasswd"),
            ("%", "%25"),
            ("ä\0", "%C3%A4%00"),
        ] {
            assert_eq!(file_name(of), name);
            assert_eq!(key(name).as_deref(), Some(of));
        }
        for stranger in [".12-0", "%2", "%zz", "%61", "a b", "%FF"] {
            assert_eq!(key(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn a_bucket_keeps_what_was_set() {
        let home = tempfile::tempdir().unwrap();
        let bucket = buckets(home.path(), false).open("default").unwrap();
        assert_eq!(bucket.get("a/b"), Ok(None));
        bucket.set("a/b", b"one").unwrap();
        bucket.set("a/b", b"two").unwrap();
        assert_eq!(std::fs::read(home.path().join("default/a%2Fb")).unwrap(), b"two");
        let again = buckets(home.path(), true).open("default").unwrap();
        assert_eq!(again.get("a/b"), Ok(Some(b"two".to_vec())));
        assert_eq!(again.exists("a/b"), Ok(true));
        assert_eq!(
            again.keys(0),
            Ok(Page {
                keys: vec!["a/b".to_owned()],
                cursor: None
            })
        );
        bucket.delete("a/b").unwrap();
        bucket.delete("a/b").unwrap();
        assert_eq!((again.exists("a/b"), again.get("a/b")), (Ok(false), Ok(None)));
    }

    #[test]
    fn read_only_stays_so_and_what_is_not_there_is_not_made() {
        let home = tempfile::tempdir().unwrap();
        let sealed = buckets(home.path(), true);
        assert_eq!(sealed.open("none").unwrap_err(), Refused::NoSuchStore);
        buckets(home.path(), false).open("some").unwrap();
        let bucket = sealed.open("some").unwrap();
        assert_eq!(bucket.set("a", b""), Err(Refused::AccessDenied));
        assert_eq!(bucket.delete("a"), Err(Refused::AccessDenied));
        assert_eq!(bucket.increment("a", 1), Err(Refused::AccessDenied));
    }

    #[test]
    fn what_others_put_there_leads_nowhere() {
        let home = tempfile::tempdir().unwrap();
        let all = buckets(home.path(), false);
        let bucket = all.open("b").unwrap();
        let inside = |name: &str| home.path().join("b").join(name);
        std::os::unix::fs::symlink("/etc/passwd", inside("link")).unwrap();
        nix::unistd::mkfifo(&inside("pipe"), Mode::S_IRWXU).unwrap();
        std::fs::create_dir(inside("directory")).unwrap();
        std::os::unix::fs::symlink("/etc", home.path().join("out")).unwrap();
        for key in ["link", "pipe", "directory"] {
            assert_eq!(
                (bucket.get(key), bucket.exists(key)),
                (Ok(None), Ok(false)),
                "{key}"
            );
        }
        assert_eq!(all.open("out").unwrap_err(), Refused::NoSuchStore);
        bucket.set("link", b"mine").unwrap();
        assert_eq!(bucket.get("link"), Ok(Some(b"mine".to_vec())));
        assert!(std::fs::metadata("/etc/passwd").unwrap().len() > 4);
        std::fs::write(inside("large"), vec![0; MAX_VALUE as usize + 1]).unwrap();
        assert!(matches!(bucket.get("large"), Err(Refused::Other(_))));
        assert!(matches!(
            bucket.set(&"x".repeat(300), b""),
            Err(Refused::Other(_))
        ));
        let left = std::fs::read_dir(home.path().join("b")).unwrap();
        assert!(
            !left
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED))
        );
    }

    #[test]
    fn increments_are_one_after_the_other() {
        let home = tempfile::tempdir().unwrap();
        let bucket = buckets(home.path(), false).open("b").unwrap();
        let add = || loop {
            match bucket.increment("n", 1) {
                Err(Refused::Busy) => std::thread::yield_now(),
                other => break other.unwrap(),
            }
        };
        std::thread::scope(|scope| {
            (0..4).for_each(|_| drop(scope.spawn(|| (0..25).for_each(|_| assert!(add() > 0)))));
        });
        assert_eq!(bucket.get("n"), Ok(Some(b"100".to_vec())));
        bucket.set("n", b"many").unwrap();
        assert!(matches!(bucket.increment("n", 1), Err(Refused::Other(_))));
    }

    #[test]
    fn many_keys_come_in_pages() {
        let home = tempfile::tempdir().unwrap();
        let bucket = buckets(home.path(), false).open("b").unwrap();
        let all: Vec<String> = (0..PAGE + 5).map(|number| format!("k{number}")).collect();
        for key in &all {
            bucket.set(key, b"").unwrap();
        }
        let first = bucket.keys(0).unwrap();
        let second = bucket.keys(first.cursor.unwrap()).unwrap();
        assert_eq!(
            (first.keys.len(), second.keys.len(), second.cursor),
            (PAGE, 5, None)
        );
        let mut seen = [first.keys, second.keys].concat();
        seen.sort();
        let mut expected = all;
        expected.sort();
        assert_eq!(seen, expected);
        assert_eq!(bucket.keys(u64::MAX).unwrap().keys, Vec::<String>::new());
    }
}
