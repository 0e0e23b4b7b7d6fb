//! Which families of addresses a Service has, where the cluster has addresses of one. Pure.
//!
//! In upstream's order (`initIPFamilyFields`): what is wrong in itself, what is given up, what follows from addresses that
//! are given, and at last what the cluster has.
use super::Denial;
use crate::kinds::{FieldError, service_addresses};
use serde_json::Value;
use std::net::IpAddr;

const IPS: &str = "clusterIPs";
const FAMILIES: &str = "ipFamilies";
const POLICY: &str = "ipFamilyPolicy";
const POLICY_FIELD: &str = "spec.ipFamilyPolicy";

/// A Service that prefers both families is left as it was, and one without addresses or Pods of its own may have any.
/// `v4`: that is the cluster's family.
pub(super) fn settle(service: &mut Value, old: Option<&Value>, v4: bool) -> Result<(), Denial> {
    let old = old.map(|old| &old["spec"]);
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" || old.is_some_and(|old| settled(spec, old)) {
        return Ok(());
    }
    refuse(service_addresses(service))?;
    let mut errors = old.map_or_else(Vec::new, |old| released(spec, old));
    errors.extend(too_many(spec));
    errors.extend(infer(&mut service["spec"], v4));
    refuse(errors)?;
    let spec = &service["spec"];
    let selects = spec["selector"]
        .as_object()
        .is_some_and(|labels| !labels.is_empty());
    match spec["clusterIP"] == "None" && !selects {
        true => Ok(()),
        false => refuse(unconfigured(spec, v4)),
    }
}

fn refuse(errors: Vec<FieldError>) -> Result<(), Denial> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Denial::Invalid(errors)),
    }
}

fn list<'v>(spec: &'v Value, key: &str) -> &'v [Value] {
    spec[key].as_array().map_or(&[], Vec::as_slice)
}

/// Whether a Service that prefers both families stays as it was.
fn settled(spec: &Value, old: &Value) -> bool {
    let same = |key: &str| spec[key] == old[key];
    spec[POLICY] == "PreferDualStack" && [IPS, FAMILIES, POLICY].into_iter().all(same)
}

/// Who gives up a second address or family has to say so by the policy.
fn released(spec: &Value, old: &Value) -> Vec<FieldError> {
    let told = |(key, what): (&str, &str)| {
        let given_up = list(spec, key).len() == 1 && list(old, key).len() > 1;
        let why = format!("must be 'SingleStack' to release the secondary {what}");
        (given_up && spec[POLICY] != "SingleStack")
            .then(|| FieldError::invalid(POLICY_FIELD, spec[POLICY].clone(), why))
    };
    let pairs = [(IPS, "cluster IP"), (FAMILIES, "IP family")];
    pairs.into_iter().filter_map(told).collect()
}

fn too_many(spec: &Value) -> Vec<FieldError> {
    let told = |(key, what): (&str, &str)| {
        let many = spec[POLICY] == "SingleStack" && list(spec, key).len() == 2;
        let why =
            format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
        many.then(|| FieldError::invalid(POLICY_FIELD, "SingleStack", why))
    };
    let pairs = [(IPS, "cluster IPs"), (FAMILIES, "IP families")];
    pairs.into_iter().filter_map(told).collect()
}

/// Families that are not named are those of the addresses that are.
fn infer(spec: &mut Value, v4: bool) -> Vec<FieldError> {
    let ips = spec[IPS].clone();
    let mut families = list(spec, FAMILIES).to_vec();
    let mut errors = Vec::new();
    let parsed = list(spec, IPS)
        .iter()
        .map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
    let unnamed = parsed.enumerate().skip(families.len());
    for (index, ip) in unnamed.map_while(|(index, ip)| Some((index, ip?))) {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        if ip.is_ipv4() == v4 {
            families.push(family.into());
        } else {
            let at = format!("spec.{IPS}[{index}]");
            let why = format!("{family} is not configured on this cluster");
            errors.push(FieldError::invalid(at, ips.clone(), why));
        }
    }
    if !families.is_empty() {
        spec[FAMILIES] = families.into();
    }
    errors
}

/// What the cluster has not.
fn unconfigured(spec: &Value, v4: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if spec[POLICY] == "RequireDualStack" {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid(POLICY_FIELD, "RequireDualStack", why));
    }
    // Of one whose addresses are IPv6, Services still say IPv4 unless they are told otherwise.
    for (index, family) in list(spec, FAMILIES).iter().enumerate() {
        if family == "IPv6" && v4 {
            let at = format!("spec.{FAMILIES}[{index}]");
            errors.push(FieldError::invalid(at, "IPv6", "not configured on this cluster"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(spec: &Value, old: Option<&Value>) -> Vec<String> {
        let mut service = json!({"spec": spec});
        let old = old.map(|spec| json!({"spec": spec}));
        match settle(&mut service, old.as_ref(), true) {
            Ok(()) => Vec::new(),
            Err(Denial::Invalid(errors)) => errors.iter().map(ToString::to_string).collect(),
            Err(_) => panic!("{spec}"),
        }
    }

    #[test]
    fn a_second_family_is_given_up_by_the_policy() {
        let old = json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack"});
        let mut new = old.clone();
        new["ipFamilies"] = json!(["IPv6"]);
        let why = "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the \
                   secondary IP family";
        assert_eq!(told(&new, Some(&old)), [why]);
        new["ipFamilyPolicy"] = "SingleStack".into();
        assert!(told(&new, Some(&old)).is_empty());
    }

    #[test]
    fn what_is_wrong_in_itself_is_told_first() {
        for (spec, why) in [
            (
                json!({"ipFamilies": ["IPv4", "IPv4"], "ipFamilyPolicy": "SingleStack"}),
                "spec.ipFamilies[1]: Duplicate value: \"IPv4\"",
            ),
            (
                json!({"clusterIPs": ["fd00::1"]}),
                "spec.clusterIPs: Invalid value: [\"fd00::1\"]: must be empty when `clusterIP` is not specified",
            ),
            (
                json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "ipFamilyPolicy": "RequireDualStack"}),
                "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster",
            ),
        ] {
            assert_eq!(told(&spec, None), [why]);
        }
    }
}
