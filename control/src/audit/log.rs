//! The file: lines appended by one thread, renamed when it is large, a fixed number of old ones kept.
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Events waiting to be written; then requests wait.
const QUEUE: usize = 8192;
/// Events are written this long after the first of them came, so that the thread is not woken for each.
const GATHERED: Duration = Duration::from_millis(2);
/// A file larger than this is put aside …
const FILE_BYTES: u64 = 32 << 20;
/// … and so many of those are kept, so that the log never takes more than about 160 MiB.
const OLD_FILES: usize = 4;
const NAME: &str = "audit.log";

/// Where the log is.
#[derive(Clone, Debug)]
pub struct LogOptions {
    pub dir: PathBuf,
    /// Bytes after which a file is put aside.
    pub file_bytes: u64,
}

impl LogOptions {
    pub fn new(dir: PathBuf) -> Self {
        LogOptions {
            dir,
            file_bytes: FILE_BYTES,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot {step} the audit log {path}: {source}")]
pub struct LogError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// A handle on the thread that writes; the last one dropped ends it.
#[derive(Clone)]
pub(super) struct Log {
    queue: mpsc::Sender<Vec<u8>>,
}

impl Log {
    pub fn open(options: LogOptions) -> Result<Self, LogError> {
        let path = options.dir.join(NAME);
        let failed = |step| {
            let path = path.clone();
            move |source| LogError { step, path, source }
        };
        fs::create_dir_all(&options.dir).map_err(failed("make the directory of"))?;
        let mut file = LogFile::open(&path, options.file_bytes).map_err(failed("open"))?;
        let (queue, mut lines) = mpsc::channel::<Vec<u8>>(QUEUE);
        let run = move || {
            let mut gathered = Vec::new();
            while let Some(first) = lines.blocking_recv() {
                std::thread::park_timeout(GATHERED);
                gathered.push(first);
                while gathered.len() < QUEUE
                    && let Ok(line) = lines.try_recv()
                {
                    gathered.push(line);
                }
                if let Err(error) = file.append_all(gathered.drain(..)) {
                    tracing::error!(%error, "audit events were not written");
                }
            }
        };
        std::thread::Builder::new()
            .name("audit".into())
            .spawn(run)
            .map_err(failed("start the writer of"))?;
        Ok(Log { queue })
    }

    pub async fn write(&self, line: Vec<u8>) {
        if self.queue.send(line).await.is_err() {
            tracing::error!("the audit log has ended");
        }
    }

    pub fn write_now(&self, line: Vec<u8>) {
        if let Err(mpsc::error::TrySendError::Full(line)) = self.queue.try_send(line) {
            tracing::warn!(event = %String::from_utf8_lossy(&line), "the audit log is behind");
        }
    }
}

struct LogFile {
    path: PathBuf,
    out: BufWriter<File>,
    size: u64,
    limit: u64,
}

impl LogFile {
    fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let (file, size) = append_to(path)?;
        Ok(LogFile {
            path: path.to_owned(),
            out: BufWriter::new(file),
            size,
            limit,
        })
    }

    fn append_all(&mut self, lines: impl Iterator<Item = Vec<u8>>) -> io::Result<()> {
        for line in lines {
            self.append(&line)?;
        }
        self.out.flush()
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + line.len() as u64 > self.limit {
            self.rotate()?;
        }
        self.out.write_all(line)?;
        self.out.write_all(b"\n")?;
        self.size += line.len() as u64 + 1;
        Ok(())
    }

    /// `audit.log` becomes `audit.log.1`, that `.2`, and so on; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        self.out.flush()?;
        let old = |number: usize| self.path.with_extension(format!("log.{number}"));
        for number in (1..OLD_FILES).rev() {
            rename_if_there(&old(number), &old(number + 1))?;
        }
        rename_if_there(&self.path, &old(1))?;
        let (file, size) = append_to(&self.path)?;
        self.out = BufWriter::new(file);
        self.size = size;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_files_are_bounded_and_nothing_recent_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let mut file = LogFile::open(&path, 20).unwrap();
        for number in 0..40 {
            file.append(format!("line {number:02}").as_bytes()).unwrap();
        }
        file.out.flush().unwrap();
        let count = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(count, OLD_FILES + 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 38\nline 39\n");
        assert_eq!(
            fs::read_to_string(path.with_extension("log.1")).unwrap(),
            "line 36\nline 37\n"
        );
    }

    #[test]
    fn a_file_that_is_there_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        fs::write(&path, "before\n").unwrap();
        let mut file = LogFile::open(&path, 100).unwrap();
        file.append(b"after").unwrap();
        file.out.flush().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\nafter\n");
    }
}
