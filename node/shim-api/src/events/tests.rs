//! Events as containerd receives them: over a socket, by a service of the tests' own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::api::{CreateTaskRequest, Empty, ForwardRequest};
use containerd_shim_protos::events::task::{TaskCreate, TaskExit};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim_async::{Events, create_events};
use tokio::net::UnixListener;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use ttrpc::r#async::transport::Listener;
use ttrpc::r#async::{Server, TtrpcContext};

use super::*;

const EXIT: Exit = Exit {
    status: 3,
    at: jiff::Timestamp::UNIX_EPOCH,
};

/// What a test has time for.
const QUICK: Patience = Patience {
    pause: Duration::from_millis(1),
    end: Duration::from_secs(60),
};

/// Hears events, but refuses each of them as often as it is told to.
struct Ear {
    heard: UnboundedSender<Envelope>,
    refusals: std::sync::Mutex<u32>,
    code: ttrpc::Code,
}

#[async_trait]
impl Events for Ear {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let mut refusals = self.refusals.lock().unwrap();
        if let Some(left) = refusals.checked_sub(1) {
            *refusals = left;
            return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(self.code, "not now")));
        }
        self.heard.send(request.envelope.unwrap()).unwrap();
        Ok(Empty::default())
    }
}

/// containerd's part of it.
struct Containerd {
    server: Server,
    heard: UnboundedReceiver<Envelope>,
}

impl Containerd {
    async fn start(socket: &Path, refusals: u32) -> Self {
        Self::refusing(socket, refusals, ttrpc::Code::UNAVAILABLE).await
    }

    async fn refusing(socket: &Path, refusals: u32, code: ttrpc::Code) -> Self {
        let (sender, heard) = mpsc::unbounded_channel();
        let ear = Arc::new(Ear {
            heard: sender,
            refusals: refusals.into(),
            code,
        });
        let listener = UnixListener::bind(socket).unwrap();
        let mut server = Server::new()
            .add_listener(Listener::from(listener))
            .register_service(create_events(ear));
        server.start().await.unwrap();
        Self { server, heard }
    }

    async fn next(&mut self) -> Envelope {
        self.heard.recv().await.unwrap()
    }

    async fn topics(&mut self, count: usize) -> Vec<String> {
        let mut topics = Vec::new();
        while topics.len() < count {
            topics.push(self.next().await.topic);
        }
        topics
    }
}

/// A place for a socket, and its address as containerd writes it.
fn place() -> (tempfile::TempDir, std::path::PathBuf, String) {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("t.sock");
    let address = socket.to_str().unwrap().to_owned();
    (home, socket, address)
}

fn lives(publisher: &Publisher, container: &str) {
    let request = CreateTaskRequest {
        id: container.to_owned(),
        bundle: "/b".into(),
        ..CreateTaskRequest::default()
    };
    let story = Story::of(publisher, container);
    let hold = story.hold();
    publisher.created(publisher.creation(&request), 7);
    story.started(7);
    drop(hold);
    story.ended(7, EXIT);
    publisher.deleted(container, 7, EXIT);
}

const LIFE: [&str; 4] = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"];

#[tokio::test]
async fn containerd_is_told_a_life_in_its_words() {
    let (_home, socket, address) = place();
    let mut containerd = Containerd::start(&socket, 0).await;
    let (publisher, delivery) = Publisher::to("ns", &address, QUICK);
    lives(&publisher, "c");
    let created = containerd.next().await;
    assert_eq!(
        (created.topic.as_str(), created.namespace.as_str()),
        (LIFE[0], "ns")
    );
    assert!(created.timestamp.seconds > 0);
    assert_eq!(created.event.type_url, "containerd.events.TaskCreate");
    let create = TaskCreate::parse_from_bytes(&created.event.value).unwrap();
    assert_eq!(
        (create.container_id.as_str(), create.bundle.as_str(), create.pid),
        ("c", "/b", 7)
    );
    assert_eq!(containerd.next().await.topic, LIFE[1]);
    let exited = containerd.next().await;
    assert_eq!(exited.event.type_url, "containerd.events.TaskExit");
    let exit = TaskExit::parse_from_bytes(&exited.event.value).unwrap();
    assert_eq!((exit.id.as_str(), exit.pid, exit.exit_status), ("c", 7, 3));
    assert_eq!(containerd.next().await.topic, LIFE[3]);
    delivery.finish().await;
}

#[tokio::test]
async fn order_is_kept_while_containerd_is_away_or_refuses() {
    let (_home, socket, address) = place();
    let leaving = UnixListener::bind(&socket).unwrap();
    let (publisher, delivery) = Publisher::to("ns", &address, QUICK);
    lives(&publisher, "c");
    drop(leaving.accept().await.unwrap());
    drop(leaving);
    std::fs::remove_file(&socket).unwrap();
    let mut containerd = Containerd::start(&socket, 2).await;
    assert_eq!(containerd.topics(4).await, LIFE);
    // It is another one now, which listens in the same place.
    containerd.server.shutdown().await.unwrap();
    drop(containerd);
    std::fs::remove_file(&socket).unwrap();
    let mut containerd = Containerd::start(&socket, 0).await;
    lives(&publisher, "d");
    assert_eq!(containerd.topics(4).await, LIFE);
    delivery.finish().await;
}

/// However many events there are, neither the one that tells them nor the end of the process waits for all.
#[tokio::test]
async fn without_containerd_nothing_waits() {
    let (_home, _, address) = place();
    let patience = Patience {
        pause: Duration::from_secs(3600),
        end: Duration::from_millis(1),
    };
    let (publisher, delivery) = Publisher::to("ns", &address, patience);
    for _ in 0..3000 {
        publisher.paused("c");
    }
    delivery.finish().await;
    publisher.resumed("c");
}

/// After the last try the next event has its turn.
#[tokio::test]
async fn an_event_is_given_up_in_the_end() {
    let (_home, socket, address) = place();
    let mut containerd = Containerd::start(&socket, 6).await;
    let (publisher, _delivery) = Publisher::to("ns", &address, QUICK);
    publisher.paused("c");
    publisher.resumed("c");
    assert_eq!(containerd.next().await.topic, "/tasks/resumed");
}

#[tokio::test]
async fn an_event_that_is_refused_for_good_holds_up_no_other() {
    let (_home, socket, address) = place();
    let mut containerd = Containerd::refusing(&socket, 1, ttrpc::Code::INVALID_ARGUMENT).await;
    let patience = Patience {
        pause: Duration::from_secs(3600),
        ..QUICK
    };
    let (publisher, _delivery) = Publisher::to("ns", &address, patience);
    publisher.paused("c");
    publisher.resumed("c");
    let told = tokio::time::timeout(QUICK.end, containerd.next()).await.unwrap();
    assert_eq!(told.topic, "/tasks/resumed");
}

#[tokio::test]
async fn an_end_is_told_after_what_is_being_done_and_once() {
    let (_home, socket, address) = place();
    let mut containerd = Containerd::start(&socket, 0).await;
    let (publisher, _delivery) = Publisher::to("ns", &address, QUICK);
    let first = Story::of(&publisher, "c");
    let (made, starting) = (first.hold(), first.hold());
    first.ended(7, EXIT);
    drop(made);
    first.started(7);
    drop(starting);
    first.ended(7, EXIT);
    assert_eq!(containerd.topics(2).await, ["/tasks/start", "/tasks/exit"]);
    // Of a command that never ran, nothing is told but that it was to be.
    let (failed, run) = (first.beside("e"), first.beside("f"));
    publisher.exec_added("c", "e");
    let starting = failed.hold();
    failed.ended(8, EXIT);
    drop(starting);
    let starting = run.hold();
    run.started(9);
    drop(starting);
    run.ended(9, EXIT);
    let told = ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"];
    assert_eq!(containerd.topics(3).await, told);
    first.out_of_memory();
    assert_eq!(containerd.topics(1).await, ["/tasks/oom"]);
}

/// A command's output may be complete after that of the first process.
#[tokio::test]
async fn the_end_of_the_first_process_is_the_last_one_told() {
    let (_home, socket, address) = place();
    let mut containerd = Containerd::start(&socket, 0).await;
    let (publisher, _delivery) = Publisher::to("ns", &address, QUICK);
    let first = Arc::new(Story::of(&publisher, "c"));
    let command = first.beside("e");
    let running = Arc::clone(&first).hold_on();
    first.ended(7, EXIT);
    let over = tokio::time::timeout(Duration::ZERO, first.over());
    assert!(over.await.is_err());
    command.started(8);
    command.ended(8, EXIT);
    drop(running);
    first.over().await;
    assert_eq!(containerd.topics(1).await, ["/tasks/exec-started"]);
    for id in ["e", "c"] {
        let told = containerd.next().await.event.unwrap();
        assert_eq!(TaskExit::parse_from_bytes(&told.value).unwrap().id, id);
    }
}

#[test]
fn without_containerd_nothing_is_made() {
    let publisher = Publisher::default();
    assert!(!publisher.is_heard());
    assert_eq!(publisher.creation(&CreateTaskRequest::default()), None);
    lives(&publisher, "c");
}
