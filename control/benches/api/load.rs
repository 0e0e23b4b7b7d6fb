//! Creating, reading and listing Pods that nothing schedules.
use crate::Result;
use crate::connection::{Connection, Target};
use crate::figures::{Report, millis, rate, server_time, spread};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const JSON: &str = "application/json";
/// How many clients create at once, and which share of all Pods they create.
const CLIENTS: [(usize, usize); 3] = [(1, 5), (16, 25), (256, 70)];
const GETS: usize = 2000;
const LISTS: usize = 7;

pub async fn prepare(target: &Target, namespace: &str) -> Result<()> {
    let mut connection = target.connect().await?;
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}).to_string();
    connection
        .write("POST", "/api/v1/namespaces", JSON, body.as_bytes())
        .await?;
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}).to_string();
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    // A controller may have made it by then.
    connection.send("POST", &path, JSON, account.as_bytes()).await?;
    Ok(())
}

pub async fn clean(target: &Target, namespace: &str) -> Result<()> {
    let mut connection = target.connect().await?;
    let now = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}).to_string();
    connection
        .write("DELETE", &pods(namespace), JSON, now.as_bytes())
        .await?;
    let path = format!("/api/v1/namespaces/{namespace}");
    connection.write("DELETE", &path, JSON, now.as_bytes()).await
}

fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

/// The name in [`template`].
const NAME: &str = "pod-NUMBER";

/// A Pod of the usual size, as text: the generator is to spend its time on sending.
fn template() -> String {
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10});
    let env: Vec<Value> = (0..6)
        .map(|i| json!({"name": format!("SETTING_{i}"), "value": format!("value {i}")}))
        .collect();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": NAME, "labels": {"app": "bench", "shard": "7"},
            "annotations": {"example.com/note": "what a Pod of a Deployment carries along"}},
        "spec": {
            "schedulerName": "nobody",
            "containers": [{"name": "main", "image": "registry.example.com/team/app:1.2.3", "env": env,
                "args": ["--listen=:8080", "--verbose"], "ports": [{"containerPort": 8080, "name": "http"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": probe, "livenessProbe": probe,
                "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}],
            "volumes": [{"name": "scratch", "emptyDir": {}}]
        }
    });
    pod.to_string()
}

pub async fn creates(target: &Target, namespace: &str, pods: usize, report: &mut Report) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut until = 0;
    for (clients, share) in CLIENTS {
        let from = until;
        until = (until + pods * share / 100).min(pods);
        let mut connections = Vec::new();
        for _ in 0..clients {
            connections.push(target.connect().await?);
        }
        let (begun, worked) = (Instant::now(), server_time(target).await?);
        let tasks = connections
            .into_iter()
            .map(|c| tokio::spawn(create(c, namespace.to_owned(), next.clone(), until)));
        let mut times = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            times.extend(task.await??);
        }
        let took = begun.elapsed();
        let each = (server_time(target).await? - worked) / u32::try_from(until - from)?;
        // Every client drew one number too many.
        next.store(until, Ordering::SeqCst);
        report.add(
            format!("creates of Pods, {clients} clients"),
            format!(
                "{}, {}; server {:.0} µs each",
                rate(until - from, took),
                spread(&mut times),
                each.as_secs_f64() * 1e6
            ),
        );
    }
    Ok(())
}

async fn create(
    mut connection: Connection,
    namespace: String,
    next: Arc<AtomicUsize>,
    until: usize,
) -> Result<Vec<Duration>> {
    let (path, template) = (pods(&namespace), template());
    let mut times = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::SeqCst);
        if number >= until {
            return Ok(times);
        }
        let body = template.replacen(NAME, &format!("pod-{number:06}"), 1);
        let begun = Instant::now();
        connection.write("POST", &path, JSON, body.as_bytes()).await?;
        times.push(begun.elapsed());
    }
}

pub async fn gets(target: &Target, namespace: &str, report: &mut Report) -> Result<()> {
    let mut connection = target.connect().await?;
    let path = format!("{}/pod-000000", pods(namespace));
    let mut times = Vec::new();
    for _ in 0..GETS {
        let begun = Instant::now();
        connection.get(&path).await?;
        times.push(begun.elapsed());
    }
    report.add("get of a Pod, one client", spread(&mut times));
    Ok(())
}

pub async fn lists(target: &Target, namespace: &str, count: usize, report: &mut Report) -> Result<()> {
    let mut connection = target.connect().await?;
    let (mut times, mut body) = (Vec::new(), Vec::new());
    for _ in 0..LISTS {
        body.clear();
        let begun = Instant::now();
        connection.get_into(&pods(namespace), &mut body).await?;
        times.push(begun.elapsed());
    }
    let size = body.len();
    times.sort_unstable();
    let median = times.get(LISTS / 2).copied().unwrap_or_default();
    let best = times.first().copied().unwrap_or_default();
    report.add(
        format!("list of {count} Pods ({} MB)", size / 1_000_000),
        format!("median {}, best {}", millis(median), millis(best)),
    );
    Ok(())
}
