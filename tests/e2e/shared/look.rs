//! Runs one case with one build and tells what is seen, as a text in which nothing is left that another run would have
//! otherwise: addresses and names of namespaces are replaced.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Event, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{
    AttachParams, DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams, PostParams,
    WatchEvent, WatchParams,
};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::case::{Build, Case, Step, completed};
use crate::cluster::PATIENCE;

/// What a result has in it when something that was waited for did not come.
pub const NEVER: &str = "NEVER";

/// Between two questions about what cannot be watched.
const PERIOD: Duration = Duration::from_millis(100);

/// Most of a log that is told.
const MAX_LOG: usize = 2_000;

/// A container that is added to a running Pod.
const DEBUGGER: &str = "debugger";

/// Digits of a number that every run tells alike; longer ones are bytes in use.
const MOST_DIGITS: usize = 6;

/// One case with one build, under way.
struct Run<'a> {
    client: &'a Client,
    pods: Api<Pod>,
    name: String,
    build: Build,
    dir: &'a Path,
}

/// What is seen of a case with this build: a part for each step that tells something.
pub async fn run(client: &Client, dir: &Path, case: &Case, build: Build) -> String {
    let run = Run {
        client,
        pods: Api::namespaced(client.clone(), build.name()),
        name: case.pod_name(),
        build,
        dir,
    };
    let text = run.dir.display().to_string();
    let mut told = Vec::new();
    if let Err(error) = run.begin(case.beside(build, &text), case.pod(build, &text)).await {
        return format!("{NEVER} made: {error}");
    }
    for step in &case.steps {
        match tokio::time::timeout(PATIENCE, run.step(step)).await {
            Ok(Ok(Some(text))) => told.push(text),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => told.push(format!("{step:?}: {error}")),
            Err(_) => {
                let status = run.status().await.map(|status| serde_json::to_string(&status));
                told.push(format!("{NEVER} {step:?}: {status:?}"));
                break;
            }
        }
    }
    let gone = DeleteParams::default().grace_period(0);
    let _ = run.pods.delete(&run.name, &gone).await; // the case may have deleted it itself
    neutral(&told.join("; "), build, &text)
}

type Told = Result<Option<String>, Box<dyn std::error::Error + Send + Sync>>;

impl Run<'_> {
    async fn begin(&self, beside: Vec<Value>, pod: Value) -> kube::Result<()> {
        for object in beside {
            self.make(object, false).await?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.make(pod.clone(), false).await {
                // The namespace's service account is made by a controller.
                Err(kube::Error::Api(status)) if status.code == 403 && Instant::now() < deadline => {
                    pause().await
                }
                done => return done,
            }
        }
    }

    async fn make(&self, object: Value, replace: bool) -> kube::Result<()> {
        let mut object: DynamicObject = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
        let types = object.types.clone().unwrap_or_default();
        let kind = ApiResource::from_gvk(
            &GroupVersionKind::try_from(&types).map_err(|error| kube::Error::Service(Box::new(error)))?,
        );
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), self.build.name(), &kind);
        let name = object.metadata.name.clone().unwrap_or_default();
        if replace {
            object.metadata.resource_version = api.get(&name).await?.metadata.resource_version;
            api.replace(&name, &PostParams::default(), &object).await?;
        } else {
            api.create(&PostParams::default(), &object).await?;
        }
        Ok(())
    }

    async fn step(&self, step: &Step) -> Told {
        match step {
            Step::Ended => self.until(ended).await,
            Step::Ready => {
                self.until(|status| status.conditions.iter().flatten().any(is_ready))
                    .await
            }
            Step::UntilRuns => self.until(|status| first(status).is_some_and(runs)).await,
            Step::Restarted(times) => {
                self.until(|status| first(status).is_some_and(|c| c.restart_count >= *times))
                    .await
            }
            Step::Says(words) => self.says(words).await,
            Step::Log => self.log(LogParams::default()).await,
            Step::Tail(lines) => {
                self.log(LogParams {
                    tail_lines: Some(*lines),
                    ..LogParams::default()
                })
                .await
            }
            Step::LogOf(container) => {
                self.log(LogParams {
                    container: Some(container.clone()),
                    ..LogParams::default()
                })
                .await
            }
            Step::Previous => {
                self.log(LogParams {
                    previous: true,
                    ..LogParams::default()
                })
                .await
            }
            Step::End => Ok(Some(ends(&self.status().await?))),
            Step::Phase => Ok(self.status().await?.phase),
            Step::Waiting => self.waiting().await,
            Step::Exec(words) => self.exec(words, None).await,
            Step::Feed(input, words) => self.exec(words, Some(input)).await,
            Step::Attach(input) => self.attach(input).await,
            Step::Debug(words) => self.debug(words).await,
            Step::Get(path) => self.get(path).await,
            Step::Replace(object) => {
                let object = completed(object.clone(), self.build, &self.dir.display().to_string());
                Ok(self.make(object, true).await.map(|()| None)?)
            }
            Step::Delete => self.delete().await,
            Step::HostFile(name) => {
                let text = std::fs::read_to_string(self.dir.join(self.build.name()).join(name))?;
                Ok(Some(format!("{name}: {}", text.trim_end())))
            }
            Step::Event(reason) => self.event(reason).await,
        }
    }

    async fn status(&self) -> kube::Result<PodStatus> {
        Ok(self.pods.get(&self.name).await?.status.unwrap_or_default())
    }

    async fn until(&self, is: impl Fn(&PodStatus) -> bool + Send) -> Told {
        let holds = |pod: Option<&Pod>| pod.and_then(|pod| pod.status.as_ref()).is_some_and(&is);
        await_condition(self.pods.clone(), &self.name, holds).await?;
        Ok(None)
    }

    async fn container(&self) -> kube::Result<String> {
        let spec = self.pods.get(&self.name).await?.spec.unwrap_or_default();
        Ok(spec
            .containers
            .into_iter()
            .next()
            .map(|c| c.name)
            .unwrap_or_default())
    }

    async fn log(&self, mut params: LogParams) -> Told {
        if params.container.is_none() {
            params.container = Some(self.container().await?);
        }
        let text = self.pods.logs(&self.name, &params).await?;
        Ok(Some(cut(&text)))
    }

    async fn says(&self, words: &str) -> Told {
        let params = LogParams {
            container: Some(self.container().await?),
            ..LogParams::default()
        };
        loop {
            // Before the container runs there is no log.
            if self
                .pods
                .logs(&self.name, &params)
                .await
                .is_ok_and(|text| text.contains(words))
            {
                return Ok(None);
            }
            pause().await;
        }
    }

    async fn waiting(&self) -> Told {
        let reason = |status: &PodStatus| {
            let waiting = status
                .container_statuses
                .iter()
                .flatten()
                .find_map(|c| c.state.as_ref()?.waiting.clone());
            waiting.filter(|w| {
                !["ContainerCreating", "PodInitializing"].contains(&w.reason.as_deref().unwrap_or(""))
            })
        };
        let is = |pod: Option<&Pod>| {
            let status = pod.and_then(|pod| pod.status.as_ref());
            status.is_some_and(|status| reason(status).is_some() || ended(status))
        };
        let pod = await_condition(self.pods.clone(), &self.name, is).await?;
        let status = pod.and_then(|pod| pod.status).unwrap_or_default();
        Ok(Some(match reason(&status) {
            Some(waiting) => format!("waits: {}", waiting.reason.unwrap_or_default()),
            None => ends(&status),
        }))
    }

    async fn exec(&self, words: &[String], input: Option<&String>) -> Told {
        let params = AttachParams::default()
            .container(self.container().await?)
            .stdin(input.is_some())
            .stderr(true);
        let mut process = self.pods.exec(&self.name, words, &params).await?;
        if let (Some(input), Some(mut stdin)) = (input, process.stdin()) {
            stdin.write_all(input.as_bytes()).await?;
            stdin.shutdown().await?;
        }
        let (mut out, mut err) = (String::new(), String::new());
        let status = process.take_status();
        if let (Some(mut stdout), Some(mut stderr)) = (process.stdout(), process.stderr()) {
            let (one, other) =
                futures::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
            one.and(other)?;
        }
        let status = match status {
            Some(status) => status.await.unwrap_or_default(),
            None => Default::default(),
        };
        let code = exit_code(status);
        let said: Vec<String> = [cut(&out), cut(&err)]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect();
        Ok(Some(format!("{} → {code}", said.join(" ⏎ "))))
    }

    async fn attach(&self, input: &str) -> Told {
        let params = AttachParams::default()
            .container(self.container().await?)
            .stdin(true)
            .stderr(false);
        let mut attached = self.pods.attach(&self.name, &params).await?;
        if let Some(mut stdin) = attached.stdin() {
            stdin.write_all(input.as_bytes()).await?;
            stdin.shutdown().await?;
        }
        let mut said = String::new();
        if let Some(mut stdout) = attached.stdout() {
            stdout.read_to_string(&mut said).await?;
        }
        Ok(Some(cut(&said)))
    }

    async fn debug(&self, words: &[String]) -> Told {
        let image = format!("amphipod.local/witness:{}", Build::Native.name());
        // A guest has no processes that could be seen, which is no hindrance.
        let target = self.container().await?;
        let added = json!({"name": DEBUGGER, "image": image, "args": words, "targetContainerName": target});
        let patch = Patch::Strategic(json!({"spec": {"ephemeralContainers": [added]}}));
        self.pods
            .patch_ephemeral_containers(&self.name, &PatchParams::default(), &patch)
            .await?;
        self.until(|status| {
            let mut all = status.ephemeral_container_statuses.iter().flatten();
            all.any(|c| c.state.as_ref().is_some_and(|state| state.terminated.is_some()))
        })
        .await?;
        self.log(LogParams {
            container: Some(DEBUGGER.to_owned()),
            ..LogParams::default()
        })
        .await
    }

    async fn get(&self, path: &str) -> Told {
        let whole = format!(
            "/api/v1/namespaces/{}/pods/{}:8080/proxy{path}",
            self.build.name(),
            self.name
        );
        let request = http::Request::get(whole).body(Vec::new())?;
        Ok(Some(match self.client.request_text(request).await {
            Ok(text) => cut(&text),
            Err(kube::Error::Api(status)) => format!("status {}", status.code),
            Err(error) => return Err(error.into()),
        }))
    }

    /// Deletes the Pod by its own grace and follows it to its end.
    async fn delete(&self) -> Told {
        let begun = self.pods.get(&self.name).await?;
        let mut last = begun.status.unwrap_or_default();
        let version = begun.metadata.resource_version.unwrap_or_default();
        let params = WatchParams::default().fields(&format!("metadata.name={}", self.name));
        let mut changes = self.pods.watch(&params, &version).await?.boxed();
        self.pods.delete(&self.name, &DeleteParams::default()).await?;
        while let Some(change) = changes.try_next().await? {
            let (pod, gone) = match change {
                WatchEvent::Modified(pod) => (pod, false),
                WatchEvent::Deleted(pod) => (pod, true),
                _ => continue,
            };
            if pod.status.as_ref().is_some_and(has_end) {
                last = pod.status.unwrap_or_default();
            }
            if gone {
                break;
            }
        }
        Ok(Some(format!("deleted: {}", ends(&last))))
    }

    async fn event(&self, reason: &str) -> Told {
        let events: Api<Event> = Api::namespaced(self.client.clone(), self.build.name());
        let params = ListParams::default().fields(&format!("involvedObject.name={}", self.name));
        loop {
            let found = events.list(&params).await?;
            if let Some(event) = found
                .items
                .into_iter()
                .find(|event| event.reason.as_deref() == Some(reason))
            {
                return Ok(Some(format!(
                    "{reason}: {}",
                    without_uid(&event.message.unwrap_or_default())
                )));
            }
            pause().await;
        }
    }
}

/// The exit status in what the API says of an end, or why there is none.
fn exit_code(status: Status) -> String {
    let causes = status
        .details
        .and_then(|details| details.causes)
        .unwrap_or_default();
    let code = causes
        .into_iter()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    match (status.status.as_deref(), code.and_then(|cause| cause.message)) {
        (_, Some(code)) => code,
        (Some("Failure"), None) => status.reason.unwrap_or_default(),
        _ => "0".to_owned(),
    }
}

/// A message that ends in `POD_NAMESPACE(UID)`, without that.
fn without_uid(message: &str) -> &str {
    message
        .rsplit_once(" in pod ")
        .map_or(message, |(before, _)| before)
}

async fn pause() {
    tokio::time::sleep(PERIOD).await;
}

fn is_ready(condition: &k8s_openapi::api::core::v1::PodCondition) -> bool {
    condition.type_ == "Ready" && condition.status == "True"
}

fn first(status: &PodStatus) -> Option<&ContainerStatus> {
    status.container_statuses.as_ref()?.first()
}

fn runs(container: &ContainerStatus) -> bool {
    container
        .state
        .as_ref()
        .is_some_and(|state| state.running.is_some())
}

fn ended(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

fn has_end(status: &PodStatus) -> bool {
    let mut all = status.container_statuses.iter().flatten();
    all.any(|c| c.state.as_ref().is_some_and(|state| state.terminated.is_some()))
}

/// Phase, and of each container how it ended or what it is now.
fn ends(status: &PodStatus) -> String {
    let mut parts = vec![status.phase.clone().unwrap_or_default()];
    parts.extend(status.reason.clone());
    for container in status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten()
    {
        parts.push(format!("{} {}", container.name, state(container)));
    }
    parts.join(", ")
}

fn state(container: &ContainerStatus) -> String {
    let now = container.state.as_ref().map(told).unwrap_or_default();
    match (&container.last_state, container.restart_count) {
        (Some(last), times) if last.terminated.is_some() => {
            format!("{now} after {times} restarts, before: {}", told(last))
        }
        _ => now,
    }
}

fn told(state: &ContainerState) -> String {
    if let Some(end) = &state.terminated {
        let message = end
            .message
            .as_deref()
            .map(|text| format!(" {:?}", cut(text)))
            .unwrap_or_default();
        return format!(
            "{} {}{message}",
            end.reason.as_deref().unwrap_or(""),
            end.exit_code
        );
    }
    match (&state.waiting, &state.running) {
        (Some(waiting), _) => format!("waits: {}", waiting.reason.as_deref().unwrap_or("")),
        (_, Some(_)) => "runs".to_owned(),
        _ => "unknown".to_owned(),
    }
}

fn cut(text: &str) -> String {
    let text: String = text.chars().take(MAX_LOG).collect();
    text.trim_end().to_owned()
}

/// A text without what only this run has: paths, namespaces, addresses, numbers of bytes.
fn neutral(text: &str, build: Build, dir: &str) -> String {
    let own = format!("{dir}/{}", build.name());
    let text = text.replace(&own, "{dir}/{ns}").replace(dir, "{dir}");
    let text = text.replace(&format!(".{}.", build.name()), ".{ns}.");
    let mut told = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(at);
        let length = from
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(from.len());
        let (number, after) = from.split_at(length);
        told.push_str(before);
        told.push_str(without(number));
        rest = after;
    }
    told + rest
}

fn without(number: &str) -> &str {
    match number.parse::<std::net::Ipv4Addr>() {
        Ok(address) if !address.is_loopback() && !address.is_unspecified() && !address.is_documentation() => {
            "ADDRESS"
        }
        Err(_) if number.len() > MOST_DIGITS && !number.contains('.') => "NUMBER",
        _ => number,
    }
}
