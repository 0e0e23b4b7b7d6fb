//! The selectors that a question says a request would have (upstream's `ResourceAttributesFrom`): what of them counts, and what is told
//! of the rest. Pure.
use super::super::selectors::{FieldSelector, LabelSelector};
use crate::kinds::view::View;
use serde_json::Value;

/// The field by which nodes are authorised.
const NODE: &str = "spec.nodeName";

/// What the selectors come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selected {
    /// The node that the request is limited to.
    pub on_node: Option<String>,
    /// What could not be read.
    pub ignored: Vec<String>,
}

/// Of the attributes of a resource.
pub(super) fn read(attributes: &Value) -> Selected {
    let (fields, of_fields) = fields(attributes.at("fieldSelector"));
    let of_labels = labels(attributes.at("labelSelector"));
    let ignored = [("fieldSelector", of_fields), ("labelSelector", of_labels)];
    Selected {
        on_node: fields.exact(NODE).map(str::to_owned),
        ignored: ignored
            .into_iter()
            .filter_map(|(key, read)| read.told(key))
            .collect(),
    }
}

/// How much of a selector could be read.
enum Read {
    All,
    Some,
    Nothing,
}

impl Read {
    fn of(good: usize, all: usize) -> Read {
        match good {
            good if good == all => Read::All,
            0 => Read::Nothing,
            _ => Read::Some,
        }
    }

    fn told(&self, key: &str) -> Option<String> {
        let how = match self {
            Read::All => return None,
            Read::Some => "partially ignored",
            Read::Nothing => "ignored",
        };
        Some(format!("spec.resourceAttributes.{key} {how} due to parse error"))
    }
}

fn fields(selector: &Value) -> (FieldSelector, Read) {
    let (raw, requirements) = (selector.text("rawSelector"), selector.list("requirements"));
    if requirements.is_empty() {
        return match FieldSelector::parse(raw) {
            Ok(read) => (read, Read::All),
            Err(_) => (FieldSelector::default(), Read::Nothing),
        };
    }
    // Fields have one value, and none that are merely there.
    let known =
        |one: &&Value| matches!(one.text("operator"), "In" | "NotIn") && matches!(one.list("values"), [_]);
    let mut read = FieldSelector::default();
    for one in requirements.iter().filter(known) {
        if let ("In", [value]) = (one.text("operator"), one.list("values")) {
            read.require(one.text("key"), value.as_str().unwrap_or_default());
        }
    }
    let good = requirements.iter().filter(known).count();
    (read, Read::of(good, requirements.len()))
}

fn labels(selector: &Value) -> Read {
    let (raw, requirements) = (selector.text("rawSelector"), selector.list("requirements"));
    if requirements.is_empty() {
        let good = LabelSelector::parse(raw).is_ok();
        return if good { Read::All } else { Read::Nothing };
    }
    let known = |one: &&Value| matches!(one.text("operator"), "In" | "NotIn" | "Exists" | "DoesNotExist");
    Read::of(requirements.iter().filter(known).count(), requirements.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_cannot_be_read_is_told_and_does_not_count() {
        let on =
            |operator: &str, values: &[&str]| json!({"key": NODE, "operator": operator, "values": values});
        let of = |selector: Value| read(&json!({"fieldSelector": selector}));
        let all = "spec.resourceAttributes.fieldSelector ignored due to parse error";
        let some = "spec.resourceAttributes.fieldSelector partially ignored due to parse error";
        for (selector, node, ignored) in [
            (Value::Null, None, None),
            (json!({"rawSelector": "spec.nodeName=a,x!=y"}), Some("a"), None),
            (json!({"rawSelector": "spec.nodeName!=a"}), None, None),
            (json!({"rawSelector": "spec.nodeName"}), None, Some(all)),
            (json!({"requirements": [on("In", &["a"])]}), Some("a"), None),
            (json!({"requirements": [on("NotIn", &["a"])]}), None, None),
            (json!({"requirements": [on("In", &["a", "b"])]}), None, Some(all)),
            (json!({"requirements": [on("Exists", &[])]}), None, Some(all)),
            (
                json!({"requirements": [on("Newer", &["a"]), on("In", &["a"])]}),
                Some("a"),
                Some(some),
            ),
        ] {
            let want = Selected {
                on_node: node.map(str::to_owned),
                ignored: ignored.map(str::to_owned).into_iter().collect(),
            };
            assert_eq!(of(selector.clone()), want, "{selector}");
        }
        let of = |selector: Value| read(&json!({"labelSelector": selector})).ignored;
        let all = "spec.resourceAttributes.labelSelector ignored due to parse error";
        assert_eq!(of(json!({"rawSelector": "a in (b)"})), Vec::<String>::new());
        assert_eq!(of(json!({"rawSelector": "a in b"})), [all]);
        assert_eq!(
            of(json!({"requirements": [{"key": "a", "operator": "Newer"}]})),
            [all]
        );
    }
}
