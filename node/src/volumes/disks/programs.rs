//! What is on a device, and bringing a file system onto it, into order or to the device's size: by the host's own blkid(8), mkfs(8), fsck(8)
//! and resize2fs(8) or the like, asked as upstream asks them (k8s.io/mount-utils, `FormatAndMount` and `ResizeFs`). Owns what is decided by their answers.
//!
//! Programs are given the device open and locked as their input: one that outlives the agent keeps the lock, and nobody formats what
//! is being formatted. None has a time limit: a large device takes what it takes, and one that is stopped half-way is worse.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where administrators' programs are, if the agent's own `PATH` leaves that out.
const MORE_PLACES: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin";
/// Of what a program says, for an event.
const SAID_CHARS: usize = 800;
/// blkid(8): nothing it knows is there.
const NOTHING_FOUND: i32 = 2;
/// fsck(8): errors are left.
const UNCORRECTED: i32 = 4;

/// Why a device is not ready to be mounted.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("{program} is not there on this node; it is needed to {purpose}")]
    Missing { program: String, purpose: &'static str },
    #[error("cannot run {program}: {error}")]
    Run { program: String, error: io::Error },
    #[error("failed to get disk format of disk {disk}: {why}")]
    Unknown { disk: String, why: String },
    #[error("disk {0} has unknown data, probably partitions: it is not formatted")]
    Partitions(String),
    #[error("cannot mount unformatted disk {0} as we are manipulating it in read-only mode")]
    UnformattedReadOnly(String),
    #[error("format of disk {disk:?} failed: type:({kind:?}) errcode:({code}) output:({said})")]
    Format {
        disk: String,
        kind: String,
        code: String,
        said: String,
    },
    #[error("'fsck' found errors on device {disk} but could not correct them: {said}")]
    Uncorrected { disk: String, said: String },
    #[error("resize of format {kind} is not supported for device {disk}")]
    Fixed { disk: String, kind: String },
    #[error("resize of device {of} failed: {status}. {program} output: {said}")]
    Resize {
        of: String,
        status: String,
        program: &'static str,
        said: String,
    },
}

/// What is on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// Its type; also of what is no file system but has a mark of its own.
    Type(String),
    Partitions,
}

/// What is to be done before it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Format,
    Check,
    Nothing,
}

/// The host's programs.
#[derive(Clone, Debug)]
pub struct Programs {
    path: OsString,
}

struct Answer {
    code: Option<i32>,
    status: String,
    out: String,
    /// Both of what it wrote, cut.
    said: String,
}

impl Programs {
    pub fn of_host() -> Self {
        let mut path = env::var_os("PATH").unwrap_or_default();
        path.push(":");
        path.push(MORE_PLACES);
        Self { path }
    }

    #[cfg(test)]
    pub fn at(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// Makes a device ready to be mounted as `kind`; says what was on it. `device` is `disk`, open and locked.
    ///
    /// # Errors
    /// It is to stay as it is, or a program is missing or fails.
    pub fn make_ready(
        &self,
        disk: &Path,
        device: &File,
        kind: &str,
        read_only: bool,
    ) -> Result<Found, ProgramError> {
        let found = self.look(disk, device)?;
        match step(&found, read_only, disk)? {
            Step::Format => self.format(disk, device, kind)?,
            Step::Check => self.check(disk, device)?,
            Step::Nothing => {}
        }
        Ok(found)
    }

    fn look(&self, disk: &Path, device: &File) -> Result<Found, ProgramError> {
        let unknown = |why: String| ProgramError::Unknown {
            disk: disk.display().to_string(),
            why,
        };
        // blkid says of a device that cannot be read what it says of an empty one.
        let mut first = [0; 512];
        let read = device.read_exact_at(&mut first, 0);
        read.map_err(|error| unknown(format!("it cannot be read: {error}")))?;
        let words = ["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export"];
        let words = words.iter().map(OsStr::new).chain([disk.as_os_str()]);
        let answer = self.run("blkid", words, device)?;
        let answer = answer.ok_or_else(|| missing("blkid", "see what is on the device"))?;
        match answer.code {
            Some(0) => found(&answer.out).map_err(unknown),
            Some(NOTHING_FOUND) => Ok(Found::Nothing),
            _ => Err(unknown(format!("{}: {}", answer.status, answer.said))),
        }
    }

    fn format(&self, disk: &Path, device: &File, kind: &str) -> Result<(), ProgramError> {
        let program = format!("mkfs.{kind}");
        tracing::info!(disk = %disk.display(), program, "a device without data is formatted");
        let words = format_words(kind).iter().map(OsStr::new);
        let answer = self.run(&program, words.chain([disk.as_os_str()]), device)?;
        let answer = answer.ok_or_else(|| missing(&program, "format the device"))?;
        match answer.code {
            Some(0) => Ok(()),
            _ => Err(ProgramError::Format {
                disk: disk.display().to_string(),
                kind: kind.to_owned(),
                code: answer.status,
                said: answer.said,
            }),
        }
    }

    /// Only what is known to be broken still is not mounted; a host without the program mounts unchecked.
    fn check(&self, disk: &Path, device: &File) -> Result<(), ProgramError> {
        let words = [OsStr::new("-a"), disk.as_os_str()];
        let Some(answer) = self.run("fsck", words.into_iter(), device)? else {
            tracing::warn!(disk = %disk.display(), "fsck is not there on this node: a device is mounted unchecked");
            return Ok(());
        };
        match answer.code {
            Some(0) => Ok(()),
            Some(UNCORRECTED) => Err(ProgramError::Uncorrected {
                disk: disk.display().to_string(),
                said: answer.said,
            }),
            _ => {
                tracing::info!(disk = %disk.display(), status = answer.status, said = answer.said, "fsck");
                Ok(())
            }
        }
    }

    /// Grows the file system that is mounted at `point` to the device's size.
    ///
    /// # Errors
    /// It cannot grow, or a program is missing or fails.
    pub fn grow(&self, disk: &Path, device: &File, point: &Path) -> Result<(), ProgramError> {
        let kind = match self.look(disk, device)? {
            Found::Type(kind) => kind,
            Found::Nothing => return Ok(()),
            Found::Partitions => return Err(ProgramError::Partitions(disk.display().to_string())),
        };
        let (program, words, of): (&str, &[&str], &Path) = match kind.as_str() {
            "ext3" | "ext4" => ("resize2fs", &[], disk),
            "xfs" => ("xfs_growfs", &["-d"], point),
            "btrfs" => ("btrfs", &["filesystem", "resize", "max"], point),
            _ => {
                let disk = disk.display().to_string();
                return Err(ProgramError::Fixed { disk, kind });
            }
        };
        let words = words.iter().map(OsStr::new).chain([of.as_os_str()]);
        let answer = self.run(program, words, device)?;
        let answer = answer.ok_or_else(|| missing(program, "grow the file system"))?;
        match answer.code {
            Some(0) => Ok(()),
            _ => Err(ProgramError::Resize {
                of: of.display().to_string(),
                status: answer.status,
                program,
                said: answer.said,
            }),
        }
    }

    /// Nothing when there is no such program.
    fn run<'a>(
        &self,
        program: &str,
        words: impl Iterator<Item = &'a OsStr>,
        device: &File,
    ) -> Result<Option<Answer>, ProgramError> {
        let cannot = |error| ProgramError::Run {
            program: program.to_owned(),
            error,
        };
        let output = Command::new(program)
            .args(words)
            .env("PATH", &self.path)
            .stdin(Stdio::from(device.try_clone().map_err(cannot)?))
            // What a person at the agent's terminal interrupts is not this.
            .process_group(0)
            .output();
        let output = match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            output => output.map_err(cannot)?,
        };
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let both = format!("{out}{}", String::from_utf8_lossy(&output.stderr));
        Ok(Some(Answer {
            code: output.status.code(),
            status: output.status.to_string(),
            out,
            said: both.trim().chars().take(SAID_CHARS).collect(),
        }))
    }
}

fn missing(program: &str, purpose: &'static str) -> ProgramError {
    ProgramError::Missing {
        program: program.to_owned(),
        purpose,
    }
}

fn step(found: &Found, read_only: bool, disk: &Path) -> Result<Step, ProgramError> {
    let disk = || disk.display().to_string();
    match (found, read_only) {
        (Found::Partitions, _) => Err(ProgramError::Partitions(disk())),
        (Found::Nothing, true) => Err(ProgramError::UnformattedReadOnly(disk())),
        (Found::Nothing, false) => Ok(Step::Format),
        (Found::Type(_), false) => Ok(Step::Check),
        (Found::Type(_), true) => Ok(Step::Nothing),
    }
}

/// From lines `NAME=VALUE`.
fn found(out: &str) -> Result<Found, String> {
    let mut found = Found::Nothing;
    for line in out.lines().filter(|line| !line.is_empty()) {
        match line.split_once('=') {
            Some(("PTTYPE", _)) => found = Found::Partitions,
            Some(("TYPE", kind)) if found == Found::Nothing => found = Found::Type(kind.to_owned()),
            Some(_) => {}
            None => return Err(format!("blkid returns invalid output: {out}")),
        }
    }
    Ok(found)
}

/// No question is asked, and nothing is kept back for root.
fn format_words(kind: &str) -> &'static [&'static str] {
    match kind {
        "ext3" | "ext4" => &["-F", "-m0"],
        "xfs" => &["-f"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_on_a_device_says_what_is_done() {
        let kind = |kind: &str| Found::Type(kind.to_owned());
        let partitions = "disk /dev/x has unknown data, probably partitions: it is not formatted";
        let unformatted = "cannot mount unformatted disk /dev/x as we are manipulating it in read-only mode";
        for (out, is, for_writing, for_reading) in [
            ("", Found::Nothing, Ok(Step::Format), Err(unformatted)),
            ("TYPE=ext4\n", kind("ext4"), Ok(Step::Check), Ok(Step::Nothing)),
            (
                "DEVNAME=/dev/x\nTYPE=xfs\n",
                kind("xfs"),
                Ok(Step::Check),
                Ok(Step::Nothing),
            ),
            (
                "TYPE=ext4\nPTTYPE=dos\n",
                Found::Partitions,
                Err(partitions),
                Err(partitions),
            ),
            (
                "PTTYPE=gpt\nTYPE=ext4\n",
                Found::Partitions,
                Err(partitions),
                Err(partitions),
            ),
        ] {
            assert_eq!(found(out).unwrap(), is, "{out}");
            for (read_only, expected) in [(false, for_writing), (true, for_reading)] {
                let done = step(&is, read_only, Path::new("/dev/x")).map_err(|error| error.to_string());
                assert_eq!(done, expected.map_err(str::to_owned), "{out} {read_only}");
            }
        }
        assert!(found("what\n").is_err());
    }

    /// A host with these programs: what each answers with, and what it says.
    fn host(programs: &[(&str, i32, &str)]) -> (tempfile::TempDir, Programs) {
        let dir = tempfile::tempdir().unwrap();
        for (name, code, said) in programs {
            let path = dir.path().join(name);
            let script = format!("#!/bin/sh\necho \"$0 $@\" >>$0.asked\necho '{said}'\nexit {code}\n");
            // By another process: what this one has open for writing while a test beside forks cannot be run.
            let write = "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\"";
            let written = Command::new("/bin/sh")
                .args(["-c", write])
                .arg(&path)
                .arg(script)
                .status();
            assert!(written.unwrap().success());
        }
        let programs = Programs::at(dir.path());
        (dir, programs)
    }

    #[test]
    fn programs_are_asked_and_their_answers_told() {
        let device = tempfile::NamedTempFile::new().unwrap();
        device.as_file().set_len(1 << 20).unwrap();
        let disk = device.path();
        let name = disk.display();
        let (empty, ext4) = (("blkid", 2, ""), ("blkid", 0, "TYPE=ext4"));
        let cases: [(&[(&str, i32, &str)], &str, Result<&str, String>); 9] = [
            (
                &[],
                "ext4",
                Err("blkid is not there on this node; it is needed to see what is on the device".into()),
            ),
            (
                &[empty],
                "xfs",
                Err("mkfs.xfs is not there on this node; it is needed to format the device".into()),
            ),
            (&[empty, ("mkfs.ext4", 0, "")], "ext4", Ok("mkfs.ext4 -F -m0")),
            (&[empty, ("mkfs.xfs", 0, "")], "xfs", Ok("mkfs.xfs -f")),
            (
                &[empty, ("mkfs.ext4", 1, "no room")],
                "ext4",
                Err(format!(
                    "format of disk \"{name}\" failed: type:(\"ext4\") errcode:(exit status: 1) output:(no room)"
                )),
            ),
            (&[ext4, ("fsck", 1, "")], "ext4", Ok("fsck -a")),
            (&[ext4, ("fsck", 8, "")], "ext4", Ok("fsck -a")),
            (
                &[ext4, ("fsck", 4, "run it by hand")],
                "ext4",
                Err(format!(
                    "'fsck' found errors on device {name} but could not correct them: run it by hand"
                )),
            ),
            (
                &[("blkid", 8, "ambivalent")],
                "ext4",
                Err(format!(
                    "failed to get disk format of disk {name}: exit status: 8: ambivalent"
                )),
            ),
        ];
        for (programs, kind, expected) in cases {
            let (dir, host) = host(programs);
            let done = host.make_ready(disk, device.as_file(), kind, false);
            match expected {
                Err(words) => assert_eq!(done.unwrap_err().to_string(), words),
                Ok(asked) => {
                    done.unwrap();
                    let program = asked.split(' ').next().unwrap();
                    let log = fs::read_to_string(dir.path().join(format!("{program}.asked"))).unwrap();
                    assert_eq!(log, format!("{}/{asked} {name}\n", dir.path().display()));
                }
            }
        }
    }

    #[test]
    fn a_file_system_is_grown_by_its_own_program() {
        let device = tempfile::NamedTempFile::new().unwrap();
        device.as_file().set_len(1 << 20).unwrap();
        let (disk, point) = (device.path(), Path::new("/mnt"));
        let name = disk.display();
        let asked = |words: String| Ok(words);
        let failed = |words: String| Err(words);
        for (kind, program, code, expected) in [
            ("ext4", "resize2fs", 0, asked(format!("{name}"))),
            ("ext3", "resize2fs", 0, asked(format!("{name}"))),
            ("xfs", "xfs_growfs", 0, asked("-d /mnt".into())),
            ("btrfs", "btrfs", 0, asked("filesystem resize max /mnt".into())),
            (
                "ext4",
                "resize2fs",
                1,
                failed(format!(
                    "resize of device {name} failed: exit status: 1. resize2fs output: said"
                )),
            ),
            (
                "vfat",
                "resize2fs",
                0,
                failed(format!(
                    "resize of format vfat is not supported for device {name}"
                )),
            ),
            (
                "xfs",
                "resize2fs",
                0,
                failed("xfs_growfs is not there on this node; it is needed to grow the file system".into()),
            ),
        ] {
            let told = format!("TYPE={kind}");
            let (dir, host) = host(&[("blkid", 0, &told), (program, code, "said")]);
            let done = host
                .grow(disk, device.as_file(), point)
                .map_err(|error| error.to_string());
            let done = done.map(|()| {
                let log = fs::read_to_string(dir.path().join(format!("{program}.asked"))).unwrap();
                let begins = format!("{}/{program} ", dir.path().display());
                log.trim().strip_prefix(&begins).unwrap().to_owned()
            });
            assert_eq!(done, expected, "{kind}");
        }
    }

    #[test]
    fn a_device_that_cannot_be_read_is_not_empty() {
        let device = tempfile::NamedTempFile::new().unwrap();
        let (_dir, host) = host(&[("blkid", 2, ""), ("mkfs.ext4", 0, "")]);
        let done = host.make_ready(device.path(), device.as_file(), "ext4", false);
        assert!(matches!(done, Err(ProgramError::Unknown { .. })), "{done:?}");
    }
}
