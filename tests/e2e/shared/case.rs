//! One row of the table: a Pod, what lies beside it, and what is looked at. Owns how rows are read and completed; knows no
//! cluster.

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Which build of the programs a Pod runs; also the name of its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    Native,
    Wasm,
}

impl Build {
    pub const ALL: [Build; 2] = [Build::Native, Build::Wasm];

    pub fn name(self) -> &'static str {
        match self {
            Build::Native => "native",
            Build::Wasm => "wasm",
        }
    }
}

/// A row of `cases.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub area: String,
    #[serde(rename = "case")]
    pub name: String,
    /// Arguments of the witness: the only container, unless `pod` says otherwise.
    #[serde(default)]
    run: Vec<String>,
    /// Other fields of that container.
    #[serde(default)]
    container: Map<String, Value>,
    /// Other fields of the Pod's spec.
    #[serde(default)]
    pod: Map<String, Value>,
    /// Other fields of the Pod's metadata.
    #[serde(default)]
    metadata: Map<String, Value>,
    /// Objects that are made before it.
    #[serde(default)]
    beside: Vec<Value>,
    pub steps: Vec<Step>,
    /// Why the two builds do not do the same.
    #[serde(default)]
    pub differs: Option<String>,
}

/// What is waited for, done, or looked at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Waits until every container has ended for good.
    Ended,
    Ready,
    /// Waits until the first container runs.
    UntilRuns,
    /// Waits for so many restarts of the first container.
    Restarted(i32),
    /// Waits until the log of the first container has these words.
    Says(String),
    /// The log of the first container; its last lines; of another container.
    Log,
    Tail(i64),
    LogOf(String),
    /// The log of the container's previous run.
    Previous,
    /// How each container ended, or ended last.
    End,
    Phase,
    /// Waits until a container waits for a reason, and tells it.
    Waiting,
    /// Runs words in the first container.
    Exec(Vec<String>),
    /// The same with a text as standard input.
    Feed(String, Vec<String>),
    /// Writes a text to the container's standard input.
    Attach(String),
    /// Adds a native container that runs the witness with these words, and tells what it says.
    Debug(Vec<String>),
    /// `GET` of a path at port 8080, through the API server.
    Get(String),
    /// Puts an object in the place of the one that is there.
    Replace(Value),
    /// Deletes the Pod, and tells how its containers ended.
    Delete,
    /// A file below the build's folder of the host.
    HostFile(String),
    /// Waits for an event with this reason, and tells it.
    Event(String),
}

/// All cases.
pub fn table() -> Vec<Case> {
    let rows: Vec<Value> = serde_yaml::from_str(include_str!("cases.yaml")).unwrap();
    let read = |row: Value| {
        let name = row["case"].to_string();
        serde_json::from_value(row).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    rows.into_iter().map(read).collect()
}

impl Case {
    /// The Pod's name: its case in what names may be made of.
    pub fn pod_name(&self) -> String {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        };
        let name: String = self.name.chars().map(plain).collect();
        let words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
        words
            .join("-")
            .chars()
            .take(50)
            .collect::<String>()
            .trim_end_matches('-')
            .to_owned()
    }

    /// The Pod of this case.
    pub fn pod(&self, build: Build, dir: &str) -> Value {
        let mut spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 2,
            "automountServiceAccountToken": false, "enableServiceLinks": false});
        if !self.pod.contains_key("containers") {
            let mut container = json!({"name": "c", "image": "witness"});
            if !self.run.is_empty() {
                container["args"] = json!(self.run);
            }
            extend(&mut container, &self.container);
            spec["containers"] = json!([container]);
        }
        extend(&mut spec, &self.pod);
        let mut metadata = json!({"name": self.pod_name()});
        extend(&mut metadata, &self.metadata);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        completed(pod, build, dir)
    }

    pub fn beside(&self, build: Build, dir: &str) -> Vec<Value> {
        let each = self.beside.iter().cloned();
        each.map(|object| completed(object, build, dir)).collect()
    }
}

fn extend(object: &mut Value, with: &Map<String, Value>) {
    if let Some(object) = object.as_object_mut() {
        object.extend(with.clone());
    }
}

/// Puts in what only a run knows: `{ns}`, `{dir}` in texts, and whole references of the programs' images.
pub fn completed(value: Value, build: Build, dir: &str) -> Value {
    match value {
        Value::String(text) => json!(text.replace("{ns}", build.name()).replace("{dir}", dir)),
        Value::Array(items) => items
            .into_iter()
            .map(|item| completed(item, build, dir))
            .collect(),
        Value::Object(fields) => {
            let each = fields
                .into_iter()
                .map(|(name, value)| match (name.as_str(), value.as_str()) {
                    ("image", Some(image @ ("witness" | "core" | "server" | "hello-c"))) => {
                        let whole = format!("amphipod.local/{image}:{}", build.name());
                        (name, json!(whole))
                    }
                    _ => (name, completed(value, build, dir)),
                });
            Value::Object(each.collect())
        }
        other => other,
    }
}
