//! What every running container uses, as its shim says.

use std::collections::HashMap;
use std::sync::Arc;

use amphipod_shim_api::{TaskClient, TaskError, TaskStats};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::Station;
use crate::exec::Target;

/// Shims asked at once.
const AT_ONCE: usize = 16;

/// One reading.
#[derive(Debug)]
pub struct Container {
    /// Of the attempt.
    pub id: String,
    pub pod: Arc<Pod>,
    pub name: String,
    pub started_at: Timestamp,
    pub at: Timestamp,
    pub stats: TaskStats,
}

/// A container whose shim gave no answer.
#[derive(Debug)]
pub struct Failed {
    pub id: String,
    pub error: TaskError,
}

/// A running container, not read yet.
struct Running {
    pod: Arc<Pod>,
    name: String,
    started_at: Timestamp,
    target: Target,
    shim: TaskClient,
}

/// Reads all of them; those of one Pod are beside each other. One that ends meanwhile is in neither list.
pub async fn read(station: &Station) -> (Vec<Container>, Vec<Failed>) {
    let mut answers = stream::iter(running(station)).map(ask).buffered(AT_ONCE);
    let (mut read, mut failed) = (Vec::new(), Vec::new());
    while let Some((container, answer)) = answers.next().await {
        match answer {
            Ok(stats) => read.push(Container {
                id: container.target.id,
                pod: container.pod,
                name: container.name,
                started_at: container.started_at,
                at: Timestamp::now(),
                stats,
            }),
            Err(TaskError::NotFound(_)) => {}
            Err(error) => failed.push(Failed {
                id: container.target.id,
                error,
            }),
        }
    }
    (read, failed)
}

/// How many processes each running container has, by its id; guests have none.
pub async fn processes(station: &Station) -> HashMap<String, usize> {
    let counted = stream::iter(running(station))
        .map(count)
        .buffer_unordered(AT_ONCE);
    counted.filter_map(std::future::ready).collect().await
}

async fn count(container: Running) -> Option<(String, usize)> {
    let id = container.target.id;
    let pids = container.shim.pids(&id).await.ok()?;
    (!pids.is_empty()).then_some((id, pids.len()))
}

async fn ask(container: Running) -> (Running, Result<TaskStats, TaskError>) {
    let answer = container.shim.stats(&container.target.id).await;
    (container, answer)
}

/// All running containers.
fn running(station: &Station) -> Vec<Running> {
    let table = station.table.as_ref();
    let mut found = Vec::new();
    for pod in table.pods() {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        for (name, started_at) in statuses(&pod).filter_map(started) {
            let Some(target) = table.target(uid, name) else {
                continue;
            };
            found.push(Running {
                pod: pod.clone(),
                name: name.to_owned(),
                started_at,
                shim: station.tasks.of(&target.address),
                target,
            });
        }
    }
    found
}

/// The statuses of all containers of a Pod.
pub fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        let lists = [
            &status.init_container_statuses,
            &status.container_statuses,
            &status.ephemeral_container_statuses,
        ];
        lists.into_iter().flatten().flatten()
    })
}

fn started(status: &ContainerStatus) -> Option<(&str, Timestamp)> {
    let running = status.state.as_ref()?.running.as_ref()?;
    Some((&status.name, running.started_at.as_ref()?.0))
}
