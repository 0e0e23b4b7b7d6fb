//! What went wrong on the way into a container, in words that end up before a Kubernetes user.

use std::io;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("{step}: {source}")]
    Step { step: String, source: io::Error },
    /// The bundle asks for something that is refused, whatever the host could do.
    #[error("{0}")]
    Refused(String),
}

/// Names the step an error came from.
pub trait During<T> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T, InitError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T, InitError> {
        self.map_err(|e| InitError::Step {
            step: step(),
            source: e.into(),
        })
    }
}

/// Errno's text without Rust's "(os error N)", as other runtimes print it.
pub fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}
