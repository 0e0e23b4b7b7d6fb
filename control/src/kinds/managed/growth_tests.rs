//! What writing an object costs grows as its lists do: items are found by an index, never one by one.
use super::element::COMPARED;
use super::{Convert, Writer, apply, update};
use crate::kinds::{Kind, Registry};
use serde_json::{Value, json};
use std::sync::Arc;

fn pods() -> Arc<Kind> {
    Registry::builtin().resource("", "v1", "pods").unwrap().clone()
}

/// A Pod with a list of maps and a set of `n` items each, from the last to the first if they are to be.
fn pod(n: usize, value: &str, backwards: bool) -> Value {
    let mut names: Vec<String> = (0..n).map(|i| format!("n{}", i * 7919 % n)).collect();
    if backwards {
        names.reverse();
    }
    let env: Vec<Value> = names
        .iter()
        .map(|name| json!({"name": name, "value": value}))
        .collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "finalizers": names},
        "spec": {"containers": [{"name": "c", "env": env}]}})
}

fn writer(name: &str) -> Writer<'_> {
    Writer {
        name,
        subresource: "",
        now: "2026-01-01T00:00:00Z",
    }
}

/// How many scalars are compared, by what is done.
fn compared(n: usize) -> Vec<usize> {
    let kind = pods();
    let same = |value: &Value, _: &str| Some((pods(), value.clone()));
    let convert: &Convert<'_> = &same;
    let mut counts = Vec::new();
    let mut count = || counts.push(COMPARED.replace(0));
    COMPARED.set(0);
    let mut made = pod(n, "1", false);
    update(&kind, writer("maker"), None, &mut made, convert);
    count();
    let applied = apply(
        &kind,
        writer("one"),
        true,
        Some(&made),
        &pod(n, "2", true),
        convert,
    )
    .unwrap();
    count();
    let refused = apply(
        &kind,
        writer("two"),
        false,
        Some(&applied),
        &pod(n, "3", false),
        convert,
    );
    assert!(refused.is_err());
    count();
    let less = apply(
        &kind,
        writer("one"),
        true,
        Some(&applied),
        &pod(n / 2, "2", false),
        convert,
    )
    .unwrap();
    count();
    let mut changed = pod(n, "4", true);
    changed["metadata"]["managedFields"] = less["metadata"]["managedFields"].clone();
    update(&kind, writer("maker"), Some(&less), &mut changed, convert);
    count();
    counts
}

#[test]
fn what_is_compared_grows_as_lists_do() {
    let (few, many) = (compared(250), compared(2_000));
    for (few, many) in few.iter().zip(&many) {
        // Eight times as many items, and a few steps more for each; it would be 64 times if each were compared with each.
        assert!(*few > 0 && *many < 16 * few, "{few} {many}");
    }
}
