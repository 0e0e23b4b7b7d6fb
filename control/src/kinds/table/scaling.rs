//! Rows of HorizontalPodAutoscalers, in the form of `autoscaling/v2`.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, name};
use crate::kinds::view::View;

/// Metrics that are shown before the rest is only counted.
const SHOWN: usize = 2;
const UNKNOWN: &str = "<unknown>";

pub fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let target = object.at("spec.scaleTargetRef");
    let min = object.int("spec.minReplicas");
    vec![
        name(object),
        json!(format!("{}/{}", target.text("kind"), target.text("name"))),
        json!(metrics(
            object.list("spec.metrics"),
            object.list("status.currentMetrics")
        )),
        json!(min.map_or_else(|| "<unset>".to_owned(), |n| n.to_string())),
        json!(object.int("spec.maxReplicas").unwrap_or(0)),
        json!(object.int("status.currentReplicas").unwrap_or(0)),
        age(object, now),
    ]
}

fn metrics(specs: &[Value], statuses: &[Value]) -> String {
    if specs.is_empty() {
        return "<none>".into();
    }
    let shown = specs
        .iter()
        .enumerate()
        .take(SHOWN)
        .map(|(i, spec)| metric(spec, statuses.get(i).unwrap_or(&Value::Null)));
    let shown = shown.collect::<Vec<_>>().join(", ");
    match specs.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

fn metric(spec: &Value, status: &Value) -> String {
    let (key, named) = match spec.text("type") {
        "External" => ("external", false),
        "Object" => ("object", false),
        "Pods" => ("pods", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".into(),
    };
    let (spec, current) = (spec.at(key), status.at(key).at("current"));
    let target = spec.at("target");
    let or_unknown = |value: &Value| value.as_str().unwrap_or(UNKNOWN).to_owned();
    let percent = |value: &Value, none: &str| {
        value
            .as_i64()
            .map_or_else(|| none.to_owned(), |n| format!("{n}%"))
    };
    let average = target.at("averageValue").as_str();
    let pair = match (named, average) {
        (true, Some(wanted)) => format!("{}/{wanted}", or_unknown(current.at("averageValue"))),
        (true, None) => {
            let (now, wanted) = (current.at("averageUtilization"), target.at("averageUtilization"));
            format!("{}/{}", percent(now, UNKNOWN), percent(wanted, "<auto>"))
        }
        (false, Some(wanted)) if key == "pods" => {
            format!("{}/{wanted}", or_unknown(current.at("averageValue")))
        }
        (false, Some(wanted)) => format!("{}/{wanted} (avg)", or_unknown(current.at("averageValue"))),
        (false, None) => format!("{}/{}", or_unknown(current.at("value")), target.text("value")),
    };
    match named {
        true => format!("{}: {pair}", spec.text("name")),
        false => pair,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let cpu = crate::kinds::defaults::scaling::cpu_metric(80);
        assert_eq!(metrics(std::slice::from_ref(&cpu), &[]), "cpu: <unknown>/80%");
        let pods =
            json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"averageValue": "5"}}});
        let three = [cpu.clone(), pods, cpu];
        assert_eq!(
            metrics(&three, &[]),
            "cpu: <unknown>/80%, <unknown>/5 + 1 more..."
        );
    }
}
