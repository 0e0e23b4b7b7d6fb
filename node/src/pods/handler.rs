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
/// The same by name.
const OWN: &str = "amphipod";
/// A process of their own for the Wasm containers of a Pod.
pub const WASM_ISOLATED: &str = "wasm-isolated";
/// All that there are, as the Node reports them.
pub const ALL: [&str; 3] = [DEFAULT, OWN, WASM_ISOLATED];

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
    if ALL.contains(&handler.as_str()) {
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
        assert_eq!(known("amphipod".into()).unwrap(), "amphipod");
        let refused = known("gvisor".into()).unwrap_err().to_string();
        assert_eq!(
            refused,
            "failed to get sandbox runtime: no runtime for \"gvisor\" is configured"
        );
    }
}
