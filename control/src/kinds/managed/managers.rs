//! Who owns which fields: `metadata.managedFields`, read and written.
use super::set::{Node, Set};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Upstream's `DefaultMaxUpdateManagers`: further ones are joined, the oldest first, into one entry.
const UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// A field manager as entries are told apart: an applier has one entry whatever version it speaks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manager {
    pub operation: Operation,
    pub name: String,
    /// Empty for appliers.
    pub version: String,
    pub subresource: String,
}

/// What a manager owns.
#[derive(Debug, Clone, PartialEq)]
pub struct Owned {
    pub set: Set,
    /// The API version that the paths are of.
    pub version: String,
    /// When it last changed something; RFC 3339 in UTC, so that the texts order as the times do.
    pub time: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Managers(pub BTreeMap<Manager, Owned>);

impl Operation {
    fn text(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

impl Manager {
    pub fn new(operation: Operation, name: &str, version: &str, subresource: &str) -> Manager {
        let version = match operation {
            Operation::Apply => "",
            Operation::Update => version,
        };
        Manager {
            operation,
            name: if name.is_empty() { "unknown" } else { name }.to_owned(),
            version: version.to_owned(),
            subresource: subresource.to_owned(),
        }
    }

    /// The manager as a conflict names it.
    pub fn shown(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.version));
        }
        text
    }
}

/// Whether this asks for all ownership to be forgotten: an empty list, or one of one empty entry.
pub fn is_reset(fields: &Value) -> bool {
    match fields.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => only.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

/// Whether two `metadata.managedFields` differ in nothing but times.
pub fn same_but_times(a: &Value, b: &Value) -> bool {
    let without = |entries: &Value| -> Vec<Value> {
        let mut entries = entries.as_array().cloned().unwrap_or_default();
        for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
            entry.remove("time");
        }
        entries
    };
    without(a) == without(b)
}

impl Managers {
    /// Reads `metadata.managedFields`; what is absent is empty.
    pub fn parse(fields: &Value) -> Result<Managers, String> {
        let mut managers = Managers::default();
        for (i, entry) in fields.as_array().into_iter().flatten().enumerate() {
            let (manager, owned) = read(i, entry)?;
            managers.0.insert(manager, owned);
        }
        Ok(managers)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As `metadata.managedFields` holds it: appliers first, then by time. None when nobody owns anything.
    pub fn encoded(&self) -> Option<Value> {
        let mut entries: Vec<(&Manager, &Owned)> = self.0.iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            let key = |m: &Manager| (m.name.clone(), m.version.clone(), m.subresource.clone());
            (a.operation, &x.time)
                .cmp(&(b.operation, &y.time))
                .then_with(|| key(a).cmp(&key(b)))
        });
        let entries: Vec<Value> = entries.into_iter().map(|(m, o)| written(m, o)).collect();
        (!entries.is_empty()).then_some(Value::Array(entries))
    }

    /// Forgets who owns nothing any more.
    pub fn sweep(&mut self) {
        self.0.retain(|_, owned| !owned.set.is_empty());
    }

    /// Joins the oldest updaters of a version into one entry until no more than [`UPDATERS`] are left.
    pub fn cap(&mut self) {
        let mut updaters: Vec<(Option<String>, Manager)> = self
            .0
            .iter()
            .filter(|(m, _)| m.operation == Operation::Update)
            .map(|(m, owned)| (owned.time.clone(), m.clone()))
            .collect();
        let mut count = updaters.len();
        updaters.sort();
        let mut first_of: BTreeMap<String, Manager> = BTreeMap::new();
        for (_, manager) in updaters {
            if count <= UPDATERS {
                return;
            }
            let version = manager.version.clone();
            let Some(first) = first_of.get(&version) else {
                first_of.insert(version, manager);
                continue;
            };
            let bucket = Manager::new(Operation::Update, ANCIENT, &version, "");
            if !self.0.contains_key(&bucket)
                && let Some(owned) = self.0.remove(first)
            {
                self.0.insert(bucket.clone(), owned);
            }
            if let (Some(theirs), Some(into)) = (self.0.remove(&manager), self.0.get_mut(&bucket)) {
                into.set.add(theirs.set);
                into.time = theirs.time;
                count -= 1;
            }
        }
    }
}

fn read(i: usize, entry: &Value) -> Result<(Manager, Owned), String> {
    let text = |key: &str| entry[key].as_str().unwrap_or_default();
    let operation = match text("operation") {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return Err("operation must be `Apply` or `Update`".to_owned()),
    };
    let version = text("apiVersion");
    if version.is_empty() {
        return Err("apiVersion must not be empty".to_owned());
    }
    match text("fieldsType") {
        "FieldsV1" => {}
        "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
        other => {
            return Err(format!(
                "invalid fieldsType {other:?} in managed fields entry {i}"
            ));
        }
    }
    let set = match &entry["fieldsV1"] {
        Value::Null => Set::default(),
        fields => Set::parse(fields)?,
    };
    let manager = Manager {
        name: text("manager").to_owned(),
        ..Manager::new(operation, "-", version, text("subresource"))
    };
    let time = entry["time"].as_str().map(str::to_owned);
    let owned = Owned {
        set,
        version: version.to_owned(),
        time,
    };
    Ok((manager, owned))
}

fn written(manager: &Manager, owned: &Owned) -> Value {
    // Not by `json!`, which would copy the set.
    let mut entry = Map::from_iter([
        ("operation".to_owned(), manager.operation.text().into()),
        ("apiVersion".to_owned(), owned.version.as_str().into()),
        ("fieldsType".to_owned(), "FieldsV1".into()),
        ("fieldsV1".to_owned(), owned.set.encoded()),
    ]);
    let optional = [
        ("manager", Some(&manager.name)),
        ("subresource", Some(&manager.subresource)),
        ("time", owned.time.as_ref()),
    ];
    for (key, text) in optional {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            entry.insert(key.to_owned(), text.as_str().into());
        }
    }
    Value::Object(entry)
}

/// Metadata that no one owns.
pub(super) const NOT_OWNED: [&str; 9] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// Takes out what no one owns: type, name and what the server sets.
pub fn strip(set: &mut Set) {
    use super::element::Element;
    let mut metadata = Node::leaf();
    for name in NOT_OWNED {
        metadata.below.put(Element::field(name), Node::leaf());
    }
    let mut gone = Set::default();
    gone.put(Element::field("apiVersion"), Node::leaf());
    gone.put(Element::field("kind"), Node::leaf());
    gone.put(Element::field("metadata"), metadata);
    set.subtract(&gone);
}
