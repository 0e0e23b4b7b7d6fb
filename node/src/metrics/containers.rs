//! What every running container uses, as its shim says.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use amphipod_shim_api::{ShimAddress, TaskClient, TaskError, TaskStats};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::time::timeout;

use super::Station;
use crate::exec::Target;

/// Shims asked at once, and containers of each.
const AT_ONCE: usize = 16;
/// A shim answers from the files of a cgroup: one that says nothing at all for so long is stuck, and others are not to wait
/// for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// One reading.
#[derive(Debug)]
pub struct Container {
    /// Of the attempt.
    pub id: String,
    pub pod: Arc<Pod>,
    pub name: String,
    pub started_at: Timestamp,
    pub at: Timestamp,
    pub is_guest: bool,
    pub stats: TaskStats,
}

/// A container that could not be read, or a shim that is stuck.
#[derive(Debug)]
pub struct Failed {
    /// Of the attempt, or the shim's address.
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

/// Reads all of them; those of one Pod are beside each other. One that ends meanwhile is in neither list, nor is one whose
/// shim is stuck: that is told once.
pub async fn read(station: &Station) -> (Vec<Container>, Vec<Failed>) {
    let answers = ask_all(running(station), stats).await;
    let (mut read, mut failed) = (Vec::new(), answers.stuck);
    for (_, container, answer) in answers.told {
        match answer {
            Ok(stats) => read.push(Container {
                id: container.target.id,
                pod: container.pod,
                name: container.name,
                started_at: container.started_at,
                at: Timestamp::now(),
                is_guest: container.target.is_guest,
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

/// The processes of each running container, by its id; guests have none.
pub async fn pids(station: &Station) -> BTreeMap<String, Vec<u32>> {
    let answers = ask_all(running(station), pids_of).await.told.into_iter();
    let all = answers.filter_map(|(_, container, pids)| Some((container.target.id, pids.ok()?)));
    all.filter(|(_, pids)| !pids.is_empty()).collect()
}

fn stats(container: &Running) -> BoxFuture<'_, Result<TaskStats, TaskError>> {
    container.shim.stats(&container.target.id).boxed()
}

fn pids_of(container: &Running) -> BoxFuture<'_, Result<Vec<u32>, TaskError>> {
    container.shim.pids(&container.target.id).boxed()
}

type Question<T> = fn(&Running) -> BoxFuture<'_, Result<T, TaskError>>;

/// What shims answered, each with the place of its container in the question.
struct Answers<T> {
    told: Vec<(usize, Running, Result<T, TaskError>)>,
    stuck: Vec<Failed>,
}

/// Asks every container's shim, several at once; answers come in the order of the containers.
async fn ask_all<T>(containers: Vec<Running>, question: Question<T>) -> Answers<T> {
    let mut shims: HashMap<ShimAddress, Vec<(usize, Running)>> = HashMap::new();
    for (place, container) in containers.into_iter().enumerate() {
        let address = container.target.address.clone();
        shims.entry(address).or_default().push((place, container));
    }
    let asked = stream::iter(shims).map(|(address, containers)| ask_shim(address, containers, question));
    let mut asked = asked.buffer_unordered(AT_ONCE);
    let (mut told, mut stuck) = (Vec::new(), Vec::new());
    while let Some(answers) = asked.next().await {
        told.extend(answers.told);
        stuck.extend(answers.stuck);
    }
    told.sort_by_key(|(place, ..)| *place);
    Answers { told, stuck }
}

/// What a shim answered until it was through, or stuck.
async fn ask_shim<T>(
    address: ShimAddress,
    containers: Vec<(usize, Running)>,
    question: Question<T>,
) -> Answers<T> {
    let ask = async |(place, container)| {
        let answer = question(&container).await;
        (place, container, answer)
    };
    let mut answers = pin!(stream::iter(containers).map(ask).buffer_unordered(AT_ONCE));
    let (mut told, mut stuck) = (Vec::new(), Vec::new());
    loop {
        match timeout(PATIENCE, answers.next()).await {
            Ok(Some(answer)) => told.push(answer),
            Ok(None) => break,
            Err(_) => {
                stuck.push(silent(address));
                break;
            }
        }
    }
    Answers { told, stuck }
}

fn silent(shim: ShimAddress) -> Failed {
    let seconds = PATIENCE.as_secs();
    Failed {
        id: shim.address,
        error: TaskError::Timeout(format!("the shim has said nothing for {seconds} s")),
    }
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
    use amphipod_shim_api::TaskClients;
    use futures::future::{pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn running(id: usize, shim: &str, clients: &TaskClients) -> Running {
        let address = ShimAddress {
            address: shim.to_owned(),
            version: 3,
        };
        Running {
            pod: Arc::default(),
            name: "c".to_owned(),
            started_at: Timestamp::UNIX_EPOCH,
            shim: clients.of(&address),
            target: Target {
                id: id.to_string(),
                address,
                bundle: "/nowhere".into(),
                is_guest: false,
            },
        }
    }

    #[tokio::test]
    async fn a_stuck_shim_is_told_once_and_others_answer_in_order() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        fn the_third_is_stuck(container: &Running) -> BoxFuture<'_, Result<(), TaskError>> {
            ASKED.fetch_add(1, Ordering::Relaxed);
            match container.target.address.address == "2" {
                true => pending().boxed(),
                false => ready(Ok(())).boxed(),
            }
        }
        let clients = TaskClients::default();
        let containers = (0..300).map(|n| running(n, &(n % 3).to_string(), &clients));
        let answers = ask_all(containers.collect(), the_third_is_stuck).await;
        let places: Vec<usize> = answers.told.iter().map(|(place, ..)| *place).collect();
        assert_eq!(places, (0..300).filter(|n| n % 3 != 2).collect::<Vec<_>>());
        assert_eq!(answers.stuck.len(), 1);
        assert_eq!(answers.stuck[0].id, "2");
        assert_eq!(ASKED.load(Ordering::Relaxed), 200 + AT_ONCE);
    }
}
