//! Watch fan-out: how many events a second reach all watchers, and how late.
use crate::Result;
use crate::connection::{Connection, Target};
use crate::figures::{Report, rate, server_time, spread};
use serde_json::json;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Writers, each on an object of its own.
const WRITERS: usize = 4;
/// Deliveries that one run makes; the number of writes follows from the number of watchers.
const DELIVERIES: usize = 400_000;
/// Writes per second of the run that measures how late events come without overload.
const CALM: u64 = 20;
const CALM_WRITES: usize = 100;
const STAMP: &[u8] = b"\"stamp\":\"";

pub async fn run(target: &Target, namespace: &str, watchers: usize, report: &mut Report) -> Result<()> {
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let mut connection = target.connect().await?;
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("w{watchers}-{writer}")}});
        connection
            .write("POST", &maps, "application/json", body.to_string().as_bytes())
            .await?;
        writers.push((connection, format!("{maps}/w{watchers}-{writer}")));
    }
    let each = DELIVERIES / watchers / WRITERS;
    let expected = each * WRITERS + CALM_WRITES;
    let mut readers = Vec::new();
    for _ in 0..watchers {
        let mut connection = target.connect().await?;
        connection
            .watch(&format!(
                "{maps}?watch=1&timeoutSeconds=600&labelSelector=stamped"
            ))
            .await?;
        readers.push(tokio::spawn(follow(connection, expected)));
    }
    let (mut calm_writer, path) = target.connect().await.map(|c| (c, writers[0].1.clone()))?;
    for _ in 0..CALM_WRITES {
        stamp(&mut calm_writer, &path).await?;
        tokio::time::sleep(Duration::from_millis(1000 / CALM)).await;
    }
    let (begun, worked) = (Instant::now(), server_time(target).await?);
    let tasks: Vec<_> = writers
        .into_iter()
        .map(|(c, path)| tokio::spawn(write(c, path, each)))
        .collect();
    for task in tasks {
        task.await??;
    }
    let (mut calm, mut busy) = (Vec::new(), Vec::new());
    for reader in readers {
        let lags = reader.await??;
        let (first, rest) = lags.split_at(CALM_WRITES.min(lags.len()));
        calm.extend_from_slice(first);
        busy.extend_from_slice(rest);
    }
    let took = begun.elapsed();
    let worked = server_time(target).await? - worked;
    let delivered = rate(each * WRITERS * watchers, took);
    report.add(
        format!("watch events delivered to {watchers} watchers"),
        format!("{delivered}, lag {}; server {worked:.1?}", spread(&mut busy)),
    );
    report.add(
        format!("lag with {watchers} watchers at {CALM} writes/s"),
        spread(&mut calm),
    );
    Ok(())
}

async fn write(mut connection: Connection, path: String, count: usize) -> Result<()> {
    for _ in 0..count {
        stamp(&mut connection, &path).await?;
    }
    Ok(())
}

/// Writes the time into an object.
async fn stamp(connection: &mut Connection, path: &str) -> Result<()> {
    let patch =
        json!({"metadata": {"labels": {"stamped": ""}}, "data": {"stamp": now().to_string()}}).to_string();
    connection
        .write("PATCH", path, "application/merge-patch+json", patch.as_bytes())
        .await
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads events until all have come; returns how late each was.
async fn follow(mut connection: Connection, expected: usize) -> Result<Vec<Duration>> {
    let (mut lags, mut line) = (Vec::with_capacity(expected), Vec::new());
    while lags.len() < expected {
        if connection.line(&mut line).await? == 0 {
            return Err("a watch ended early".into());
        }
        if let Some(stamp) = stamp_in(&line) {
            lags.push(Duration::from_nanos(now().saturating_sub(stamp)));
        }
    }
    Ok(lags)
}

fn stamp_in(line: &[u8]) -> Option<u64> {
    // The data comes last in an object.
    let at = line.windows(STAMP.len()).rposition(|window| window == STAMP)? + STAMP.len();
    let digits = line[at..].split(|byte| *byte == b'"').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
