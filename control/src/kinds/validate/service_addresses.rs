//! The cluster IPs of a Service and their families: what they may be, and what may become of them. KEP-563.
use std::net::IpAddr;

use serde_json::Value;

use super::service::is_headless;
use super::{Seen, ip, maybe_one_of};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;

const IPS: &str = "spec.clusterIPs";
const FAMILIES: &str = "spec.ipFamilies";
const POLICY: &str = "spec.ipFamilyPolicy";
const SUPPORTED: [&str; 2] = ["IPv4", "IPv6"];
const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const FIXED: &str = "may not change once set";

fn has_no_address(service: &Value) -> bool {
    service.text("spec.type") == "ExternalName"
}

/// What is wrong with them whatever the cluster has.
pub fn validate(service: &Value) -> FieldErrors {
    if has_no_address(service) {
        return Vec::new();
    }
    let mut errors: FieldErrors = both_spellings(service).into_iter().collect();
    errors.extend(families(service));
    let (found, wrong) = addresses(service);
    errors.extend(found);
    if !wrong {
        errors.extend(stacks(service));
    }
    errors
}

/// `clusterIP` is the first of `clusterIPs`.
fn both_spellings(service: &Value) -> Option<FieldError> {
    let (single, all) = (service.text("spec.clusterIP"), service.list(IPS));
    let told = |detail: &str| Some(FieldError::invalid(IPS, all.to_vec(), detail));
    match (single, all.first()) {
        ("", Some(_)) => told("must be empty when `clusterIP` is not specified"),
        ("", None) => None,
        (_, None) => Some(FieldError::required(IPS, "")),
        (single, Some(first)) if first != single => told("first value must match `clusterIP`"),
        _ => None,
    }
}

fn families(service: &Value) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, family) in service
        .list(FAMILIES)
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
    {
        let at = format!("{FAMILIES}[{i}]");
        if !SUPPORTED.contains(&family) {
            errors.push(FieldError::not_supported(at.as_str(), family, &SUPPORTED));
        }
        if seen.again(family) {
            errors.push(FieldError::duplicate(at, family));
        }
    }
    errors.extend(maybe_one_of(
        service.at("spec"),
        "ipFamilyPolicy",
        "spec",
        &POLICIES,
    ));
    errors
}

/// What is wrong with single addresses, and whether anything is.
fn addresses(service: &Value) -> (FieldErrors, bool) {
    let all = service.list(IPS);
    let (mut errors, mut wrong) = (Vec::new(), false);
    for (i, address) in all.iter().filter_map(Value::as_str).enumerate() {
        if i == 0 && address == "None" {
            if all.len() > 1 {
                wrong = true;
                let detail = "'None' must be the first and only value";
                errors.push(FieldError::invalid(IPS, all.to_vec(), detail));
            }
            continue;
        }
        // One that is to be found yet is not wrong.
        let found = match address {
            "" if i == 0 => Vec::new(),
            address => ip(format_args!("{IPS}[{i}]"), address),
        };
        wrong |= !found.is_empty();
        errors.extend(found);
    }
    if all.len() > 2 {
        let detail = "may only hold up to 2 values";
        errors.push(FieldError::invalid(IPS, all.to_vec(), detail));
    }
    (errors, wrong)
}

fn stacks(service: &Value) -> FieldErrors {
    let all = service.list(IPS);
    let parsed = all.iter().filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
    let parsed: Vec<IpAddr> = parsed.collect();
    let mut errors = Vec::new();
    let both = [true, false]
        .iter()
        .all(|v4| parsed.iter().any(|ip| ip.is_ipv4() == *v4));
    if parsed.len() > 1 && !both {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(IPS, all.to_vec(), detail));
    }
    let pairs = parsed.iter().zip(service.list(FAMILIES)).enumerate();
    for (i, (address, family)) in pairs {
        let own = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        if family
            .as_str()
            .is_some_and(|family| SUPPORTED.contains(&family) && family != own)
        {
            let detail = format!(
                "expected an {} value as indicated by `ipFamilies[{i}]`",
                family.as_str().unwrap_or_default()
            );
            errors.push(FieldError::invalid(
                format!("{IPS}[{i}]"),
                address.to_string(),
                detail,
            ));
        }
    }
    errors
}

/// What an update may not do to addresses and families.
pub(super) fn kept(new: &Value, old: &Value) -> FieldErrors {
    if has_no_address(new) || has_no_address(old) {
        return Vec::new();
    }
    let headless = (is_headless(new), is_headless(old));
    let mut errors = Vec::new();
    if headless != (true, true) {
        errors.extend(kept_list(
            new,
            old,
            IPS,
            ("primary clusterIP", "secondary clusterIP"),
        ));
    }
    if headless == (false, false) {
        errors.extend(kept_list(
            new,
            old,
            FAMILIES,
            ("primary ipFamily", "secondary ipFamily"),
        ));
    }
    errors
}

/// The first stays; a second one may come, and go when the policy says so.
fn kept_list(new: &Value, old: &Value, path: &str, (primary, secondary): (&str, &str)) -> FieldErrors {
    let (now, before) = (new.list(path), old.list(path));
    let told = |i: usize, detail: String| FieldError::invalid(format!("{path}[{i}]"), now.to_vec(), detail);
    if now.len() == before.len() {
        let moved = (0..now.len()).filter(|i| now[*i] != before[*i]);
        // Of families, upstream tells the first whichever it is.
        let shown = |i: usize| if path == IPS { i } else { 0 };
        return moved.map(|i| told(shown(i), FIXED.to_owned())).collect();
    }
    let mut errors = Vec::new();
    if now.is_empty() && !before.is_empty() {
        errors.push(told(0, format!("{primary} can not be unset")));
    } else if !before.is_empty() && now[0] != before[0] {
        errors.push(told(0, FIXED.to_owned()));
    }
    let released = now.len() == 1 && before.len() > 1;
    if released && new.text(POLICY) != "SingleStack" {
        let detail = format!("must be set to 'SingleStack' when releasing the {secondary}");
        errors.push(FieldError::invalid(POLICY, new.at(POLICY).clone(), detail));
    }
    errors
}
