//! The one place where errors become ttrpc codes, and codes become errors again.
//!
//! Codes follow containerd's `errdefs`: what a caller can tell apart is the variant, the message is for people.

use ttrpc::{Code, Error as RpcError};

/// Why a Task call failed, the same type on both sides of the socket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// No such container, or no such exec in it.
    #[error("{0}")]
    NotFound(String),
    /// A container or exec of that id is there already.
    #[error("{0}")]
    AlreadyExists(String),
    /// The request or the bundle cannot be used as it is.
    #[error("{0}")]
    InvalidArgument(String),
    /// The container is in a state which does not allow the call.
    #[error("{0}")]
    FailedPrecondition(String),
    /// This runtime does not offer the call.
    #[error("{0}")]
    Unimplemented(String),
    /// The call took longer than its limit.
    #[error("{0}")]
    Timeout(String),
    /// The shim is not there (any more): start it again, or clean up after it.
    #[error("{0}")]
    Disconnected(String),
    /// Everything else; the message names the step that failed.
    #[error("{0}")]
    Internal(String),
}

impl TaskError {
    /// An [`TaskError::Internal`] from any error, with the step that failed in front.
    pub fn internal(step: &str, error: impl std::fmt::Display) -> Self {
        Self::Internal(format!("{step}: {error}"))
    }

    fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NOT_FOUND,
            Self::AlreadyExists(_) => Code::ALREADY_EXISTS,
            Self::InvalidArgument(_) => Code::INVALID_ARGUMENT,
            Self::FailedPrecondition(_) => Code::FAILED_PRECONDITION,
            Self::Unimplemented(_) => Code::UNIMPLEMENTED,
            Self::Timeout(_) => Code::DEADLINE_EXCEEDED,
            Self::Disconnected(_) => Code::UNAVAILABLE,
            Self::Internal(_) => Code::UNKNOWN,
        }
    }

    fn from_code(code: Code, message: String) -> Self {
        match code {
            Code::NOT_FOUND => Self::NotFound(message),
            Code::ALREADY_EXISTS => Self::AlreadyExists(message),
            Code::INVALID_ARGUMENT => Self::InvalidArgument(message),
            Code::FAILED_PRECONDITION => Self::FailedPrecondition(message),
            Code::UNIMPLEMENTED => Self::Unimplemented(message),
            Code::DEADLINE_EXCEEDED => Self::Timeout(message),
            Code::UNAVAILABLE => Self::Disconnected(message),
            _ => Self::Internal(message),
        }
    }
}

impl From<TaskError> for RpcError {
    fn from(error: TaskError) -> Self {
        ttrpc::error::get_rpc_status(error.code(), error.to_string())
    }
}

impl From<RpcError> for TaskError {
    fn from(error: RpcError) -> Self {
        match error {
            RpcError::RpcStatus(status) => Self::from_code(status.code(), status.message),
            RpcError::Socket(_)
            | RpcError::Nix(_)
            | RpcError::LocalClosed
            | RpcError::RemoteClosed
            | RpcError::Eof => Self::Disconnected(format!("connection to the shim was lost: {error}")),
            RpcError::Others(message) => {
                Self::Disconnected(format!("connection to the shim failed: {message}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_the_wire() {
        for error in [
            TaskError::NotFound("a".into()),
            TaskError::AlreadyExists("b".into()),
            TaskError::InvalidArgument("c".into()),
            TaskError::FailedPrecondition("d".into()),
            TaskError::Unimplemented("e".into()),
            TaskError::Timeout("f".into()),
            TaskError::Disconnected("g".into()),
            TaskError::Internal("h".into()),
        ] {
            assert_eq!(TaskError::from(RpcError::from(error.clone())), error);
        }
    }

    #[test]
    fn a_lost_socket_is_a_disconnect() {
        assert!(matches!(
            TaskError::from(RpcError::Eof),
            TaskError::Disconnected(_)
        ));
    }
}
