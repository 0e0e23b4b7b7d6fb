//! Running guests: their WASI world, their outputs, commands, and HTTP handlers.

pub mod blob_body;
pub mod blobs;
pub mod body;
pub mod bucket;
pub mod command;
pub mod debug;
pub mod folder;
pub mod http;
mod ids;
pub mod input;
pub mod instance;
mod launch;
mod linger;
mod namespace;
pub mod narrowing;
pub mod outgoing;
pub mod output;
pub mod pod;
mod request;
pub mod terminal;
pub mod wasi;
pub mod workers;

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It returned or exited by itself.
    Exited(u8),
    /// It trapped: shells and the wasmtime CLI show that as SIGABRT.
    Trapped,
    /// It asked for more memory than its limit.
    OutOfMemory,
    /// A signal ended it.
    Signalled(u8),
}

impl Ending {
    /// The exit status as a process would have shown it to a shell.
    pub fn status(self) -> u32 {
        const SIGNAL_BASE: u32 = 128;
        match self {
            Self::Exited(code) => u32::from(code),
            Self::Trapped => SIGNAL_BASE + libc::SIGABRT as u32,
            Self::OutOfMemory => SIGNAL_BASE + libc::SIGKILL as u32,
            Self::Signalled(signal) => SIGNAL_BASE + u32::from(signal),
        }
    }
}

/// What a signal does to a guest. Guests cannot catch signals, so each has its default disposition (signal(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Nothing happens.
    Ignore,
    /// Stop accepting, let requests under way finish, then end; a command ends at once.
    Drain,
    /// End now.
    End,
}

/// The disposition of a signal.
pub fn disposition(signal: u8) -> Disposition {
    match i32::from(signal) {
        0 | libc::SIGCHLD | libc::SIGCONT | libc::SIGURG | libc::SIGWINCH => Disposition::Ignore,
        // Job control has no meaning for a guest without terminal.
        libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => Disposition::Ignore,
        libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT => Disposition::Drain,
        _ => Disposition::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_as_a_shell_shows_them() {
        for (ending, status) in [
            (Ending::Exited(0), 0),
            (Ending::Exited(7), 7),
            (Ending::Trapped, 134),
            (Ending::OutOfMemory, 137),
            (Ending::Signalled(15), 143),
        ] {
            assert_eq!(ending.status(), status);
        }
    }

    #[test]
    fn dispositions() {
        assert_eq!(disposition(15), Disposition::Drain);
        assert_eq!(disposition(9), Disposition::End);
        assert_eq!(disposition(10), Disposition::End);
        assert_eq!(disposition(28), Disposition::Ignore);
        assert_eq!(disposition(0), Disposition::Ignore);
    }
}
