//! Server glue: one Task implementation served under both names containerd knows it by.

use std::collections::HashMap;
use std::future::Future;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use containerd_shim_protos::shim_async::{Task, create_task};
use ttrpc::r#async::transport::Listener;
use ttrpc::r#async::{Server, Service};

use crate::error::TaskError;

/// containerd 2.x.
pub const TASK_V3: &str = "containerd.task.v3.Task";
/// containerd 1.x; the same messages under another name.
pub const TASK_V2: &str = "containerd.task.v2.Task";

fn services(task: &Arc<dyn Task + Send + Sync>) -> HashMap<String, Service> {
    let named = |name: &str| {
        create_task(Arc::clone(task))
            .into_values()
            .next()
            .map(|s| (name.to_owned(), s))
    };
    [TASK_V3, TASK_V2].into_iter().filter_map(named).collect()
}

/// Serves the Task API on `listener` until `shutdown` completes; calls under way get ttrpc's grace to finish.
pub async fn serve(
    listener: UnixListener,
    task: Arc<dyn Task + Send + Sync>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), TaskError> {
    listener
        .set_nonblocking(true)
        .map_err(|e| TaskError::internal("prepare the shim's socket", e))?;
    let listener =
        Listener::try_from(listener).map_err(|e| TaskError::internal("poll the shim's socket", e))?;
    let mut server = Server::new()
        .add_listener(listener)
        .register_service(services(&task));
    server.start().await?;
    shutdown.await;
    server.shutdown().await?;
    Ok(())
}
