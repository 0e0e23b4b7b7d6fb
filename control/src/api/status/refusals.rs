//! What the store's errors and admission's refusals become.
use super::{ApiError, details};
use crate::admission::Denial;
use crate::kinds::Kind;
use crate::store::{ReadError, Revision, WatchError, WriteError};
use http::StatusCode;
use serde_json::{Value, json};

impl ApiError {
    /// A refusal in another's words.
    fn refused(code: u16, reason: String, message: String, details: Option<Value>) -> Self {
        let code = StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST);
        ApiError {
            reason: reason.into(),
            details,
            ..ApiError::new(code, "", message)
        }
    }

    /// A policy's refusal: said as any is, under the code of the policy's reason.
    fn by_policy(kind: &Kind, name: &str, why: &str, reason: &str) -> Self {
        let mut error = Self::forbidden(&kind.group, &kind.plural, name, why);
        let (code, reason) = match reason {
            "Unauthorized" => (StatusCode::UNAUTHORIZED, "Unauthorized"),
            "Forbidden" => (StatusCode::FORBIDDEN, "Forbidden"),
            "RequestEntityTooLarge" => (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge"),
            _ => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
        };
        (error.code, error.reason) = (code, reason.into());
        if let Some(about) = &mut error.details {
            about["causes"] = json!([{"message": why}]);
        }
        error
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted { wanted, oldest } => ApiError::expired(format!(
                "The provided resource version is too old: {wanted} ({oldest})"
            )),
            ReadError::Future { wanted, newest } => ApiError::too_large_revision(wanted, newest),
            ReadError::Backend(_) => ApiError::internal(error),
        }
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::KeyTooLong { .. } => ApiError::bad_request(error.to_string()),
            WriteError::Closed | WriteError::Backend(_) => ApiError::internal(error),
        }
    }
}

impl From<WatchError> for ApiError {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Compacted { wanted, oldest } => too_old(wanted, oldest),
            WatchError::Lagged | WatchError::Backend(_) => ApiError::internal(error),
        }
    }
}

/// A watch asked for history that is gone.
pub fn too_old(wanted: Revision, oldest: Revision) -> ApiError {
    ApiError::expired(format!("too old resource version: {wanted} ({oldest})"))
}

/// What admission refused, for an object of this kind.
pub fn denied(kind: &Kind, name: &str, denial: Denial) -> ApiError {
    match denial {
        Denial::NoNamespace(namespace) => {
            let message = format!("namespaces {namespace:?} not found");
            ApiError::new(StatusCode::NOT_FOUND, "NotFound", message).with(details(
                &namespace,
                "",
                "namespaces",
            ))
        }
        Denial::Terminating(namespace) => ApiError::terminating(kind, name, &namespace),
        Denial::Forbidden(why) | Denial::NotYet(why) => {
            ApiError::forbidden(&kind.group, &kind.plural, name, &why)
        }
        Denial::Invalid(errors) => ApiError::invalid(&kind.kind, &kind.group, name, &errors),
        Denial::Policy { message, reason } => ApiError::by_policy(kind, name, &message, &reason),
        Denial::Mutation { messages, reason } => {
            let first = messages.first().cloned().unwrap_or_default();
            let mut error = ApiError::forbidden(&kind.group, &kind.plural, name, &first);
            if let Some(about) = &mut error.details {
                let causes = messages.iter().map(|message| json!({"message": message}));
                about["causes"] = causes.collect();
            }
            // Upstream says only what the first policy did (`policyDispatcher.Dispatch`).
            (error.reason, error.message) = (reason.into(), first);
            error
        }
        Denial::Refused {
            code,
            reason,
            message,
            details,
        } => ApiError::refused(code, reason, message, details),
        Denial::Failed(why) => ApiError::internal(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_that_is_gone_is_410_and_the_future_504() {
        let (wanted, oldest) = (3, 7);
        let of_list = ApiError::from(ReadError::Compacted { wanted, oldest });
        let of_watch = ApiError::from(WatchError::Compacted { wanted, oldest });
        for (error, message) in [
            (of_list, "The provided resource version is too old: 3 (7)"),
            (of_watch, "too old resource version: 3 (7)"),
        ] {
            let status = error.status();
            assert_eq!(
                (status["code"].as_u64(), &status["reason"]),
                (Some(410), &json!("Expired"))
            );
            assert_eq!(status["message"], message);
        }
        let future = ApiError::from(ReadError::Future { wanted: 9, newest: 8 });
        assert_eq!(future.status()["code"], 504);
    }
}
