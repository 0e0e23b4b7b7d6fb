//! Buckets of `wasi:keyvalue`: folders of a volume, in which each key is a file.
//!
//! Owns the limits of values, and counting. Refuses to know the interface.

use super::folder::{Folder, Page, Refused};
use crate::program::digest::Digest;
use nix::fcntl::{Flock, FlockArg};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::str::FromStr;

/// Bytes of one value: it is held by the host, outside of the container's budget, on its way to the guest.
pub const MAX_VALUE: u64 = 1 << 20;

/// All buckets of a container: a directory among its mounts.
#[derive(Debug)]
pub struct Buckets(pub Folder);

/// One bucket, open.
#[derive(Debug, Clone)]
pub struct Bucket(Folder);

impl Buckets {
    /// Opens a bucket; where the mount may be written it is made by its first use.
    ///
    /// # Errors
    /// When there is none of this name and none can be made.
    pub fn open(&self, name: &str) -> Result<Bucket, Refused> {
        if !self.0.read_only() {
            self.0.make(name)?;
        }
        Ok(Bucket(self.0.enter(name)?))
    }
}

impl Bucket {
    /// The value of a key.
    ///
    /// # Errors
    /// When it is too large or cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Refused> {
        let Some(file) = self.0.file(key)? else {
            return Ok(None);
        };
        let mut value = Vec::new();
        file.take(MAX_VALUE + 1).read_to_end(&mut value)?;
        check_size(&value)?;
        Ok(Some(value))
    }

    /// Sets a key: whoever reads it meets the old value or the new one.
    ///
    /// # Errors
    /// [`Refused::Busy`] while another increments or swaps; otherwise when the value is too large or cannot be written.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), Refused> {
        let _turn = self.turn(FlockArg::LockSharedNonblock)?;
        self.put(key, value)
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), Refused> {
        check_size(value)?;
        let (unfinished, mut file) = self.0.begin()?;
        file.write_all(value)?;
        unfinished.place(&self.0, key)
    }

    /// Removes a key; one that is not there is removed already.
    ///
    /// # Errors
    /// [`Refused::Busy`] while another increments or swaps; otherwise when it cannot be removed.
    pub fn delete(&self, key: &str) -> Result<(), Refused> {
        let _turn = self.turn(FlockArg::LockSharedNonblock)?;
        self.0.delete(key)
    }

    /// Whether a key is there.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn exists(&self, key: &str) -> Result<bool, Refused> {
        self.0.has(key)
    }

    /// Keys from a cursor on, in the directory's own order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn keys(&self, cursor: u64) -> Result<Page, Refused> {
        self.0.names(cursor)
    }

    /// Changes a number in decimal digits, 0 when the key is not there. What `to` makes of it is nothing when it would be
    /// too large. No other change of this bucket, by any guest, comes between.
    ///
    /// # Errors
    /// [`Refused::Busy`] while another changes it; otherwise when the value is no number, or it would be too large.
    pub fn increment<N>(&self, key: &str, to: impl FnOnce(N) -> Option<N>) -> Result<N, Refused>
    where
        N: Default + FromStr + ToString,
    {
        let _turn = self.turn(FlockArg::LockExclusiveNonblock)?;
        let now = match self.get(key)? {
            None => N::default(),
            Some(value) => {
                number(&value).ok_or_else(|| Refused::Other("the value is no number".to_owned()))?
            }
        };
        let next = to(now).ok_or_else(|| Refused::Other("the number would be too large".to_owned()))?;
        self.put(key, next.to_string().as_bytes())?;
        Ok(next)
    }

    /// A turn to change the bucket, shared with others who only set, or one's own: what is read and then written must not change
    /// between. Guests of other processes take theirs too; who writes the files without `wasi:keyvalue` does not.
    fn turn(&self, whose: FlockArg) -> Result<Flock<OwnedFd>, Refused> {
        self.0.may_write()?;
        let again = self.0.again()?;
        Flock::lock(again, whose).map_err(|(_, error)| error.into())
    }

    /// The value of a key, and what it can be swapped by.
    ///
    /// # Errors
    /// When it is too large or cannot be read.
    pub fn look(&self, key: String) -> Result<(Cas, Option<Vec<u8>>), Refused> {
        let value = self.get(&key)?;
        let cas = Cas {
            bucket: self.clone(),
            seen: value.as_deref().map(Digest::of),
            key,
        };
        Ok((cas, value))
    }
}

/// A key whose value was seen. Its digest stands for it: values are large.
#[derive(Debug, Clone)]
pub struct Cas {
    bucket: Bucket,
    key: String,
    seen: Option<Digest>,
}

/// What became of a swap.
#[derive(Debug)]
pub enum Swapped {
    Done,
    /// The value is another, of which this knows.
    Changed(Cas),
}

impl Cas {
    /// Looks again.
    ///
    /// # Errors
    /// When the value is too large or cannot be read.
    pub fn again(self) -> Result<(Self, Option<Vec<u8>>), Refused> {
        self.bucket.look(self.key)
    }

    /// Sets the key if its value is still what was seen. No other change by any guest comes between.
    ///
    /// # Errors
    /// [`Refused::Busy`] while another does so; otherwise when the value is too large or cannot be written.
    pub fn swap(&self, value: &[u8]) -> Result<Swapped, Refused> {
        let _turn = self.bucket.turn(FlockArg::LockExclusiveNonblock)?;
        let (now, _) = self.clone().again()?;
        if now.seen != self.seen {
            return Ok(Swapped::Changed(now));
        }
        self.bucket.put(&self.key, value)?;
        Ok(Swapped::Done)
    }
}

fn number<N: FromStr>(value: &[u8]) -> Option<N> {
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

#[cfg(test)]
mod tests {
    use super::super::folder::PAGE;
    use super::*;
    use nix::sys::stat::Mode;
    use std::fs::File;
    use std::path::Path;

    fn buckets(home: &Path, read_only: bool) -> Buckets {
        Buckets(Folder::new(File::open(home).unwrap().into(), read_only))
    }

    fn add_one(now: u64) -> Option<u64> {
        now.checked_add(1)
    }

    #[test]
    fn what_changed_meanwhile_is_not_swapped() {
        let home = tempfile::tempdir().unwrap();
        let bucket = buckets(home.path(), false).open("b").unwrap();
        let (first, value) = bucket.look("k".to_owned()).unwrap();
        assert_eq!(value, None);
        assert!(matches!(first.swap(b"one"), Ok(Swapped::Done)));
        let Ok(Swapped::Changed(now)) = first.swap(b"two") else {
            panic!("what was not there is there now");
        };
        assert!(matches!(now.swap(b"three"), Ok(Swapped::Done)));
        let (last, value) = now.again().unwrap();
        assert_eq!(value, Some(b"three".to_vec()));
        let turn = bucket.turn(FlockArg::LockExclusiveNonblock).unwrap();
        assert_eq!(last.swap(b"four").unwrap_err(), Refused::Busy);
        assert_eq!(
            bucket.set("k", b"five"),
            Err(Refused::Busy),
            "it would come between"
        );
        assert_eq!(bucket.delete("k"), Err(Refused::Busy));
        drop(turn);
        let _shared = bucket.turn(FlockArg::LockSharedNonblock).unwrap();
        assert_eq!(
            bucket.set("k", b"five"),
            Ok(()),
            "who sets does not wait for who sets"
        );
        assert_eq!(last.swap(b"six").unwrap_err(), Refused::Busy);
    }

    #[test]
    fn numbers_may_have_a_sign() {
        let home = tempfile::tempdir().unwrap();
        let bucket = buckets(home.path(), false).open("b").unwrap();
        assert_eq!(bucket.increment("n", |now: i64| now.checked_sub(2)), Ok(-2));
        assert_eq!(bucket.get("n"), Ok(Some(b"-2".to_vec())));
        assert!(matches!(bucket.increment("n", add_one), Err(Refused::Other(_))));
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
                names: vec!["a/b".to_owned()],
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
        assert_eq!(sealed.open("none").unwrap_err(), Refused::NotThere);
        buckets(home.path(), false).open("some").unwrap();
        let bucket = sealed.open("some").unwrap();
        assert_eq!(bucket.set("a", b""), Err(Refused::AccessDenied));
        assert_eq!(bucket.delete("a"), Err(Refused::AccessDenied));
        assert_eq!(bucket.increment("a", add_one), Err(Refused::AccessDenied));
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
        assert_eq!(all.open("out").unwrap_err(), Refused::NotThere);
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
                .any(|entry| entry.file_name().to_string_lossy().starts_with('.'))
        );
    }

    #[test]
    fn increments_are_one_after_the_other() {
        let home = tempfile::tempdir().unwrap();
        let bucket = buckets(home.path(), false).open("b").unwrap();
        let add = || loop {
            match bucket.increment("n", add_one) {
                Err(Refused::Busy) => std::thread::yield_now(),
                other => break other.unwrap(),
            }
        };
        std::thread::scope(|scope| {
            (0..4).for_each(|_| drop(scope.spawn(|| (0..25).for_each(|_| assert!(add() > 0)))));
        });
        assert_eq!(bucket.get("n"), Ok(Some(b"100".to_vec())));
        bucket.set("n", b"many").unwrap();
        assert!(matches!(bucket.increment("n", add_one), Err(Refused::Other(_))));
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
            (first.names.len(), second.names.len(), second.cursor),
            (PAGE, 5, None)
        );
        let mut seen = [first.names, second.names].concat();
        seen.sort();
        let mut expected = all;
        expected.sort();
        assert_eq!(seen, expected);
        assert_eq!(bucket.keys(u64::MAX).unwrap().names, Vec::<String>::new());
    }
}
