//! What every running container uses, as its shim says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use amphipod_shim_api::{TaskClient, TaskError, TaskStats};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::time::timeout;

use super::Station;
use crate::exec::Target;

/// Shims asked at once.
const AT_ONCE: usize = 16;
/// A shim answers from the files of a cgroup: one that takes longer is stuck, and others are not to wait for it.
const PATIENCE: Duration = Duration::from_secs(2);

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
    let (mut read, mut failed) = (Vec::new(), Vec::new());
    for (container, answer) in ask_all(station, stats).await {
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
    let answers = ask_all(station, pids).await.into_iter();
    let counted = answers.filter_map(|(container, pids)| Some((container.target.id, pids.ok()?.len())));
    counted.filter(|(_, count)| *count > 0).collect()
}

fn stats(container: &Running) -> BoxFuture<'_, Result<TaskStats, TaskError>> {
    container.shim.stats(&container.target.id).boxed()
}

fn pids(container: &Running) -> BoxFuture<'_, Result<Vec<u32>, TaskError>> {
    container.shim.pids(&container.target.id).boxed()
}

type Question<T> = fn(&Running) -> BoxFuture<'_, Result<T, TaskError>>;

/// What each running container's shim answers; several shims at once, each about one container after another.
async fn ask_all<T>(station: &Station, question: Question<T>) -> Vec<(Running, Result<T, TaskError>)> {
    let mut shims: Vec<Vec<Running>> = Vec::new();
    let mut places = HashMap::new();
    for container in running(station) {
        let place = *places
            .entry(container.target.address.clone())
            .or_insert(shims.len());
        match shims.get_mut(place) {
            Some(containers) => containers.push(container),
            None => shims.push(vec![container]),
        }
    }
    let answers = stream::iter(shims).map(|containers| ask_shim(containers, question));
    answers.buffer_unordered(AT_ONCE).concat().await
}

/// A shim that does not answer about one is not asked about others.
async fn ask_shim<T>(
    containers: Vec<Running>,
    question: Question<T>,
) -> Vec<(Running, Result<T, TaskError>)> {
    let mut answers = Vec::with_capacity(containers.len());
    let mut stuck = false;
    for container in containers {
        let answer = match stuck {
            true => None,
            false => timeout(PATIENCE, question(&container)).await.ok(),
        };
        stuck = answer.is_none();
        let answer = answer.unwrap_or_else(|| Err(silent()));
        answers.push((container, answer));
    }
    answers
}

fn silent() -> TaskError {
    let seconds = PATIENCE.as_secs();
    TaskError::Timeout(format!(
        "the container's shim has not answered within {seconds} s"
    ))
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

#[cfg(test)]
mod tests {
    use super::*;
    use amphipod_shim_api::{ShimAddress, TaskClients};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn running(id: &str, clients: &TaskClients) -> Running {
        let address = ShimAddress {
            address: "unix:///nowhere".to_owned(),
            version: 3,
        };
        Running {
            pod: Arc::default(),
            name: "c".to_owned(),
            started_at: Timestamp::UNIX_EPOCH,
            shim: clients.of(&address),
            target: Target {
                id: id.to_owned(),
                address,
                bundle: "/nowhere".into(),
            },
        }
    }

    #[tokio::test]
    async fn a_shim_that_is_stuck_is_asked_once() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        fn second_is_stuck(container: &Running) -> BoxFuture<'_, Result<(), TaskError>> {
            ASKED.fetch_add(1, Ordering::Relaxed);
            match container.target.id == "1" {
                true => futures::future::pending().boxed(),
                false => async { Ok(()) }.boxed(),
            }
        }
        let clients = TaskClients::default();
        let containers = (0..100).map(|n| running(&n.to_string(), &clients)).collect();
        let answers = ask_shim(containers, second_is_stuck).await;
        let told: Vec<bool> = answers.iter().map(|(_, answer)| answer.is_ok()).collect();
        assert!(told.len() == 100 && told[0]);
        assert!(told[1..].iter().all(|answered| !answered));
        assert_eq!(ASKED.load(Ordering::Relaxed), 2);
    }
}
