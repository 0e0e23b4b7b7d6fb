//! One probe as the spec gives it, made ready to run: what to ask, where, and for how long.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::grpc::GrpcCheck;
use super::http::{AGENT, HttpCheck};
use super::{Target, dial, seconds};
use crate::env::expand::expand;
use crate::exec::{self, ExecError, Execs};

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Success, with something the user should know.
    Warning(String),
    Failure(String),
    /// The probe itself did not work: nothing is known of the container.
    Error(String),
    /// The answer began and broke off. As little is known, but upstream calls it a failure.
    BrokenOff(String),
}

impl Outcome {
    /// As metrics name it; one that did not work is not counted.
    pub fn result(&self) -> Option<&'static str> {
        match self {
            Outcome::Success | Outcome::Warning(_) => Some("successful"),
            Outcome::Failure(_) => Some("failed"),
            Outcome::Error(_) | Outcome::BrokenOff(_) => None,
        }
    }
}

/// A probe that did not work is tried so often before that is its outcome, as upstream does.
const ATTEMPTS: usize = 3;

/// What to do to probe a container.
#[derive(Clone, Debug)]
pub struct Check {
    action: Action,
    timeout: Duration,
}

#[derive(Clone, Debug)]
enum Action {
    Http(HttpCheck),
    Tcp { host: String, port: u16 },
    Grpc(GrpcCheck),
    Exec { run: Exec, command: Vec<String> },
    Impossible(String),
}

impl Check {
    pub fn of(probe: &Probe, target: &Target) -> Self {
        let action = action(probe, target).unwrap_or_else(Action::Impossible);
        Self {
            action,
            timeout: seconds(probe.timeout_seconds, 1),
        }
    }

    pub async fn run(&self) -> Outcome {
        let mut outcome = self.once().await;
        for _ in 1..ATTEMPTS {
            if !matches!(outcome, Outcome::Error(_) | Outcome::BrokenOff(_)) {
                break;
            }
            outcome = self.once().await;
        }
        outcome
    }

    async fn once(&self) -> Outcome {
        match &self.action {
            Action::Http(check) => check.run(self.timeout).await,
            Action::Tcp { host, port } => match dial::connect(host, *port, self.timeout).await {
                Ok(_) => Outcome::Success,
                Err(error) => Outcome::Failure(error.to_string()),
            },
            Action::Grpc(check) => check.run(self.timeout).await,
            Action::Exec { run, command } => run.check(command, self.timeout).await,
            Action::Impossible(why) => Outcome::Error(why.clone()),
        }
    }
}

/// How commands are run in the container.
#[derive(Clone, Debug)]
pub struct Exec {
    pub execs: Execs,
    pub target: exec::Target,
}

impl Exec {
    /// Success is exit code 0; what the command said is what a failure says.
    async fn check(&self, command: &[String], within: Duration) -> Outcome {
        match self.execs.run(&self.target, command.to_vec(), within).await {
            Ok(done) if done.status == 0 => Outcome::Success,
            Ok(done) => Outcome::Failure(done.output),
            Err(error @ ExecError::TimedOut { .. }) => Outcome::Failure(error.to_string()),
            Err(error) => Outcome::Error(error.to_string()),
        }
    }
}

/// The request of an action, to the host it names or this one.
pub fn http(
    get: &HTTPGetAction,
    container: &Container,
    own: IpAddr,
    agent: &'static str,
) -> Result<HttpCheck, String> {
    let port = port(&get.port, container)?;
    Ok(HttpCheck::new(get, host(&get.host, own), port, agent))
}

fn host(given: &Option<String>, own: IpAddr) -> String {
    match given.as_deref() {
        None | Some("") => own.to_string(),
        Some(host) => host.to_owned(),
    }
}

fn action(probe: &Probe, target: &Target) -> Result<Action, String> {
    let (container, own) = (&target.container, target.pod_ip);
    if let Some(get) = &probe.http_get {
        return http(get, container, own, AGENT).map(Action::Http);
    }
    if let Some(tcp) = &probe.tcp_socket {
        return Ok(Action::Tcp {
            host: host(&tcp.host, own),
            port: port(&tcp.port, container)?,
        });
    }
    if let Some(grpc) = &probe.grpc {
        return Ok(Action::Grpc(GrpcCheck {
            host: own.to_string(),
            port: port(&IntOrString::Int(grpc.port), container)?,
            service: grpc.service.clone().unwrap_or_default(),
        }));
    }
    if let Some(exec) = &probe.exec {
        let run = target.exec.clone();
        return Ok(Action::Exec {
            run: run.ok_or("the container's runtime runs no commands in it")?,
            command: command(exec, container),
        });
    }
    Err(format!("missing probe handler for container {}", container.name))
}

/// The command with variables that the container's object itself gives values; one from elsewhere says nothing, as upstream.
fn command(exec: &ExecAction, container: &Container) -> Vec<String> {
    let value = |name: &str| {
        let mut all = container.env.iter().flatten().rev();
        let variable = all.find(|variable| variable.name == name)?;
        Some(variable.value.clone().unwrap_or_default())
    };
    let words = exec.command.iter().flatten();
    words.map(|word| expand(word, value)).collect()
}

/// A port by number or by the name the container gives it.
fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_ref() == Some(name));
            named.map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    let number = number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0);
    number.ok_or_else(|| match port {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        // As upstream has it, who takes a name that no port has for a number.
        IntOrString::String(name) => format!("strconv.Atoi: parsing {name:?}: invalid syntax"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_object_stand_for_their_values_in_commands() {
        let container: Container = serde_json::from_value(serde_json::json!({"name": "c", "env": [
            {"name": "A", "value": "old"}, {"name": "A", "value": "one"},
            {"name": "FIELD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}))
        .unwrap();
        let exec = ExecAction {
            command: Some(
                ["test", "$(A)-$(B)", "$$(A)", "<$(FIELD)>"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
        };
        assert_eq!(command(&exec, &container), ["test", "one-$(B)", "$(A)", "<>"]);
        assert!(command(&ExecAction::default(), &container).is_empty());
    }

    #[test]
    fn ports_are_found_by_number_and_by_name() {
        let container: Container = serde_json::from_value(
            serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}),
        )
        .unwrap();
        let named = |name: &str| port(&IntOrString::String(name.into()), &container);
        assert_eq!(port(&IntOrString::Int(80), &container), Ok(80));
        assert_eq!(named("web"), Ok(8080));
        assert_eq!(named("81"), Ok(81));
        assert!(named("nope").is_err());
        for number in [0, -1, 70_000] {
            assert!(port(&IntOrString::Int(number), &container).is_err());
        }
    }
}
