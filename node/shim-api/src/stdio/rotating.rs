//! A log file that is turned over when it is large, as the kubelet's `containerLogMaxSize` and `containerLogMaxFiles` do:
//! `0.log` is what is written now, `0.log.<time>` what was before. The writer itself turns it over, between two
//! lines, so that nothing is lost whoever else is alive. Who writes seldom may let go of it meanwhile. Refuses to know what is
//! written.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::{FILE_MODE, StdioError, Turner, append};

/// Largest log file, in bytes, but for one write that is larger alone (upstream's default).
pub const MAX_BYTES: u64 = 10 << 20;
/// Files of one attempt, the one being written among them (upstream's default).
pub const MAX_FILES: usize = 5;
/// Upstream's form of the time in a name, with what sets two within a second apart.
const SUFFIX: &str = "%Y%m%d-%H%M%S.%9f";

/// A file to append to.
#[derive(Debug)]
pub struct Rotating {
    path: PathBuf,
    /// Which directory it is in: what is at that path later may be another, put there by somebody else.
    home: Identity,
    /// None while nobody writes.
    file: Option<File>,
    length: u64,
    most: u64,
    /// Who turns it over, where that is not the writer.
    turner: Option<Turner>,
}

impl Rotating {
    /// Opens `path`, making it if needed; a symbolic link is refused. It is turned over by whoever writes to it, or by
    /// `turner`.
    pub fn open(path: &Path, turner: Option<&Turner>) -> Result<Self, StdioError> {
        Self::with_limit(path, MAX_BYTES, turner)
    }

    fn with_limit(path: &Path, most: u64, turner: Option<&Turner>) -> Result<Self, StdioError> {
        let (file, length) = opened(path)?;
        let home = directory(path).and_then(|directory| Identity::of(&directory));
        Ok(Self {
            path: path.into(),
            home: home.map_err(|source| StdioError::Open {
                path: path.into(),
                source,
            })?,
            file: Some(file),
            length,
            most,
            turner: turner.cloned(),
        })
    }

    /// Writes whole lines. A log that cannot be turned over goes on as it is: lines matter more than its size.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let bytes = lines.len() as u64;
        self.wake()?;
        let is_full = self.length > 0 && self.length + bytes > self.most;
        if is_full && let Err(error) = self.turn_over() {
            tracing::warn!(%error, path = %self.path.display(), "cannot turn over a log; it grows on");
            // Tried again when as much has been written again.
            self.length = 0;
        }
        if let Some(file) = &mut self.file {
            file.write_all(lines)?;
        }
        self.length += bytes;
        Ok(())
    }

    /// Lets go of the file until something is written, if there is who opens it then: a writer may not be able to.
    pub fn rest(&mut self) {
        if self.turner.is_some() {
            self.file = None;
        }
    }

    fn wake(&mut self) -> io::Result<()> {
        if let (None, Some(turner)) = (&self.file, &self.turner) {
            let (path, home) = (self.path.clone(), self.home);
            let (file, length) = turner.run(move || reopened(&path, home))?;
            (self.file, self.length) = (Some(file), length);
        }
        Ok(())
    }

    fn turn_over(&mut self) -> io::Result<()> {
        let path = self.path.clone();
        let (file, length) = match &self.turner {
            Some(turner) => turner.run(move || turned_over(&path))?,
            None => turned_over(&path)?,
        };
        (self.file, self.length) = (Some(file), length);
        Ok(())
    }
}

/// Which file this is, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(file: &File) -> io::Result<Self> {
        let seen = file.metadata()?;
        Ok(Self {
            device: seen.dev(),
            inode: seen.ino(),
        })
    }
}

fn directory(path: &Path) -> io::Result<File> {
    let parent = path.parent().unwrap_or(path);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(open(parent, flags, Mode::empty())?.into())
}

/// The file once more, in the very directory it was in before.
fn reopened(path: &Path, home: Identity) -> io::Result<(File, u64)> {
    let directory = directory(path)?;
    if Identity::of(&directory)? != home {
        return Err(io::Error::other("another directory is in the place of the log's"));
    }
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT;
    let safe = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let name = path.file_name().unwrap_or_default();
    let file = openat(
        &directory,
        name,
        flags | safe,
        Mode::from_bits_truncate(FILE_MODE),
    )?;
    let file = File::from(file);
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// A new file in the place of a full one, which has another name from now on.
fn turned_over(path: &Path) -> io::Result<(File, u64)> {
    let old = next_name(path, earlier(path)?.pop(), Timestamp::now());
    fs::rename(path, old).or_else(ignore_absent)?;
    let fresh = opened(path).map_err(io::Error::other)?;
    if let Err(error) = remove_surplus(path) {
        tracing::warn!(%error, path = %path.display(), "the oldest files of a log stay");
    }
    Ok(fresh)
}

fn remove_surplus(path: &Path) -> io::Result<()> {
    let before = earlier(path)?;
    let surplus = before.len().saturating_sub(MAX_FILES - 1);
    before[..surplus].iter().try_for_each(fs::remove_file)
}

fn opened(path: &Path) -> Result<(File, u64), StdioError> {
    let file = append(path)?;
    let length = file.metadata().map_err(|source| StdioError::Open {
        path: path.into(),
        source,
    })?;
    Ok((file, length.len()))
}

/// What a full log is called from `now` on. The order of names is that of the files, also where the clock was put back: then it
/// counts on from the newest there is.
fn next_name(path: &Path, newest: Option<PathBuf>, now: Timestamp) -> PathBuf {
    let name = format!("{}.{}", path.display(), now.strftime(SUFFIX));
    let newest = newest.map(|newest| newest.display().to_string());
    match newest.filter(|newest| *newest >= name) {
        None => name.into(),
        Some(newest) => {
            let counted = newest
                .rsplit_once('+')
                .and_then(|(time, count)| Some((time, count.parse::<u32>().ok()?)));
            let (time, count) = counted.unwrap_or((&newest, 0));
            format!("{time}+{:06}", count.saturating_add(1)).into()
        }
    }
}

/// The earlier files of a log, the oldest first.
fn earlier(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let prefix = [name.as_encoded_bytes(), b"."].concat();
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if name.as_encoded_bytes().starts_with(&prefix) {
            found.push(dir.join(name));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes a log and its earlier files; none of them has to be there.
///
/// # Errors
/// The directory cannot be read or changed.
pub fn remove_log(path: &Path) -> io::Result<()> {
    let earlier = earlier(path).or_else(|error| ignore_absent(error).map(|()| Vec::new()))?;
    let mut files = earlier.iter().map(PathBuf::as_path).chain([path]);
    files.try_for_each(|file| fs::remove_file(file).or_else(ignore_absent))
}

fn ignore_absent(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_turned_over_and_the_oldest_goes() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("0.log");
        fs::write(home.path().join("0.logs"), "another's").unwrap();
        let turner = Turner::start().unwrap();
        let mut log = Rotating::with_limit(&path, 10, Some(&turner)).unwrap();
        drop(turner);
        for number in 0..9 {
            log.append(format!("line {number}\n").as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 8\n");
        let kept: Vec<String> = earlier(&path)
            .unwrap()
            .iter()
            .map(|file| fs::read_to_string(file).unwrap())
            .collect();
        assert_eq!(kept, ["line 4\n", "line 5\n", "line 6\n", "line 7\n"]);
        remove_log(&path).unwrap();
        remove_log(&path).unwrap();
        let left: Vec<_> = fs::read_dir(home.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn a_log_that_rests_is_written_on_where_it_was() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("c/0.log");
        fs::create_dir(path.parent().unwrap()).unwrap();
        let turner = Turner::start().unwrap();
        let mut log = Rotating::with_limit(&path, 10, Some(&turner)).unwrap();
        for line in ["one\n", "two\n", "three\n"] {
            log.append(line.as_bytes()).unwrap();
            log.rest();
            assert!(log.file.is_none());
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n", "it was full");
        assert_eq!(earlier(&path).unwrap().len(), 1);
        fs::remove_file(&path).unwrap();
        log.append(b"four\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n");
    }

    #[test]
    fn nothing_is_written_where_a_link_leads_that_took_the_place_of_a_log_at_rest() {
        let home = tempfile::tempdir().unwrap();
        let (logs, others) = (home.path().join("c"), home.path().join("others"));
        fs::create_dir(&logs).unwrap();
        fs::create_dir(&others).unwrap();
        let turner = Turner::start().unwrap();
        let mut log = Rotating::open(&logs.join("0.log"), Some(&turner)).unwrap();
        log.rest();
        fs::rename(&logs, home.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(&others, &logs).unwrap();
        assert!(log.append(b"line\n").is_err());
        assert_eq!(fs::read_dir(&others).unwrap().count(), 0);
        fs::remove_file(&logs).unwrap();
        fs::rename(home.path().join("moved"), &logs).unwrap();
        log.append(b"line\n").unwrap();
    }

    #[test]
    fn a_clock_that_was_put_back_makes_no_file_the_oldest() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let path = Path::new("/l/0.log");
        let first = next_name(path, None, at(7200));
        let second = next_name(path, Some(first.clone()), at(0));
        let third = next_name(path, Some(second.clone()), at(1));
        let fourth = next_name(path, Some(third.clone()), at(7201));
        assert!(first < second && second < third && third < fourth);
        assert_eq!(fourth, next_name(path, None, at(7201)));
    }

    #[test]
    fn what_was_there_counts_and_a_large_write_is_whole() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("0.log");
        fs::write(&path, "12345678\n").unwrap();
        let mut log = Rotating::with_limit(&path, 10, None).unwrap();
        log.append(b"a line longer than the limit\n").unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "a line longer than the limit\n"
        );
        assert_eq!(earlier(&path).unwrap().len(), 1);
    }

    #[test]
    fn a_log_that_was_removed_is_made_anew() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("0.log");
        let mut log = Rotating::with_limit(&path, 4, None).unwrap();
        log.append(b"one\n").unwrap();
        fs::remove_file(&path).unwrap();
        log.append(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }
}
