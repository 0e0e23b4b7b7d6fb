//! Which Pod goes when the node is short of something, and what is said of it: upstream's order (pkg/kubelet/eviction) by use
//! over request, priority, and by how much. Pure.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::thresholds::{Amount, Observation, Threshold, binary};
use crate::pods::view::PodView;
use crate::quantity::{self, of_count};
use crate::static_pods::manifest::{is_static, mirror_of};

/// `system-cluster-critical`; nothing from there on is evicted.
pub const CRITICAL: i32 = 2_000_000_000;

/// What a Pod uses of the resource, and which container how much.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Use {
    pub pod: u64,
    pub containers: BTreeMap<String, u64>,
}

/// A Pod that may go.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub pod: Arc<Pod>,
    /// Nothing when it could not be read: such a Pod goes first.
    pub used: Option<Use>,
}

/// Whether a Pod is spared whatever the node is short of.
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || mirror_of(pod).is_some() || priority(pod) >= CRITICAL
}

pub fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

/// Orders candidates: who goes first is first.
pub fn rank(candidates: &mut [Candidate], resource: &str) {
    candidates.sort_by(|a, b| compare(a, b, resource));
}

fn compare(a: &Candidate, b: &Candidate, resource: &str) -> Ordering {
    let (Some(used_a), Some(used_b)) = (&a.used, &b.used) else {
        return (a.used.is_some()).cmp(&b.used.is_some());
    };
    let over = |candidate: &Candidate, used: &Use| {
        i128::from(used.pod) - i128::from(requested(&candidate.pod, resource))
    };
    let (over_a, over_b) = (over(a, used_a), over(b, used_b));
    let by_priority = priority(&a.pod).cmp(&priority(&b.pod));
    let by_amount = Reverse(over_a).cmp(&Reverse(over_b));
    match resource {
        "pids" => by_priority.then(Reverse(used_a.pod).cmp(&Reverse(used_b.pod))),
        _ => Reverse(over_a > 0)
            .cmp(&Reverse(over_b > 0))
            .then(by_priority)
            .then(by_amount),
    }
}

/// What the Pod's containers ask for together.
fn requested(pod: &Pod, resource: &str) -> u64 {
    let Some(view) = PodView::new(pod) else { return 0 };
    view.spec.containers.iter().map(|c| request(c, resource)).sum()
}

fn request(container: &Container, resource: &str) -> u64 {
    let amount = asked(container, resource).and_then(quantity::value);
    amount.and_then(|amount| u64::try_from(amount).ok()).unwrap_or(0)
}

fn asked<'a>(container: &'a Container, resource: &str) -> Option<&'a Quantity> {
    container.resources.as_ref()?.requests.as_ref()?.get(resource)
}

/// The kubelet's words.
pub fn message(candidate: &Candidate, met: &Threshold, seen: Observation) -> String {
    let resource = met.signal.resource();
    let counted = is_counted(resource);
    let least = met.least.of(seen.capacity);
    let (least, available) = match (counted, met.least) {
        // Upstream writes a share of whatever as one of bytes.
        (true, Amount::Bytes(_)) => (of_count(least).0, of_count(seen.available).0),
        (true, _) => (binary(least), of_count(seen.available).0),
        (false, _) => (binary(least), binary(seen.available)),
    };
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {least}, available: {available}. "
    );
    if let (Some(view), Some(used)) = (PodView::new(&candidate.pod), &candidate.used)
        && !counted
    {
        blame(view, used, resource, &mut text);
    }
    text
}

/// What the event of an eviction says besides: upstream's keys.
pub fn annotations(candidate: &Candidate, met: &Threshold) -> BTreeMap<String, String> {
    let resource = met.signal.resource();
    let mut told = BTreeMap::new();
    let mut tell = |key: &str, value: String| told.insert(key.to_owned(), value);
    let (Some(view), Some(used)) = (PodView::new(&candidate.pod), &candidate.used) else {
        return told;
    };
    let over = match is_counted(resource) {
        true => Vec::new(),
        false => greedy(view, used, resource),
    };
    let names: Vec<&str> = over
        .iter()
        .map(|(container, _)| container.name.as_str())
        .collect();
    let amounts: Vec<String> = over.iter().map(|(_, of_it)| binary(*of_it)).collect();
    tell("starved_resource", resource.to_owned());
    tell("offending_containers", names.join(","));
    tell("offending_containers_usage", amounts.join(","));
    if own_request(view, resource).is_some() {
        tell("offending_pod", view.name().to_owned());
        tell("offending_pod_usage", binary(used.pod));
    }
    told
}

/// Of these there are numbers, not bytes.
fn is_counted(resource: &str) -> bool {
    matches!(resource, "inodes" | "pids")
}

/// What a Pod asks for as a whole: only of memory that counts here.
fn own_request<'a>(pod: PodView<'a>, resource: &str) -> Option<&'a Quantity> {
    let own = pod.spec.resources.as_ref()?.requests.as_ref()?;
    own.get(resource).filter(|_| resource == "memory")
}

/// The containers that use more than they asked for, and how much.
fn greedy<'a>(pod: PodView<'a>, used: &Use, resource: &str) -> Vec<(&'a Container, u64)> {
    let all = pod.containers();
    let all = all.filter_map(|(container, _)| Some((container, *used.containers.get(&container.name)?)));
    all.filter(|(container, of_it)| *of_it > request(container, resource))
        .collect()
}

/// Who uses how much: the Pod, where it asks for memory as a whole, and containers that use more than they asked for.
fn blame(pod: PodView<'_>, used: &Use, resource: &str, text: &mut String) {
    let mut tell = |what: &str, name: &str, used: u64, request: Option<&Quantity>| {
        let (used, request) = (binary(used), request.map_or("0", |request| request.0.as_str()));
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "{what} {name} was using {used}, request is {request}, has larger consumption of {resource}. "
        );
    };
    if let Some(request) = own_request(pod, resource) {
        tell("Pod", pod.name(), used.pod, Some(request));
    }
    for (container, of_it) in greedy(pod, used, resource) {
        tell("Container", &container.name, of_it, asked(container, resource));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pressure::thresholds::Signal;
    use serde_json::json;

    fn candidate(name: &str, priority: i32, request: &str, used: u64) -> Candidate {
        let pod = json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"memory": request}}}]}});
        Candidate {
            pod: Arc::new(serde_json::from_value(pod).unwrap()),
            used: Some(Use {
                pod: used,
                containers: [("c".to_owned(), used)].into(),
            }),
        }
    }

    #[test]
    fn who_uses_more_than_he_asked_for_goes_first_then_the_least_important_then_the_greediest() {
        let mut all = vec![
            candidate("within", 0, "100", 90),
            candidate("over", 0, "10", 20),
            candidate("important", 5, "0", 1000),
            candidate("greedy", 0, "10", 90),
            candidate("within-less", 0, "100", 10),
        ];
        all.push(Candidate {
            used: None,
            ..candidate("unread", 9, "0", 0)
        });
        rank(&mut all, "memory");
        let names: Vec<_> = all.iter().map(|c| c.pod.metadata.name.clone().unwrap()).collect();
        assert_eq!(
            names,
            ["unread", "greedy", "over", "important", "within", "within-less"]
        );
    }

    #[test]
    fn the_message_is_the_kubelets() {
        let own = |request: &str| {
            let mut whole = candidate("p", 0, "1G", 3072);
            let mut pod = Pod::clone(&whole.pod);
            let resources = serde_json::from_value(json!({"requests": {"memory": request}})).unwrap();
            pod.spec.as_mut().unwrap().resources = Some(resources);
            whole.pod = Arc::new(pod);
            whole
        };
        let (mib, memory, inodes) = (1 << 20, Signal::MemoryAvailable, Signal::NodeFsInodesFree);
        for (candidate, signal, least, available, expected) in [
            (
                candidate("p", 0, "1Ki", 3072),
                memory,
                Amount::Bytes(100 * mib),
                90 * mib,
                "memory. Threshold quantity: 100Mi, \
                available: 90Mi. Container c was using 3Ki, request is 1Ki, has larger consumption of memory. ",
            ),
            (
                candidate("p", 0, "1k", 3072),
                memory,
                Amount::Share(0.5),
                mib,
                "memory. Threshold quantity: 512Mi, available: 1Mi. \
                Container c was using 3Ki, request is 1k, has larger consumption of memory. ",
            ),
            (
                own("1Mi"),
                memory,
                Amount::Bytes(mib),
                0,
                "memory. Threshold quantity: 1Mi, available: 0. \
                Pod p was using 3Ki, request is 1Mi, has larger consumption of memory. ",
            ),
            (
                candidate("p", 0, "1", 3072),
                inodes,
                Amount::Bytes(2000),
                1024,
                "inodes. Threshold quantity: 2k, available: 1024. ",
            ),
            (
                candidate("p", 0, "1", 3072),
                inodes,
                Amount::Share(0.5),
                3000,
                "inodes. Threshold quantity: 512Mi, available: 3k. ",
            ),
            (
                candidate("p", 0, "1", 9),
                Signal::PidAvailable,
                Amount::Bytes(10),
                7,
                "pids. Threshold quantity: 10, available: 7. ",
            ),
        ] {
            let met = Threshold {
                signal,
                least,
                grace: None,
            };
            let seen = Observation {
                available,
                capacity: 1 << 30,
            };
            let told = message(&candidate, &met, seen);
            assert_eq!(told, format!("The node was low on resource: {expected}"));
            let notes = annotations(&candidate, &met);
            let blamed = told.contains("Container c was using 3Ki");
            let (name, usage) = if blamed { ("c", "3Ki") } else { ("", "") };
            assert_eq!(notes["starved_resource"], signal.resource());
            assert_eq!(
                (
                    notes["offending_containers"].as_str(),
                    notes["offending_containers_usage"].as_str()
                ),
                (name, usage)
            );
            assert_eq!(
                notes.contains_key("offending_pod_usage"),
                told.contains("Pod p was using")
            );
        }
    }

    #[test]
    fn system_pods_are_spared() {
        assert!(is_critical(&candidate("s", CRITICAL, "0", 0).pod));
        assert!(!is_critical(&candidate("s", 1_000_000, "0", 0).pod));
    }
}
