//! A writer against an API server that loses answers, is late, or is written to by others.

use std::io;
use std::sync::{Mutex, PoisonError};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;

use super::*;

/// Nothing is waited for but what is asked for.
const AT_ONCE: Pace = Pace {
    retry_first: Duration::from_millis(1),
    retry_longest: Duration::from_millis(1),
    answer: Duration::from_millis(50),
    settled: Duration::ZERO,
    lag: Duration::from_secs(60),
};

/// What becomes of a write.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// It is never answered, nor carried out.
    Lost,
    /// Its connection breaks, and it is carried out when somebody says so.
    Late,
}

#[derive(Default)]
struct State {
    status: Value,
    version: u64,
    writes: usize,
    /// Of the writes to come; those after them are carried out and answered.
    fates: Vec<Fate>,
    late: Option<Value>,
}

/// An API server with one Pod.
#[derive(Clone, Default)]
struct Server {
    state: Arc<Mutex<State>>,
    written: Arc<watch::Sender<()>>,
}

impl Server {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn object(&self) -> Value {
        self.with(|state| {
            let version = state.version.to_string();
            let metadata = json!({"name": "p", "namespace": "n", "uid": "u", "resourceVersion": version});
            json!({"metadata": metadata, "status": state.status})
        })
    }

    fn shown(&self) -> Option<Shown> {
        Shown::of(&serde_json::from_value(self.object()).unwrap())
    }

    fn writes(&self) -> usize {
        self.with(|state| state.writes)
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let answer = move |request| server.clone().answer(request);
        Client::new(tower::service_fn(answer), "default")
    }

    fn writer(&self) -> Writer {
        Writer {
            api: Api::namespaced(self.client(), "n"),
            name: "p".into(),
            is_static: false,
            pace: AT_ONCE,
            written: None,
        }
    }

    /// What a worker reports after the watch has told it what is there.
    fn report(&self, phase: &str) -> Report {
        let status: PodStatus = serde_json::from_value(json!({
            "phase": phase,
            "conditions": [{"type": "Ready", "status": "True"}],
        }))
        .unwrap();
        Report {
            status: Some(Arc::new(status)),
            remove: false,
            object: self.shown(),
        }
    }

    async fn until_phase(&self, phase: &str) {
        let mut written = self.written.subscribe();
        let limit = Duration::from_secs(20);
        let seen = written.wait_for(|()| self.phase() == phase);
        tokio::time::timeout(limit, seen).await.unwrap().unwrap();
    }

    fn phase(&self) -> String {
        self.object()["status"]["phase"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Somebody changes the status.
    fn change(&self, change: impl FnOnce(&mut State)) {
        self.with(|state| {
            change(state);
            state.version += 1;
        });
    }

    fn apply_late(&self) {
        self.change(|state| state.status = state.late.take().unwrap());
    }

    async fn answer(self, request: Request<Body>) -> io::Result<Response<Body>> {
        assert_eq!(request.method(), Method::PATCH);
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        let patch: Value = serde_json::from_slice(&bytes).unwrap();
        let status = without_directives(&patch["status"]);
        let fate = self.with(|state| {
            state.writes += 1;
            let fate = state.fates.pop();
            match fate {
                None => {
                    state.status = status;
                    state.version += 1;
                }
                Some(Fate::Late) => state.late = Some(status),
                Some(Fate::Lost) => {}
            }
            fate
        });
        self.written.send_replace(());
        match fate {
            None => Ok(Response::new(Body::from(self.object().to_string().into_bytes()))),
            Some(Fate::Lost) => std::future::pending().await,
            Some(Fate::Late) => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

/// As much of a strategic merge as these tests need.
fn without_directives(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            kept.map(|(name, value)| (name.clone(), without_directives(value)))
                .collect()
        }
        Value::Array(items) => {
            let kept = items.iter().filter(|item| item.get("$patch").is_none());
            kept.map(without_directives).collect()
        }
        other => other.clone(),
    }
}

/// A writer at work, and what tells it.
fn at_work(server: &Server) -> watch::Sender<Report> {
    let (reports, receiver) = watch::channel(Report::default());
    let writer = server.writer();
    tokio::spawn(async move { writer.follow(receiver, &CancellationToken::new()).await });
    reports
}

#[tokio::test]
async fn a_write_that_is_never_answered_is_tried_again() {
    let server = Server::default();
    server.with(|state| state.fates = vec![Fate::Lost, Fate::Lost]);
    let reports = at_work(&server);
    reports.send_replace(server.report("Running"));
    server.until_phase("Running").await;
    assert_eq!(server.writes(), 3);
}

/// The connection broke, the next write was answered over another, and only then the first was carried out.
#[tokio::test]
async fn a_write_that_comes_late_is_put_right() {
    let server = Server::default();
    server.with(|state| state.fates = vec![Fate::Late]);
    let mut writer = server.writer();
    assert!(writer.bring(&server.report("Pending")).await.is_err());
    writer.bring(&server.report("Running")).await.unwrap();
    assert_eq!(server.phase(), "Running");
    server.apply_late();
    assert_eq!(server.phase(), "Pending");
    writer.bring(&server.report("Running")).await.unwrap();
    assert_eq!(server.phase(), "Running");
}

/// As the controller of nodes does with the Pods of one that is silent.
#[tokio::test]
async fn what_somebody_else_wrote_is_put_right_when_it_has_lasted() {
    let server = Server::default();
    let reports = at_work(&server);
    reports.send_replace(server.report("Running"));
    server.until_phase("Running").await;
    server.change(|state| state.status["conditions"][0]["status"] = json!("False"));
    server.change(|state| state.status["phase"] = json!("Unknown"));
    reports.send_replace(server.report("Running"));
    server.until_phase("Running").await;
    assert_eq!(server.object()["status"]["conditions"][0]["status"], "True");
}

#[tokio::test]
async fn who_overwrites_it_is_given_time() {
    let server = Server::default();
    let mut writer = server.writer();
    writer.pace.settled = Duration::from_secs(60);
    writer.bring(&server.report("Running")).await.unwrap();
    server.change(|state| state.status["phase"] = json!("Unknown"));
    let report = server.report("Running");
    writer.bring(&report).await.unwrap();
    assert_eq!(server.phase(), "Unknown");
    let wait = writer.compare_in(&report).unwrap();
    assert!(
        wait > Duration::from_secs(30) && wait <= Duration::from_secs(60),
        "{wait:?}"
    );
}

/// On a machine with too much to do: what it tells of before the write is no reason to write again.
#[tokio::test]
async fn a_watch_that_lags_is_waited_for() {
    let server = Server::default();
    let mut writer = server.writer();
    let before = server.report("Running");
    writer.bring(&before).await.unwrap();
    writer.bring(&before).await.unwrap();
    assert_eq!(server.writes(), 1);
    assert!(writer.compare_in(&before).unwrap() > Duration::from_secs(30));
    // Nor for ever: the server may have been put back.
    writer.pace.lag = Duration::ZERO;
    writer.bring(&before).await.unwrap();
    assert_eq!(server.writes(), 2);
}

/// An older server drops what it does not know, and others have conditions of their own.
#[tokio::test]
async fn what_the_server_makes_of_it_is_written_once() {
    let server = Server::default();
    let mut writer = server.writer();
    writer.bring(&server.report("Running")).await.unwrap();
    let gate = json!({"type": "example.com/gate", "status": "True"});
    server.change(|state| state.status["conditions"].as_array_mut().unwrap().push(gate));
    for _ in 0..3 {
        let report = server.report("Running");
        writer.bring(&report).await.unwrap();
        assert_eq!((server.writes(), writer.compare_in(&report)), (1, None));
    }
}

#[test]
fn what_is_absent_is_removed() {
    let status = PodStatus {
        phase: Some("Running".into()),
        conditions: Some(vec![PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            ..Default::default()
        }]),
        ..PodStatus::default()
    };
    let patch = body("u", &status);
    assert_eq!(patch["metadata"]["uid"], "u");
    assert_eq!(patch["status"]["phase"], "Running");
    assert!(patch["status"]["reason"].is_null() && patch["status"].get("reason").is_some());
    assert!(
        patch["status"]["conditions"][0]
            .get("message")
            .is_some_and(Value::is_null)
    );
}

#[test]
fn addresses_of_before_do_not_stay() {
    let ips = json!([{"ip": "10.0.0.7"}]);
    let status = serde_json::from_value(json!({"podIPs": ips, "hostIPs": []})).unwrap();
    let patch = body("u", &status);
    assert_eq!(
        patch["status"]["podIPs"],
        json!([{"$patch": "replace"}, {"ip": "10.0.0.7"}])
    );
    assert!(patch["status"]["hostIPs"].is_null());
}
