//! Containers of every sort.
use std::collections::HashSet;
use std::fmt::{self, Display};

use serde_json::Value;

use super::pod::Place;
use super::volumes::Good;
use super::{
    PROTOCOLS, Seen, complain, complain_number, duplicates, env, lifecycle, mounts, one_of, resources,
    restarts, security,
};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;

const INIT_ONLY: &str = "may not be set for init containers without restartPolicy=Always";
const NOT_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// The path of a container.
#[derive(Clone, Copy)]
pub(super) struct At<P> {
    spec: P,
    list: &'static str,
    index: usize,
}

impl<P: Display> Display for At<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}[{}]", self.spec, self.list, self.index)
    }
}

/// Every container of a Pod spec at `path`, with its own path, in the order in which upstream visits them.
pub(super) fn all<P: Display + Copy>(spec: &Value, path: P) -> impl Iterator<Item = (&Value, At<P>)> + Clone {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    lists.into_iter().flat_map(move |list| {
        let containers = spec.list(list).iter().enumerate();
        let at = move |index| At {
            spec: path,
            list,
            index,
        };
        containers.map(move |(i, container)| (container, at(i)))
    })
}

/// What is around a container: the spec of its Pod, and what in it the container may name.
struct Around<'a> {
    spec: &'a Value,
    volumes: &'a Good<'a>,
    claims: Vec<&'a str>,
}

/// A Pod with more would have a status of megabytes, written anew with each of their changes. Upstream takes as many as its store does.
const CONTAINERS: usize = 4096;

/// All containers of a Pod spec at `path`.
pub(super) fn containers(spec: &Value, volumes: &Good<'_>, path: impl Display + Copy) -> FieldErrors {
    let around = Around {
        spec,
        volumes,
        claims: resources::claim_names(spec),
    };
    let at = format_args!("{path}.containers");
    let mut errors = match spec.list("containers") {
        [] => vec![FieldError::required(at, "")],
        many if many.len() > CONTAINERS => vec![FieldError::too_many(at, many.len(), CONTAINERS)],
        _ => main_containers(&around, at),
    };
    errors.extend(init_containers(&around, path));
    errors.extend(ephemeral_containers(&around, path));
    errors
}

fn main_containers(around: &Around<'_>, path: impl Display + Copy) -> FieldErrors {
    let spec = around.spec;
    let main = spec.list("containers");
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, container) in main.iter().enumerate() {
        let at = format_args!("{path}[{i}]");
        errors.extend(common(container, around, at));
        if seen.again(container.text("name")) {
            let name = container.text("name");
            errors.push(FieldError::duplicate(format!("{at}.name"), name));
        }
        errors.extend(lifecycle::lifecycle(container, spec, at));
        errors.extend(restarts::rules(container, at));
    }
    errors.extend(host_port_conflicts(main, path));
    errors
}

fn init_containers(around: &Around<'_>, path: impl Display + Copy) -> FieldErrors {
    let spec = around.spec;
    let list = format_args!("{path}.initContainers");
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    seen.0
        .extend(spec.list("containers").iter().map(|c| c.text("name").to_owned()));
    for (i, container) in spec.list("initContainers").iter().enumerate() {
        let at = format_args!("{list}[{i}]");
        errors.extend(common(container, around, at));
        errors.extend(restarts::rules(container, at));
        let name = container.text("name");
        if !name.is_empty() && seen.again(name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), name));
        }
        errors.extend(host_port_conflicts(std::slice::from_ref(container), list));
        errors.extend(init_lifecycle(container, spec, at));
        errors.extend(restarts::init_resize(container, at));
    }
    errors
}

/// Only init containers that keep running have hooks and probes.
fn init_lifecycle(container: &Value, spec: &Value, path: impl Display + Copy) -> FieldErrors {
    if container.text("restartPolicy") == "Always" {
        return lifecycle::lifecycle(container, spec, path);
    }
    let keys = std::iter::once("lifecycle").chain(PROBES);
    let set = keys.filter(|key| container.has(key));
    set.map(|key| FieldError::forbidden(format!("{path}.{key}"), INIT_ONLY))
        .collect()
}

fn ephemeral_containers(around: &Around<'_>, path: impl Display + Copy) -> FieldErrors {
    let spec = around.spec;
    let fixed = spec.list("containers").iter().chain(spec.list("initContainers"));
    let fixed: HashSet<&str> = fixed.map(|c| c.text("name")).collect();
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, container) in spec.list("ephemeralContainers").iter().enumerate() {
        let at = format_args!("{path}.ephemeralContainers[{i}]");
        errors.extend(common(container, around, at));
        errors.extend(image_padding(container, at));
        let (name, target) = (container.text("name"), container.text("targetContainerName"));
        if fixed.contains(name) || seen.again(name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), name));
        }
        if !target.is_empty() && !fixed.contains(target) {
            errors.push(FieldError::not_found(format!("{at}.targetContainerName"), target));
        }
        errors.extend(not_ephemeral(container, at));
    }
    errors
}

fn not_ephemeral(container: &Value, path: impl Display + Copy) -> FieldErrors {
    let set = |key: &&str| match container.at(key) {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    let keys = [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ];
    let forbid = |key: &dyn Display| FieldError::forbidden(format!("{path}.{key}"), NOT_EPHEMERAL);
    let mut errors: FieldErrors = keys.iter().filter(|k| set(k)).map(|k| forbid(k)).collect();
    for (i, mount) in container.list("volumeMounts").iter().enumerate() {
        let set = ["subPath", "subPathExpr"]
            .into_iter()
            .filter(|k| !mount.text(k).is_empty());
        errors.extend(set.map(|k| forbid(&format_args!("volumeMounts[{i}].{k}"))));
    }
    errors
}

/// What every container must have.
fn common(container: &Value, around: &Around<'_>, path: impl Display + Copy) -> FieldErrors {
    let (spec, volumes) = (around.spec, around.volumes);
    let name = container.text("name");
    let mut errors = match name {
        "" => vec![FieldError::required(format!("{path}.name"), "")],
        name => complain(format_args!("{path}.name"), name, names::label(name)),
    };
    errors.extend(super::present(container, "image", path));
    let policies = ["File", "FallbackToLogsOnError"];
    let policy = container.text("terminationMessagePolicy");
    errors.extend(one_of(
        format_args!("{path}.terminationMessagePolicy"),
        policy,
        &policies,
    ));
    errors.extend(ports(container.list("ports"), format_args!("{path}.ports")));
    errors.extend(env::variables(container.list("env"), format_args!("{path}.env")));
    errors.extend(env::sources(
        container.list("envFrom"),
        format_args!("{path}.envFrom"),
    ));
    errors.extend(mounts::mounts(container, volumes, path));
    errors.extend(mounts::devices(container, volumes, path));
    let policies = ["Always", "IfNotPresent", "Never"];
    errors.extend(one_of(
        format_args!("{path}.imagePullPolicy"),
        container.text("imagePullPolicy"),
        &policies,
    ));
    errors.extend(resources::requirements(
        container.at("resources"),
        &around.claims,
        format_args!("{path}.resources"),
    ));
    errors.extend(restarts::resize(
        container,
        spec.text("restartPolicy"),
        format_args!("{path}.resizePolicy"),
    ));
    let own_users = spec.at("hostUsers") == &Value::Bool(false);
    errors.extend(security::container(
        container.at("securityContext"),
        own_users,
        format_args!("{path}.securityContext"),
    ));
    errors
}

/// Spaces around an image are a mistake in a Pod; templates may hold them for later replacement.
pub(super) fn image_padding(container: &Value, path: impl Display + Copy) -> Option<FieldError> {
    let image = container.text("image");
    let padded = image.trim().len() != image.len();
    padded.then(|| {
        FieldError::invalid(
            format!("{path}.image"),
            image,
            "must not have leading or trailing whitespace",
        )
    })
}

fn ports(ports: &[Value], path: impl Display + Copy) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, port) in ports.iter().enumerate() {
        let at = format_args!("{path}[{i}]");
        errors.extend(port_name(port, &mut seen, at));
        match port.int("containerPort").unwrap_or(0) {
            0 => errors.push(FieldError::required(format!("{at}.containerPort"), "")),
            number => errors.extend(complain_number(
                format_args!("{at}.containerPort"),
                number,
                names::port_number(number),
            )),
        }
        if let Some(number) = port.int("hostPort").filter(|n| *n != 0) {
            errors.extend(complain_number(
                format_args!("{at}.hostPort"),
                number,
                names::port_number(number),
            ));
        }
        errors.extend(one_of(
            format_args!("{at}.protocol"),
            port.text("protocol"),
            &PROTOCOLS,
        ));
    }
    errors
}

fn port_name(port: &Value, seen: &mut Seen, path: impl Display + Copy) -> FieldErrors {
    let (name, path) = (port.text("name"), format!("{path}.name"));
    if name.is_empty() {
        return Vec::new();
    }
    let complaints = names::port_name(name);
    match complaints.is_empty() && seen.again(name) {
        true => vec![FieldError::duplicate(path, name)],
        false => complain(&path, name, complaints),
    }
}

fn host_port_conflicts(containers: &[Value], path: impl Display + Copy) -> FieldErrors {
    let mut keys = Vec::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in container.list("ports").iter().enumerate() {
            if let Some(number) = port.int("hostPort").filter(|n| *n != 0) {
                let key = format!("{}/{}/{number}", port.text("protocol"), port.text("hostIP"));
                keys.push((format!("{path}[{i}].ports[{j}].hostPort"), key));
            }
        }
    }
    duplicates(keys.iter().map(|(path, key)| (path.clone(), key.as_str())))
}

/// On the host's network the host port is the container's port.
pub(super) fn host_network_ports(spec: &Value, path: impl Display + Copy, place: Place) -> FieldErrors {
    if !spec.flag("hostNetwork") {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for (i, container) in spec.list("containers").iter().enumerate() {
        for (j, port) in container.list("ports").iter().enumerate() {
            let (host, own) = (
                port.int("hostPort").unwrap_or(0),
                port.int("containerPort").unwrap_or(0),
            );
            if (place == Place::Pod || host != 0) && host != own {
                let at = format_args!("{path}.containers[{i}].ports[{j}].hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(at, host, detail));
            }
        }
    }
    errors
}
