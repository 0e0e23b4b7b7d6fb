//! What ResourceClaims count for a ResourceQuota: devices by their class, and by what Pods call them (KEP-5004). Pure.
use std::collections::BTreeMap;

use serde_json::Value;

use super::quantity::Quantity;
use super::usage::Usage;
use super::view::View;

/// What names of devices begin with that Pods ask for by their class.
pub(super) const CLASS_OF_DEVICES: &str = "deviceclass.resource.kubernetes.io/";
/// What names of devices end with that ResourceClaims ask for by their class.
pub const DEVICES: &str = ".deviceclass.resource.k8s.io/devices";
/// Devices that one claim may be given, which is what `All` may come to.
const MOST_DEVICES: i64 = 32;
/// Of a claim that was made for a Pod which asks for devices by a name of its own.
const EXTENDED: &str = "resource.kubernetes.io/extended-resource-claim";
const REQUESTS: &str = "requests.";

/// DeviceClasses, with what Pods may call their devices.
#[derive(Debug, Default)]
pub struct Classes(BTreeMap<String, Option<String>>);

impl Classes {
    pub fn of<'v>(classes: impl IntoIterator<Item = &'v Value>) -> Classes {
        let named = classes.into_iter().map(|class| {
            let resource = class.at("spec.extendedResourceName").as_str();
            (
                class.text("metadata.name").to_owned(),
                resource.map(str::to_owned),
            )
        });
        Classes(named.collect())
    }

    /// Whether claims count for this resource of a quota.
    pub fn concern(&self, resource: &str) -> bool {
        let Some(name) = resource.strip_prefix(REQUESTS) else {
            return resource.ends_with(DEVICES);
        };
        match name.strip_prefix(CLASS_OF_DEVICES) {
            Some(class) => self.0.contains_key(class),
            None => self.0.values().flatten().any(|known| known == name),
        }
    }

    /// Adds what the devices of a claim count for by the names that Pods have for them, but for what its Pod counts already.
    pub fn add(&self, usage: &mut Usage, counted: &Usage) {
        let mut more = Usage::new();
        for (name, amount) in usage.iter() {
            let Some(class) = name.strip_suffix(DEVICES).filter(|class| !class.is_empty()) else {
                continue;
            };
            more.insert(format!("{REQUESTS}{CLASS_OF_DEVICES}{class}"), *amount);
            if let Some(Some(resource)) = self.0.get(class) {
                more.insert(format!("{REQUESTS}{resource}"), *amount);
            }
        }
        for (name, amount) in more {
            let amount = counted
                .get(&name)
                .map_or(amount, |counted| amount.minus(*counted));
            if !amount.is_zero() && !amount.is_negative() {
                usage.insert(name, amount);
            }
        }
    }
}

/// Whether a quota's name may be one that Pods have for devices.
pub fn may_be_devices(resource: &str) -> bool {
    resource
        .strip_prefix(REQUESTS)
        .is_some_and(|name| name.contains('/'))
}

/// How many devices of each class a ResourceClaim may come to.
pub(super) fn devices(claim: &Value) -> Usage {
    let mut usage = Usage::new();
    for request in claim.list("spec.devices.requests") {
        for (class, most) in worst(request) {
            let sum = usage
                .entry(format!("{class}{DEVICES}"))
                .or_insert(Quantity::whole(0));
            *sum = sum.plus(Quantity::whole(most));
        }
    }
    usage
}

/// The most devices of each class that a request may be given, whichever of its alternatives that is.
fn worst(request: &Value) -> BTreeMap<&str, i64> {
    let mut worst = BTreeMap::new();
    let alternatives = request.list("firstAvailable").iter();
    for asked in alternatives.chain([request.at("exactly")].into_iter().filter(|e| !e.is_null())) {
        let count = match asked.text("allocationMode") {
            "ExactCount" => asked.int("count").unwrap_or(0),
            "All" => MOST_DEVICES,
            _ => 0,
        };
        let most = worst.entry(asked.text("deviceClassName")).or_insert(count);
        *most = count.max(*most);
    }
    worst
}

/// Name and uid of the Pod that a claim was made for because that asks for devices by a name of its own.
pub fn asker(claim: &Value) -> Option<(&str, &str)> {
    if claim.at("metadata.annotations").get(EXTENDED)? != "true" {
        return None;
    }
    let owners = claim.list("metadata.ownerReferences").iter();
    let owner = owners.into_iter().find(|owner| owner.flag("controller"))?;
    let is_pod = (owner.text("apiVersion"), owner.text("kind")) == ("v1", "Pod");
    is_pod.then(|| (owner.text("name"), owner.text("uid")))
}

/// Whether the devices of the claim are those that its Pod counts: it is the one that the Pod names, or as long as it names
/// none, the oldest of those `others`.
pub fn is_counted<'v>(claim: &Value, pod: &Value, others: impl IntoIterator<Item = &'v Value>) -> bool {
    let Some((_, uid)) = asker(claim).filter(|(_, uid)| *uid == pod.text("metadata.uid")) else {
        return false;
    };
    if pod.has("status.extendedResourceClaimStatus") {
        return pod.text("status.extendedResourceClaimStatus.resourceClaimName")
            == claim.text("metadata.name");
    }
    let age = |claim: &'_ Value| {
        let text = |path: &str| claim.text(path).to_owned();
        (text("metadata.creationTimestamp"), text("metadata.name"))
    };
    let own = age(claim);
    let mut rivals = others
        .into_iter()
        .filter(|other| asker(other).is_some_and(|(_, of)| of == uid));
    !rivals.any(|other| age(other) < own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn classes() -> Classes {
        Classes::of(&[
            json!({"metadata": {"name": "a"}, "spec": {"extendedResourceName": "example.com/gpu"}}),
            json!({"metadata": {"name": "b"}, "spec": {}}),
        ])
    }

    #[test]
    fn claims_count_for_what_pods_call_their_devices() {
        for (name, want) in [
            ("a.deviceclass.resource.k8s.io/devices", true),
            ("nix.deviceclass.resource.k8s.io/devices", true),
            ("requests.deviceclass.resource.kubernetes.io/a", true),
            ("requests.deviceclass.resource.kubernetes.io/b", true),
            ("requests.deviceclass.resource.kubernetes.io/nix", false),
            ("requests.example.com/gpu", true),
            ("requests.example.com/nix", false),
            ("example.com/gpu", false),
            ("requests.cpu", false),
        ] {
            assert_eq!(classes().concern(name), want, "{name}");
        }
    }

    #[test]
    fn what_the_pod_counts_is_not_counted_again() {
        let amount = Quantity::whole;
        let (plain, implicit) = (
            "a.deviceclass.resource.k8s.io/devices",
            "requests.deviceclass.resource.kubernetes.io/a",
        );
        let extended = "requests.example.com/gpu";
        for (counted, want) in [
            (vec![], vec![(plain, 3), (implicit, 3), (extended, 3)]),
            (
                vec![(extended, 2)],
                vec![(plain, 3), (implicit, 3), (extended, 1)],
            ),
            (vec![(extended, 3), (implicit, 4)], vec![(plain, 3)]),
        ] {
            let of = |pairs: &[(&str, i64)]| {
                let pairs = pairs.iter().map(|(name, n)| ((*name).to_owned(), amount(*n)));
                pairs.collect::<Usage>()
            };
            let mut usage = of(&[(plain, 3)]);
            classes().add(&mut usage, &of(&counted));
            assert_eq!(usage, of(&want), "{counted:?}");
        }
        let mut none = Usage::from([("b.deviceclass.resource.k8s.io/devices".to_owned(), amount(1))]);
        classes().add(&mut none, &Usage::new());
        assert_eq!(none.len(), 2);
    }

    #[test]
    fn a_pod_counts_for_the_claim_that_it_names_or_the_oldest() {
        let claim = |name: &str, second: u8| {
            json!({"metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:0{second}Z"),
                "annotations": {EXTENDED: "true"}, "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]}})
        };
        let (old, new, late) = (claim("b", 1), claim("c", 1), claim("a", 2));
        let all = [old.clone(), new.clone(), late.clone()];
        let pod = json!({"metadata": {"uid": "u"}});
        assert!(is_counted(&old, &pod, &all));
        assert!(!is_counted(&new, &pod, &all) && !is_counted(&late, &pod, &all));
        let named = json!({"metadata": {"uid": "u"}, "status": {"extendedResourceClaimStatus": {"resourceClaimName": "a"}}});
        assert!(is_counted(&late, &named, &all) && !is_counted(&old, &named, &all));
        assert!(!is_counted(&old, &json!({"metadata": {"uid": "other"}}), &all));
        let mut plain = old;
        plain["metadata"]["annotations"] = json!({});
        assert_eq!(asker(&plain), None);
        assert_eq!(asker(&new), Some(("p", "u")));
    }
}
