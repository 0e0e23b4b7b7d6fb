//! Services: the two spellings of the cluster IP, families, and what survives an update that leaves it out. Families of
//! addresses that are given follow from those, where addresses are chosen.
use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::{split_status, without_status};
use crate::kinds::view::{View, existing_mut, items_mut, object_mut, set_missing};

type Object = Map<String, Value>;

const HEADLESS: &str = "None";

pub fn create(object: &mut Value) {
    without_status(object);
    sync_cluster_ips(object);
    families(object, None);
    hide_internal_policy(object);
}

/// `clusterIP` alone sets `clusterIPs`.
fn sync_cluster_ips(object: &mut Value) {
    let ip = object.text("spec.clusterIP").to_owned();
    if !ip.is_empty() && object.list("spec.clusterIPs").is_empty() {
        set(object, "clusterIPs", json!([ip]));
    }
}

/// One IPv4 address, unless the Service is headless without selector: then whoever writes its endpoints decides.
fn families(object: &mut Value, old: Option<&Value>) {
    if !needs_cluster_ip(object) {
        return;
    }
    let given = object
        .list("spec.clusterIPs")
        .first()
        .is_some_and(|ip| ip != HEADLESS);
    let released = old.is_some_and(|old| old.list("spec.ipFamilies").len() > 1);
    let open =
        object.text("spec.clusterIP") == HEADLESS && object.map("spec.selector").is_none_or(Map::is_empty);
    let Some(spec) = object_mut(object, "spec") else {
        return;
    };
    let (policy, families) = match open {
        true => ("RequireDualStack", json!(["IPv4", "IPv6"])),
        false => ("SingleStack", json!(["IPv4"])),
    };
    let single = spec.get("ipFamilyPolicy").is_some_and(|p| p == "SingleStack");
    match spec
        .get("ipFamilies")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
    {
        None | Some([]) if given => {}
        None | Some([]) if single => drop(spec.insert("ipFamilies".into(), json!(["IPv4"]))),
        None | Some([]) => drop(spec.insert("ipFamilies".into(), families)),
        // Who may have both and names one would have that first.
        Some([only]) if open && !single && !released => {
            let other = if only == "IPv4" { "IPv6" } else { "IPv4" };
            let both = json!([only, other]);
            spec.insert("ipFamilies".into(), both);
        }
        Some(_) => {}
    }
    set_missing(spec, "ipFamilyPolicy", policy);
}

pub fn update(subresource: Option<&str>, new: &mut Value, old: &Value) {
    split_status(subresource, new, old);
    if subresource.is_none() {
        keep_addresses(new, old);
        follow_cluster_ip(new, old);
        keep_families(new, old);
        keep_node_ports(new, old);
        drop_what_the_type_lacks(new, old);
        single_stack(new, old);
        families(new, Some(old));
        hide_internal_policy(new);
    }
}

/// An address once given stays when the update leaves it out.
fn keep_addresses(new: &mut Value, old: &Value) {
    if !(needs_cluster_ip(new) && needs_cluster_ip(old)) {
        return;
    }
    if new.text("spec.clusterIP").is_empty() {
        copy(new, old, "clusterIP");
    }
    if new.list("spec.clusterIPs").is_empty() {
        copy(new, old, "clusterIPs");
    }
}

/// Who knows the one address only, and changes, clears or keeps it, means the list as well.
fn follow_cluster_ip(new: &mut Value, old: &Value) {
    let (now, before) = (new.text("spec.clusterIP").to_owned(), old.text("spec.clusterIP"));
    let ips = new.list("spec.clusterIPs");
    if now == before {
        if ips.is_empty() {
            copy(new, old, "clusterIPs");
        }
        return;
    }
    if ips == old.list("spec.clusterIPs") {
        let follows = if now.is_empty() { Value::Null } else { json!([now]) };
        set(new, "clusterIPs", follows);
    }
}

/// The policy stays; families do where the addresses that say them do.
fn keep_families(new: &mut Value, old: &Value) {
    if !(needs_cluster_ip(new) && needs_cluster_ip(old)) {
        return;
    }
    if !new.has("spec.ipFamilyPolicy") {
        copy(new, old, "ipFamilyPolicy");
    }
    let ips = new.list("spec.clusterIPs");
    let said = ips.first().is_some_and(|ip| ip != HEADLESS) && ips == old.list("spec.clusterIPs");
    if said && !new.has("spec.ipFamilies") {
        copy(new, old, "ipFamilies");
    }
}

/// Who wants one family of a Service that had two, and changes nothing else, keeps the first.
fn single_stack(new: &mut Value, old: &Value) {
    if new.text("spec.ipFamilyPolicy") != "SingleStack" {
        return;
    }
    for key in ["clusterIPs", "ipFamilies"] {
        let path = format!("spec.{key}");
        let all = new.list(&path);
        if all.len() > 1 && all == old.list(&path) {
            let first = json!([all[0]]);
            set(new, key, first);
        }
    }
}

/// A port that says none keeps the node port of the old one of its name, if no other wants that.
fn keep_node_ports(new: &mut Value, old: &Value) {
    if needs_node_port(new) && needs_node_port(old) {
        let used = node_ports(new);
        let Some(spec) = existing_mut(new, "spec") else {
            return;
        };
        let before: HashMap<&str, &Value> = old
            .list("spec.ports")
            .iter()
            .map(|port| (port.text("name"), port))
            .collect();
        for port in items_mut(spec, "ports").filter(|p| p.get("nodePort").is_none_or(|n| n == 0)) {
            let number = before
                .get(port.get("name").and_then(Value::as_str).unwrap_or_default())
                .and_then(|o| o.int("nodePort"));
            if let Some(number) = number.filter(|n| *n != 0 && !used.contains(n)) {
                port.insert("nodePort".into(), number.into());
            }
        }
    }
    if needs_health_check(new)
        && needs_health_check(old)
        && new.int("spec.healthCheckNodePort").unwrap_or(0) == 0
    {
        copy(new, old, "healthCheckNodePort");
    }
}

/// A change of type takes along what only the old type had, where the update left it as it was.
fn drop_what_the_type_lacks(new: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        let same = |key: &str| new.at(key) == old.at(key);
        if same("spec.clusterIP") && same("spec.clusterIPs") {
            drop_unchanged(new, old, &["clusterIP", "clusterIPs"]);
        }
        drop_unchanged(new, old, &["ipFamilies", "ipFamilyPolicy"]);
    }
    if has_node_ports(old)
        && !has_node_ports(new)
        && node_ports(new).is_subset(&node_ports(old))
        && let Some(spec) = existing_mut(new, "spec")
    {
        items_mut(spec, "ports").for_each(|p| drop(p.remove("nodePort")));
    }
    if needs_health_check(old) && !needs_health_check(new) {
        drop_unchanged(new, old, &["healthCheckNodePort"]);
    }
    if has_external_policy(old) && !has_external_policy(new) {
        drop_unchanged(new, old, &["externalTrafficPolicy"]);
    }
    if is(old, "LoadBalancer") && !is(new, "LoadBalancer") {
        drop_unchanged(new, old, &["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if !is(new, "LoadBalancer") && new.has("status.loadBalancer.ingress") {
        new["status"]["loadBalancer"] = json!({});
    }
}

/// Upstream shows none where there is no address for it to be about, whatever is stored.
fn hide_internal_policy(object: &mut Value) {
    let known = ["Cluster", "Local"].contains(&object.text("spec.internalTrafficPolicy"));
    if is(object, "ExternalName")
        && known
        && let Some(spec) = existing_mut(object, "spec")
    {
        spec.remove("internalTrafficPolicy");
    }
}

fn drop_unchanged(new: &mut Value, old: &Value, keys: &[&str]) {
    for key in keys {
        let path = format!("spec.{key}");
        if new.at(&path) == old.at(&path)
            && let Some(spec) = existing_mut(new, "spec")
        {
            spec.remove(*key);
        }
    }
}

fn node_ports(service: &Value) -> HashSet<i64> {
    service
        .list("spec.ports")
        .iter()
        .filter_map(|p| p.int("nodePort"))
        .filter(|n| *n != 0)
        .collect()
}

fn copy(new: &mut Value, old: &Value, key: &str) {
    let value = old.at(&format!("spec.{key}"));
    if !value.is_null() {
        set(new, key, value.clone());
    }
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(spec) = object_mut(object, "spec") {
        let spec: &mut Object = spec;
        spec.insert(key.to_owned(), value);
    }
}

fn is(service: &Value, ty: &str) -> bool {
    service.text("spec.type") == ty
}

/// Whether a Service of this type has a cluster IP at all.
pub fn needs_cluster_ip(service: &Value) -> bool {
    ["ClusterIP", "NodePort", "LoadBalancer"].contains(&service.text("spec.type"))
}

/// Whether a Service may have node ports.
fn has_node_ports(service: &Value) -> bool {
    is(service, "NodePort") || is(service, "LoadBalancer")
}

/// Whether a Service gets node ports of its own accord.
pub fn needs_node_port(service: &Value) -> bool {
    has_node_ports(service) && (is(service, "NodePort") || allocates(service))
}

/// Whether a Service would be given node ports as a load balancer.
fn allocates(service: &Value) -> bool {
    service.at("spec.allocateLoadBalancerNodePorts") != &Value::Bool(false)
}

/// Whether a Service needs a port on which nodes tell if they have local endpoints.
pub fn needs_health_check(service: &Value) -> bool {
    is(service, "LoadBalancer") && service.text("spec.externalTrafficPolicy") == "Local"
}

fn has_external_policy(service: &Value) -> bool {
    is(service, "NodePort")
        || is(service, "LoadBalancer")
        || is(service, "ClusterIP") && !service.list("spec.externalIPs").is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_that_leaves_addresses_out_keeps_them() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "1.2.3.4", "clusterIPs": ["1.2.3.4"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        update(None, &mut new, &old);
        assert_eq!(new["spec"]["clusterIPs"], json!(["1.2.3.4"]));
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30000);
    }

    #[test]
    fn a_port_keeps_its_node_port_by_its_name() {
        let ports = |first: Value, second: Value| {
            json!({"spec": {"type": "LoadBalancer", "ports": [
                {"name": "a", "port": 80, "protocol": "TCP", "nodePort": first},
                {"name": "b", "port": 81, "protocol": "TCP", "nodePort": second}]}})
        };
        let old = ports(json!(30001), json!(30002));
        for (mut new, want) in [
            (ports(json!(0), json!(30002)), [json!(30001), json!(30002)]),
            (ports(json!(30002), json!(0)), [json!(30002), json!(0)]),
        ] {
            new["spec"]["ports"][0]["port"] = 90.into();
            update(None, &mut new, &old);
            assert_eq!([0, 1].map(|i| new["spec"]["ports"][i]["nodePort"].clone()), want);
        }
    }

    #[test]
    fn a_load_balancer_that_is_given_no_more_node_ports_keeps_those_it_has() {
        let old = json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": true,
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}]}});
        let mut kept = old.clone();
        kept["spec"]["allocateLoadBalancerNodePorts"] = false.into();
        let want = kept.clone();
        update(None, &mut kept, &old);
        assert_eq!(kept["spec"]["ports"], want["spec"]["ports"]);
        let mut without = want.clone();
        without["spec"]["ports"][0]["nodePort"] = 0.into();
        update(None, &mut without, &old);
        assert_eq!(without["spec"]["ports"][0]["nodePort"], 0);
        let mut plain = want.clone();
        plain["spec"]["type"] = "ClusterIP".into();
        update(None, &mut plain, &want);
        assert_eq!(plain["spec"]["ports"], json!([{"port": 80, "protocol": "TCP"}]));
    }

    #[test]
    fn who_clears_or_changes_the_one_address_means_the_list() {
        let old = json!({"spec": {"type": "ClusterIP", "clusterIP": "1.2.3.4", "clusterIPs": ["1.2.3.4"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}});
        let mut new = old.clone();
        new["spec"]["clusterIP"] = Value::Null;
        update(None, &mut new, &old);
        assert_eq!(new, old);
        new["spec"]["clusterIP"] = "1.2.3.5".into();
        update(None, &mut new, &old);
        assert_eq!(new["spec"]["clusterIPs"], json!(["1.2.3.5"]));
    }

    #[test]
    fn a_family_that_is_named_comes_first() {
        let mut headless =
            json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "ipFamilies": ["IPv6"]}});
        create(&mut headless);
        assert_eq!(headless["spec"]["ipFamilies"], json!(["IPv6", "IPv4"]));
    }

    #[test]
    fn becoming_external_gives_up_addresses() {
        let old = json!({"spec": {"type": "ClusterIP", "clusterIP": "1.2.3.4", "clusterIPs": ["1.2.3.4"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster"}});
        let mut new = old.clone();
        new["spec"]["type"] = "ExternalName".into();
        update(None, &mut new, &old);
        assert_eq!(new, json!({"spec": {"type": "ExternalName"}}));
    }

    #[test]
    fn an_address_is_kept_before_its_list_follows_it() {
        let old = json!({"spec": {"type": "ClusterIP", "clusterIP": "1.2.3.4", "clusterIPs": ["1.2.3.4"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}});
        for (changes, ip, ips) in [
            (
                json!({"clusterIP": "1.2.3.5", "clusterIPs": null}),
                json!("1.2.3.5"),
                json!(["1.2.3.5"]),
            ),
            (json!({"clusterIPs": null}), json!("1.2.3.4"), json!(["1.2.3.4"])),
            // What was changed of one spelling is not what the old type had.
            (
                json!({"type": "ExternalName", "clusterIPs": ["1.2.3.6"]}),
                json!("1.2.3.4"),
                json!(["1.2.3.6"]),
            ),
            (
                json!({"type": "ExternalName", "clusterIP": null}),
                Value::Null,
                Value::Null,
            ),
            (
                json!({"type": "ExternalName", "clusterIPs": null}),
                Value::Null,
                Value::Null,
            ),
        ] {
            let mut new = old.clone();
            json_patch::merge(&mut new["spec"], &changes);
            update(None, &mut new, &old);
            assert_eq!(
                (&new["spec"]["clusterIP"], &new["spec"]["clusterIPs"]),
                (&ip, &ips),
                "{changes}"
            );
        }
    }

    #[test]
    fn families_that_are_left_out_are_chosen_anew_where_no_address_says_them() {
        let old = json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"],
            "ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack"}});
        for (policy, families) in [
            (Value::Null, json!(["IPv4", "IPv6"])),
            (json!("SingleStack"), json!(["IPv4"])),
        ] {
            let mut new = old.clone();
            json_patch::merge(
                &mut new["spec"],
                &json!({"ipFamilies": null, "ipFamilyPolicy": policy}),
            );
            update(None, &mut new, &old);
            assert_eq!(new["spec"]["ipFamilies"], families, "{policy}");
        }
    }

    #[test]
    fn two_ports_of_one_name_are_both_given_what_it_had() {
        let old = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}});
        update(None, &mut new, &old);
        let given = [0, 1].map(|i| new["spec"]["ports"][i]["nodePort"].clone());
        assert_eq!(given, [json!(30000), json!(30000)]);
    }
}
