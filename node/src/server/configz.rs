//! What `/configz` shows: the settings of this node that upstream's KubeletConfiguration (kubelet.config.k8s.io/v1beta1) has a name
//! for, with the values that hold here. What does not exist here is left out. Owns the names; refuses to know what settings do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use amphipod_shim_api::stdio::{LOG_BYTES, LOG_FILES};
use amphipod_shim_api::systemd;
use serde_json::{Value, json};

use super::authorize::{ALLOWED_FOR, KNOWN_FOR, REFUSED_FOR};
use crate::dns::DOMAIN;
use crate::garbage::{HIGH_PERCENT, IDLE, LOW_PERCENT};
use crate::options::NodeOptions;
use crate::pressure::thresholds::{Amount, Limits, Threshold};
use crate::registration::lease::DURATION_SECONDS;
use crate::registration::{REPORT_EVERY, STATUS_EVERY};
use go_values::duration;

/// The configuration of a node whose disk has so many bytes.
pub fn configuration(options: &NodeOptions, disk_bytes: u64) -> Value {
    let mut made = json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "enableServer": true,
        "serverTLSBootstrap": options.tls.is_asked_for,
        "staticPodPath": options.static_pod_path,
        "podLogsDir": options.layout.logs(),
        "authentication": {"x509": {}, "webhook": {"enabled": true, "cacheTTL": text(KNOWN_FOR)},
            "anonymous": {"enabled": false}},
        "authorization": {"mode": "Webhook",
            "webhook": {"cacheAuthorizedTTL": text(ALLOWED_FOR), "cacheUnauthorizedTTL": text(REFUSED_FOR)}},
        "clusterDomain": DOMAIN,
        "cgroupDriver": if systemd::is_running() { "systemd" } else { "cgroupfs" },
        "maxPods": options.max_pods,
        "podPidsLimit": options.pids_limit.of_pod().unwrap_or(-1),
        "allowedUnsafeSysctls": options.allowed_unsafe_sysctls,
        "nodeStatusUpdateFrequency": text(STATUS_EVERY),
        "nodeStatusReportFrequency": text(REPORT_EVERY),
        "nodeLeaseDurationSeconds": DURATION_SECONDS,
        "imageMinimumGCAge": text(IDLE),
        "imageGCHighThresholdPercent": HIGH_PERCENT,
        "imageGCLowThresholdPercent": LOW_PERCENT,
        "containerLogMaxSize": amount(Amount::Bytes(LOG_BYTES), disk_bytes),
        "containerLogMaxFiles": LOG_FILES,
        "registerNode": true,
    });
    if let Some(all) = made.as_object_mut() {
        all.extend(pressure(&options.pressure, disk_bytes));
    }
    made
}

/// The answer: where the server really listens is known when it does.
pub fn shown(mut configuration: Value, listens: SocketAddr) -> Value {
    configuration["address"] = json!(listens.ip());
    configuration["port"] = json!(listens.port());
    json!({"kubeletconfig": configuration})
}

fn pressure(limits: &Limits, disk_bytes: u64) -> serde_json::Map<String, Value> {
    let amounts = |all: &[Threshold]| -> BTreeMap<&str, String> {
        let one = |one: &Threshold| (one.signal.name(), amount(one.least, disk_bytes));
        all.iter().map(one).collect()
    };
    let grace = |one: &Threshold| Some((one.signal.name(), text(one.grace?)));
    let grace: BTreeMap<_, _> = limits.soft.iter().filter_map(grace).collect();
    let reclaim: BTreeMap<_, _> = limits
        .reclaim
        .iter()
        .map(|(signal, least)| (signal.name(), amount(*least, disk_bytes)))
        .collect();
    let mut made = serde_json::Map::new();
    made.insert("evictionHard".into(), json!(amounts(&limits.hard)));
    made.insert(
        "evictionPressureTransitionPeriod".into(),
        json!(text(limits.transition)),
    );
    if !limits.soft.is_empty() {
        made.insert("evictionSoft".into(), json!(amounts(&limits.soft)));
        made.insert("evictionSoftGracePeriod".into(), json!(grace));
        made.insert("evictionMaxPodGracePeriod".into(), json!(limits.most_grace));
    }
    if !reclaim.is_empty() {
        made.insert("evictionMinimumReclaim".into(), json!(reclaim));
    }
    made
}

/// As settings are written: `100Mi`, `10%`. Of a share with a bound, whichever holds on this disk.
fn amount(amount: Amount, disk_bytes: u64) -> String {
    let units = [(30, "Gi"), (20, "Mi"), (10, "Ki")];
    match amount {
        Amount::Share(share) => format!("{}%", (share * 1e4).round() / 1e2),
        Amount::ShareUpTo(share, most) => match Amount::Share(share).of(disk_bytes) <= most {
            true => self::amount(Amount::Share(share), disk_bytes),
            false => self::amount(Amount::Bytes(most), disk_bytes),
        },
        Amount::Bytes(bytes) => {
            let whole = units
                .iter()
                .find(|(bits, _)| bytes > 0 && bytes.trailing_zeros() >= *bits);
            whole.map_or_else(
                || bytes.to_string(),
                |(bits, unit)| format!("{}{unit}", bytes >> bits),
            )
        }
    }
}

fn text(value: Duration) -> String {
    duration::print(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pressure::thresholds::parse_hard;

    #[test]
    fn amounts_are_written_as_settings() {
        let disk = 100 << 30;
        for (given, expected) in [
            (Amount::Bytes(100 << 20), "100Mi"),
            (Amount::Bytes(3 << 30), "3Gi"),
            (Amount::Bytes(1000), "1000"),
            (Amount::Bytes(0), "0"),
            (Amount::Share(0.05), "5%"),
            (Amount::Share(0.125), "12.5%"),
            (Amount::ShareUpTo(0.1, 1 << 30), "1Gi"),
            (Amount::ShareUpTo(0.1, 20 << 30), "10%"),
        ] {
            assert_eq!(amount(given, disk), expected, "{given:?}");
        }
    }

    #[test]
    fn what_is_not_set_is_not_shown() {
        let limits = Limits {
            hard: parse_hard("memory.available<1Gi,nodefs.available<10%").unwrap(),
            ..Limits::default()
        };
        let shown = json!(pressure(&limits, 1 << 30));
        assert_eq!(
            shown,
            json!({"evictionHard": {"memory.available": "1Gi", "nodefs.available": "10%"},
                "evictionPressureTransitionPeriod": "5m0s"})
        );
    }
}
