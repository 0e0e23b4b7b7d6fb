//! Which runtime handler a Pod's RuntimeClass names (KEP-585), and that there is one of that name here. Decided once for a
//! Pod, and written down: a class that is gone later changes nothing for Pods that run.

use std::fs;
use std::io;
use std::path::PathBuf;

use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;

use super::context::Context;
use super::view::PodView;
use crate::files::write_atomic;

/// What every Pod has that names no class: each container's artifact decides which runtime it is.
pub const DEFAULT: &str = "";
/// Wasm, in the process of the namespace.
pub const WASM: &str = "wasm";
/// Wasm, in a process of the Pod's own.
pub const WASM_ISOLATED: &str = "wasm-isolated";
/// Native programs only.
pub const NATIVE: &str = "linux";

/// What a handler says about the runtime of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The artifact decides.
    Artifact,
    /// WebAssembly in images that do not say so is run too.
    Wasm,
    /// No WebAssembly.
    Native,
}

/// All that there are, as the Node reports them. The last three are names that classes elsewhere have for runtimes which do the
/// same; what they have beside it (Spin's triggers, the extensions of other engines) nobody is promised.
const ALL: [(&str, Rule); 8] = [
    (DEFAULT, Rule::Artifact),
    ("amphipod", Rule::Artifact),
    (WASM, Rule::Wasm),
    (WASM_ISOLATED, Rule::Wasm),
    (NATIVE, Rule::Native),
    ("crun", Rule::Wasm),
    ("wasmtime", Rule::Wasm),
    ("runc", Rule::Native),
];

impl Rule {
    /// The rule of a handler. One that an earlier agent knew and this one does not leaves it to the artifact.
    pub fn of(handler: &str) -> Self {
        let known = ALL.iter().find(|(name, _)| *name == handler);
        known.map_or(Self::Artifact, |(_, rule)| *rule)
    }
}

/// The names of all handlers.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, _)| *name)
}

/// Where the decision is, in the Pod's directory.
const FILE: &str = "runtime-handler";

/// Why a Pod has no runtime.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    #[error("runtimeclass.node.k8s.io {0:?} not found")]
    NoClass(String),
    #[error("failed to lookup RuntimeClass {name}: {source}")]
    Lookup { name: String, source: kube::Error },
    #[error("failed to get sandbox runtime: no runtime for {0:?} is configured")]
    Unknown(String),
    #[error("cannot keep {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

/// The handler of a Pod whose directory is there.
pub async fn of(ctx: &Context, pod: PodView<'_>) -> Result<String, HandlerError> {
    let Some(class) = pod.spec.runtime_class_name.as_deref().filter(|c| !c.is_empty()) else {
        return Ok(DEFAULT.to_owned());
    };
    let path = ctx.dirs(pod).file(FILE);
    let failed = |source| HandlerError::File {
        path: path.clone(),
        source,
    };
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        known => return known.map_err(failed),
    }
    let handler = known(look_up(ctx, class).await?)?;
    let written = write_atomic(&path, handler.clone().into_bytes()).await;
    written.map_err(failed)?;
    Ok(handler)
}

async fn look_up(ctx: &Context, class: &str) -> Result<String, HandlerError> {
    let classes: Api<RuntimeClass> = Api::all(ctx.options.client.clone());
    match classes.get_opt(class).await {
        Ok(Some(found)) => Ok(found.handler),
        Ok(None) => Err(HandlerError::NoClass(class.to_owned())),
        Err(source) => Err(HandlerError::Lookup {
            name: class.to_owned(),
            source,
        }),
    }
}

fn known(handler: String) -> Result<String, HandlerError> {
    if names().any(|name| name == handler) {
        Ok(handler)
    } else {
        Err(HandlerError::Unknown(handler))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_handlers_that_are_there_are_taken() {
        for name in [
            "amphipod",
            "wasm",
            "wasm-isolated",
            "linux",
            "wasmtime",
            "crun",
            "runc",
        ] {
            assert_eq!(known(name.into()).unwrap(), name);
        }
        let refused = known("gvisor".into()).unwrap_err().to_string();
        assert_eq!(
            refused,
            "failed to get sandbox runtime: no runtime for \"gvisor\" is configured"
        );
    }
}
