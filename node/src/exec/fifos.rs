//! The named pipes of one command: made before it starts, read by the agent, gone with the command.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};

use super::Command;

/// The directory with the pipes; removed with the last guard of it.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Directory>);

#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, path = %self.0.display(), "the streams of a command stay");
        }
    }
}

/// The pipes a command was given.
#[derive(Debug)]
pub struct Fifos {
    /// Also the command's id.
    pub name: String,
    guard: Guard,
    made: Vec<&'static str>,
}

/// The agent's ends. A terminal has one output.
#[derive(Debug, Default)]
pub struct Outputs {
    pub stdout: Option<Receiver>,
    pub stderr: Option<Receiver>,
}

impl Fifos {
    pub fn make(root: &Path, command: &Command) -> io::Result<(Self, Outputs)> {
        let name = hex::encode(rand::random::<[u8; 16]>());
        let dir = root.join(&name);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let mut fifos = Fifos {
            name,
            guard: Guard(Arc::new(Directory(dir))),
            made: Vec::new(),
        };
        if command.stdin {
            fifos.add("in")?;
        }
        let mut outputs = Outputs {
            stdout: Some(fifos.add_output("out")?),
            stderr: None,
        };
        if !command.terminal {
            outputs.stderr = Some(fifos.add_output("err")?);
        }
        Ok((fifos, outputs))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.guard.0.0.join(name)
    }

    fn add(&mut self, name: &'static str) -> io::Result<()> {
        mkfifo(&self.path(name), Mode::S_IRUSR | Mode::S_IWUSR)?;
        self.made.push(name);
        Ok(())
    }

    /// Opened before there is a writer: nothing is read until the command has started.
    fn add_output(&mut self, name: &'static str) -> io::Result<Receiver> {
        self.add(name)?;
        OpenOptions::new().open_receiver(self.path(name))
    }

    /// As the Task API wants it; empty for a stream there is not.
    pub fn address(&self, name: &str) -> String {
        match self.made.contains(&name) {
            true => self.path(name).display().to_string(),
            false => String::new(),
        }
    }

    /// The end to write into, once the shim holds the other; `None` when the command has ended already.
    pub fn open_stdin(&mut self) -> Option<Sender> {
        if !self.made.contains(&"in") {
            return None;
        }
        let opened = OpenOptions::new().open_sender(self.path("in"));
        opened
            .inspect_err(|error| tracing::debug!(%error, "a command's input has no reader"))
            .ok()
    }

    pub fn clone_guard(&self) -> Guard {
        self.guard.clone()
    }
}
