//! `postStart` and `preStop` of a container (Concepts, Container Lifecycle Hooks): a command in it, a request to it, or a
//! pause. Refuses to know when they are due.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::context::Context;
use super::record::Record;
use super::view::PodView;
use crate::events::Severity::Warning;
use crate::exec::ExecError;
use crate::probes::hook;

/// A hook that hangs is waited for; whoever ends the container, or its grace period, ends the wait. This is for ever.
pub const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error(
        "Exec lifecycle hook ([{}]) for Container {container:?} in Pod {pod:?} failed - error: {why}, message: {output:?}", command.join(" ")
    )]
    Exec {
        command: Vec<String>,
        container: String,
        pod: String,
        why: String,
        output: String,
    },
    #[error("HTTP lifecycle hook ({path}) for Container {container:?} in Pod {pod:?} failed - error: {why}")]
    Http {
        path: String,
        container: String,
        pod: String,
        why: String,
    },
    #[error("Cannot run handler: invalid handler: a lifecycle hook is exec, httpGet or sleep")]
    Handler,
    #[error("the hook took longer than {0:?}")]
    TimedOut(Duration),
}

impl HookError {
    /// A pause that its container's end cuts short has not failed; a command or a request then fails with it.
    pub fn is_told(&self, of: &LifecycleHandler) -> bool {
        of.sleep.is_none() || !matches!(self, Self::TimedOut(_))
    }
}

/// A hook and what it is for.
pub struct Hook<'a> {
    pub ctx: &'a Context,
    pub pod: PodView<'a>,
    pub container: &'a Container,
    pub record: &'a Record,
    /// Where requests go that name no host.
    pub ip: Option<IpAddr>,
}

impl Hook<'_> {
    /// Runs a handler to its end.
    pub async fn run(&self, handler: &LifecycleHandler, limit: Duration) -> Result<(), HookError> {
        let doing = self.act(handler, limit);
        match tokio::time::timeout(limit, doing).await {
            Ok(done) => done,
            Err(_) => Err(HookError::TimedOut(limit)),
        }
    }

    async fn act(&self, handler: &LifecycleHandler, limit: Duration) -> Result<(), HookError> {
        if let Some(exec) = &handler.exec {
            return self.exec(exec.command.clone().unwrap_or_default(), limit).await;
        }
        if let Some(get) = &handler.http_get {
            let failed = |why| HookError::Http {
                path: get.path.clone().unwrap_or_default(),
                container: self.container.name.clone(),
                pod: self.pod.full_name(),
                why,
            };
            let answered = hook::ask(get, self.container, self.ip, limit)
                .await
                .map_err(failed)?;
            if let Some(host) = answered.without_tls {
                let text = format!(
                    "request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded"
                );
                self.ctx
                    .recorder
                    .pod(self.pod, Warning, "LifecycleHTTPFallback", text);
            }
            return Ok(());
        }
        if let Some(sleep) = &handler.sleep {
            let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            return Ok(());
        }
        Err(HookError::Handler)
    }

    async fn exec(&self, command: Vec<String>, limit: Duration) -> Result<(), HookError> {
        let failed = |why: String, output: String| HookError::Exec {
            command: command.clone(),
            container: self.container.name.clone(),
            pod: self.pod.full_name(),
            why,
            output,
        };
        let target = self.ctx.target(self.pod, self.record);
        let target = target.ok_or_else(|| failed("the container does not run".into(), String::new()))?;
        match self.ctx.execs.run(&target, command.clone(), limit).await {
            Ok(done) if done.status == 0 => Ok(()),
            Ok(done) => {
                let command = command.join(" ");
                let why = format!("command '{command}' exited with {}: {}", done.status, done.errors);
                Err(failed(why, done.output))
            }
            Err(ExecError::TimedOut { limit, .. }) => Err(HookError::TimedOut(limit)),
            Err(error) => Err(failed(error.to_string(), String::new())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_in_upstreams_words() {
        let exec = HookError::Exec {
            command: ["sh", "-c", "exit 3"].map(str::to_owned).to_vec(),
            container: "c".into(),
            pod: "p_n(u)".into(),
            why: "command 'sh -c exit 3' exited with 3: no\n".into(),
            output: "so\nno\n".into(),
        };
        assert_eq!(
            exec.to_string(),
            "Exec lifecycle hook ([sh -c exit 3]) for Container \"c\" in Pod \"p_n(u)\" failed - error: command 'sh -c exit 3' exited \
             with 3: no\n, message: \"so\\nno\\n\""
        );
    }

    #[test]
    fn a_pause_that_is_cut_short_is_no_failure() {
        let late = || HookError::TimedOut(Duration::from_secs(1));
        for (handler, error, expected) in [
            (serde_json::json!({"sleep": {"seconds": 9}}), late(), false),
            (serde_json::json!({"exec": {"command": ["a"]}}), late(), true),
            (serde_json::json!({"httpGet": {"port": 1}}), late(), true),
            (serde_json::json!({}), HookError::Handler, true),
        ] {
            let handler = serde_json::from_value(handler).unwrap();
            assert_eq!(error.is_told(&handler), expected, "{handler:?}");
        }
    }
}
