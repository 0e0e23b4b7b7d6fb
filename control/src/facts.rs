//! What upstream's clusters begin with, as data: priority classes and flow control's schemas and levels.
//!
//! Stands on nothing here, so that those who bring these objects about and those who judge them can both read it.
use serde_json::Value;

/// `facts/extract.py` makes it and documents its form.
const OBJECTS: &str = include_str!("facts/cluster.jsonl");

/// Flow control's objects without which requests would have nowhere to go: their specs are nobody's to change.
pub const MANDATORY: [&str; 2] = ["catch-all", "exempt"];

/// All of them: objects, each with the `path` of the collection where it is created.
pub fn objects() -> impl Iterator<Item = Value> {
    OBJECTS.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// The FlowSchemas and PriorityLevelConfigurations among them.
pub fn flow_control() -> impl Iterator<Item = Value> {
    let objects = objects().map(|mut line| line["object"].take());
    objects.filter(|object| object["apiVersion"] == "flowcontrol.apiserver.k8s.io/v1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_one() {
        assert_eq!(objects().count(), OBJECTS.lines().count());
        assert_eq!(flow_control().count(), 19);
    }
}
