//! What the containers of a Pod ask for together. KEP-753 (sidecars), KEP-2837 (Pod-level resources).
use std::collections::BTreeMap;

use serde_json::Value;

use super::quantity::Quantity;
use super::view::View;

/// Amounts by resource.
pub type List = BTreeMap<String, Quantity>;

/// A resource list as amounts.
pub fn list(value: &Value) -> List {
    let members = value.as_object().into_iter().flatten();
    members
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(amount.as_str()?).ok()?)))
        .collect()
}

/// What a Pod asks for: the larger of what runs together at the end and what any step of its start takes. `which` is
/// `requests` or `limits`.
pub fn pod(pod: &Value, which: &str) -> List {
    let of = |container: &Value| list(container.at("resources").at(which));
    let mut total = List::new();
    for container in pod.list("spec.containers") {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut highest) = (List::new(), List::new());
    for container in pod.list("spec.initContainers") {
        let own = of(container);
        match container.text("restartPolicy") {
            "Always" => {
                add(&mut sidecars, &own);
                add(&mut total, &own);
                raise(&mut highest, &sidecars);
            }
            _ => {
                let mut step = sidecars.clone();
                add(&mut step, &own);
                raise(&mut highest, &step);
            }
        }
    }
    raise(&mut total, &highest);
    total.extend(list(pod.at("spec.resources").at(which)));
    total
}

/// With what the runtime itself takes, where there is something to add to.
pub fn with_overhead(pod: &Value, mut total: List) -> List {
    let overhead = list(pod.at("spec.overhead"));
    for (name, amount) in overhead {
        if let Some(sum) = total.get_mut(&name) {
            *sum = sum.plus(amount);
        }
    }
    total
}

fn add(total: &mut List, more: &List) {
    for (name, amount) in more {
        total
            .entry(name.clone())
            .and_modify(|sum| *sum = sum.plus(*amount))
            .or_insert(*amount);
    }
}

fn raise(total: &mut List, least: &List) {
    for (name, amount) in least {
        let now = total.entry(name.clone()).or_insert(*amount);
        if *now < *amount {
            *now = *amount;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn init_containers_run_before_the_others() {
        let ask = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let object = json!({"spec": {
            "containers": [{"resources": ask("1")}, {"resources": ask("1")}],
            "initContainers": [
                {"resources": ask("500m"), "restartPolicy": "Always"}, {"resources": ask("3")}]}});
        assert_eq!(pod(&object, "requests")["cpu"].to_string(), "3500m");
        assert!(pod(&object, "limits").is_empty());
    }
}
