//! Typed questions to a Pod object: its containers and their roles, restart policy, names. Owns no state.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};
use sha2::{Digest, Sha256};

/// Grace a Pod gets when neither it nor its deletion names one; upstream's default.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// Action of a rule: everything of the Pod starts anew (KEP-5532).
pub const RESTART_ALL: &str = "RestartAllContainers";

/// What a container is in its Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before those after it.
    Init,
    /// An init container with `restartPolicy: Always` (KEP-753).
    Sidecar,
    Main,
    /// Added to the Pod while it is there, runs once (KEP-277).
    Ephemeral,
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// A Pod with its spec at hand.
#[derive(Clone, Copy)]
pub struct PodView<'a> {
    pub pod: &'a Pod,
    pub spec: &'a PodSpec,
}

impl<'a> PodView<'a> {
    /// `None` for an object without a spec, which no API server stores.
    pub fn new(pod: &'a Pod) -> Option<Self> {
        pod.spec.as_ref().map(|spec| PodView { pod, spec })
    }

    pub fn name(&self) -> &'a str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn namespace(&self) -> &'a str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub fn uid(&self) -> &'a str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// `name_namespace(uid)`, as upstream names a Pod in messages.
    pub fn full_name(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }

    pub fn restart_policy(&self) -> RestartPolicy {
        match self.spec.restart_policy.as_deref() {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        }
    }

    pub fn init_containers(&self) -> &'a [Container] {
        self.spec.init_containers.as_deref().unwrap_or_default()
    }

    /// Every container of the Pod as it was made, in starting order, with its role.
    pub fn containers(&self) -> impl Iterator<Item = (&'a Container, Role)> + use<'a> {
        let init = self.init_containers().iter().map(|c| (c, init_role(c)));
        init.chain(self.spec.containers.iter().map(|c| (c, Role::Main)))
    }

    /// Containers added since.
    pub fn ephemeral(&self) -> &'a [EphemeralContainer] {
        self.spec.ephemeral_containers.as_deref().unwrap_or_default()
    }

    /// The container of this name, of whatever role.
    pub fn container(&self, name: &str) -> Option<(Cow<'a, Container>, Role)> {
        let made = self.containers().find(|(c, _)| c.name == name);
        let added = || self.ephemeral().iter().find(|c| c.name == name);
        made.map(|(c, role)| (Cow::Borrowed(c), role))
            .or_else(|| added().map(|c| (Cow::Owned(as_container(c)), Role::Ephemeral)))
    }

    /// `spec.containers{name}` or `spec.initContainers{name}`, as events refer to a container.
    pub fn field_path(&self, name: &str) -> String {
        match self.container(name) {
            Some((_, Role::Ephemeral)) => format!("spec.ephemeralContainers{{{name}}}"),
            Some((_, Role::Init | Role::Sidecar)) => format!("spec.initContainers{{{name}}}"),
            _ => format!("spec.containers{{{name}}}"),
        }
    }

    pub fn is_deleted(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Seconds between SIGTERM and SIGKILL now, at least 1 once the Pod is deleted (as upstream).
    pub fn grace_seconds(&self) -> i64 {
        let own = self
            .spec
            .termination_grace_period_seconds
            .unwrap_or(DEFAULT_GRACE_SECONDS);
        match self.pod.metadata.deletion_grace_period_seconds {
            Some(grace) if self.is_deleted() => grace.max(1),
            _ => own.max(1),
        }
    }
}

/// An ephemeral container as any other; what it cannot have stays empty.
pub fn as_container(c: &EphemeralContainer) -> Container {
    let c = c.clone();
    Container {
        name: c.name,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        command: c.command,
        args: c.args,
        working_dir: c.working_dir,
        env: c.env,
        env_from: c.env_from,
        volume_mounts: c.volume_mounts,
        volume_devices: c.volume_devices,
        security_context: c.security_context,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        ..Container::default()
    }
}

fn init_role(container: &Container) -> Role {
    match container.restart_policy.as_deref() {
        Some("Always") => Role::Sidecar,
        _ => Role::Init,
    }
}

/// Whether a container that ended so starts again: a sidecar always, an init container never after success, else as its
/// own rules and policy say (KEP-5307), else as the Pod's.
pub fn restarts_after(role: Role, container: &Container, pod: RestartPolicy, exit_code: i32) -> bool {
    match role {
        Role::Sidecar => true,
        Role::Ephemeral => false,
        Role::Init if exit_code == 0 => false,
        _ if matches!(rule_action(container, exit_code), Some("Restart" | RESTART_ALL)) => true,
        _ => match policy_of(container, pod) {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit_code != 0,
            RestartPolicy::Never => false,
        },
    }
}

/// The container's own policy, else its Pod's.
pub fn policy_of(container: &Container, pod: RestartPolicy) -> RestartPolicy {
    match container.restart_policy.as_deref() {
        None => pod,
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some(_) => RestartPolicy::Always,
    }
}

/// What the first of the container's rules that is about such an end says to do.
pub fn rule_action(container: &Container, exit_code: i32) -> Option<&str> {
    let mut rules = container.restart_policy_rules.iter().flatten();
    let rule = rules.find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
            listed == (codes.operator == "In")
        })
    })?;
    Some(&rule.action)
}

/// Hash of what makes a container another one when changed in place: name and image, as upstream.
pub fn spec_hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    hex::encode(&Sha256::digest(format!("{}\0{image}", container.name))[..8])
}
