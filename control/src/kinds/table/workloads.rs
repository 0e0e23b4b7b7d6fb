//! Rows of workloads: what runs Pods, and what says how many of them.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, name, or_none};
use crate::kinds::labels::{format_labels, format_selector};
use crate::kinds::time;
use crate::kinds::view::View;

pub fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = |path: &str| object.int(path).unwrap_or(0);
    let ready = format!("{}/{}", count("status.readyReplicas"), count("spec.replicas"));
    let mut cells = vec![
        name(object),
        json!(ready),
        json!(count("status.updatedReplicas")),
        json!(count("status.availableReplicas")),
        age(object, now),
    ];
    cells.extend(template_cells(object));
    cells
}

pub fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = |path: &str| json!(object.int(path).unwrap_or(0));
    let mut cells = vec![
        name(object),
        count("spec.replicas"),
        count("status.replicas"),
        count("status.readyReplicas"),
        age(object, now),
    ];
    cells.extend(template_cells(object));
    cells
}

/// Containers, images and selector.
fn template_cells(object: &Value) -> [Value; 3] {
    let [containers, images] = container_cells(object.list("spec.template.spec.containers"));
    let selector = json!(format_selector(object.at("spec.selector")));
    [containers, images, selector]
}

/// Names and images.
fn container_cells(containers: &[Value]) -> [Value; 2] {
    let join = |key: &str| {
        let texts: Vec<&str> = containers.iter().map(|c| c.text(key)).collect();
        json!(texts.join(","))
    };
    [join("name"), join("image")]
}

pub fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = |key: &str| json!(object.at("status").int(key).unwrap_or(0));
    let mut cells = vec![
        name(object),
        count("desiredNumberScheduled"),
        count("currentNumberScheduled"),
        count("numberReady"),
        count("updatedNumberScheduled"),
        count("numberAvailable"),
        json!(format_labels(object.at("spec.template.spec.nodeSelector"))),
        age(object, now),
    ];
    cells.extend(template_cells(object));
    cells
}

pub fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = |path: &str| object.int(path).unwrap_or(0);
    let ready = format!("{}/{}", count("status.readyReplicas"), count("spec.replicas"));
    let mut cells = vec![name(object), json!(ready), age(object, now)];
    cells.extend(container_cells(object.list("spec.template.spec.containers")));
    cells
}

pub fn replication_controller(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = replica_set(object, now);
    cells.truncate(cells.len() - 1);
    cells.push(json!(format_labels(object.at("spec.selector"))));
    cells
}

pub fn controller_revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut owners = object.list("metadata.ownerReferences").iter();
    let controller = owners.find(|owner| owner.flag("controller")).map(|owner| {
        let group = owner
            .text("apiVersion")
            .rsplit_once('/')
            .map_or("", |(group, _)| group);
        let kind = owner.text("kind").to_lowercase();
        let dot = if group.is_empty() { "" } else { "." };
        format!("{kind}{dot}{group}/{}", owner.text("name"))
    });
    vec![
        name(object),
        or_none(&controller.unwrap_or_default()),
        json!(object.int("revision").unwrap_or(0)),
        age(object, now),
    ]
}

pub fn pod_template(object: &Value, _: Timestamp) -> Vec<Value> {
    let mut cells = vec![name(object)];
    cells.extend(container_cells(object.list("template.spec.containers")));
    cells.push(json!(format_labels(object.at("template.metadata.labels"))));
    cells
}

pub fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![
        name(object),
        json!(job_status(object)),
        json!(completions(object)),
        json!(duration(object, now)),
        age(object, now),
    ];
    cells.extend(template_cells(object));
    cells
}

fn job_status(job: &Value) -> &'static str {
    let holds = |kind: &str| {
        let mut conditions = job.list("status.conditions").iter();
        conditions.any(|c| c.text("type") == kind && c.text("status") == "True")
    };
    let ended = ["Complete", "Failed"];
    if let Some(ended) = ended.into_iter().find(|kind| holds(kind)) {
        return ended;
    }
    if job.has("metadata.deletionTimestamp") {
        return "Terminating";
    }
    let under_way = ["Suspended", "FailureTarget", "SuccessCriteriaMet"];
    under_way
        .into_iter()
        .find(|kind| holds(kind))
        .unwrap_or("Running")
}

fn completions(job: &Value) -> String {
    let succeeded = job.int("status.succeeded").unwrap_or(0);
    match (
        job.int("spec.completions"),
        job.int("spec.parallelism").unwrap_or(0),
    ) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(job: &Value, now: Timestamp) -> String {
    let at = |path: &str| time::parse(job.at(path).as_str()?);
    let Some(start) = at("status.startTime") else {
        return String::new();
    };
    let end = at("status.completionTime").unwrap_or(now);
    time::human_duration(end.as_second() - start.as_second())
}

pub fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let last = object.at("status.lastScheduleTime").as_str();
    let suspended = match object.at("spec.suspend") {
        Value::Bool(true) => "True",
        Value::Bool(false) => "False",
        _ => "<unset>",
    };
    let mut cells = vec![
        name(object),
        json!(object.text("spec.schedule")),
        or_none(object.text("spec.timeZone")),
        json!(suspended),
        json!(object.list("status.active").len()),
        json!(last.map_or_else(|| "<none>".to_owned(), |last| time::age(Some(last), now))),
        age(object, now),
    ];
    cells.extend(container_cells(
        object.list("spec.jobTemplate.spec.template.spec.containers"),
    ));
    cells.push(json!(format_selector(
        object.at("spec.jobTemplate.spec.selector")
    )));
    cells
}

/// A count, a percentage or `N/A`.
fn amount(value: &Value) -> Value {
    match value {
        Value::Null => json!("N/A"),
        Value::String(text) => json!(text),
        number => json!(number.to_string()),
    }
}

pub fn budget(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        amount(object.at("spec.minAvailable")),
        amount(object.at("spec.maxUnavailable")),
        json!(object.int("status.disruptionsAllowed").unwrap_or(0)),
        age(object, now),
    ]
}
