//! The last word on the error channel (`v4.channel.k8s.io`): a Status that says how it ended. Pure.

use amphipod_shim_api::client::Exit;
use serde_json::{Value, json};

use crate::exec::{AttachError, ExecError};

/// How a command ended.
pub fn of_exec(outcome: Result<Exit, ExecError>) -> Value {
    match outcome {
        Ok(Exit { status: 0, .. }) => success(),
        Ok(Exit { status, .. }) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {status}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": status.to_string()}]},
        }),
        Err(error) => failure(&format!("error executing command in container: {error}")),
    }
}

/// How listening to a container ended.
pub fn of_attach(outcome: Result<(), AttachError>) -> Value {
    match outcome {
        Ok(()) => success(),
        Err(error) => failure(&format!("error attaching to container: {error}")),
    }
}

/// A Status as the oldest protocol tells it: its message, and nothing of a success.
pub fn sentence(status: &[u8]) -> Option<String> {
    let status: Value = serde_json::from_slice(status).ok()?;
    let failed = status["status"] != "Success";
    failed.then(|| status["message"].as_str().unwrap_or_default().to_owned())
}

pub fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

pub fn failure(why: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {why}"),
        "reason": "InternalError",
        "details": {"causes": [{"message": why}]},
        "code": 500,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_causes() {
        let at = jiff::Timestamp::UNIX_EPOCH;
        assert_eq!(of_exec(Ok(Exit { status: 0, at }))["status"], "Success");
        let failed = of_exec(Ok(Exit { status: 3, at }));
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(
            failed["details"]["causes"][0],
            json!({"reason": "ExitCode", "message": "3"})
        );
        let error = of_exec(Err(ExecError::Unsupported));
        assert_eq!(error["code"], 500);
    }
}
