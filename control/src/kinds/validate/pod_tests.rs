//! Tables of what makes Pods and their templates invalid, field by field, in upstream's words.
use serde_json::{Value, json};

use super::pod::status_update;
use super::tests::{container, errors, pod};
use crate::kinds::error::join;

/// One container that is as it should be, and what else the spec says.
fn with(rest: Value) -> String {
    let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
    for (key, value) in rest.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    pod(spec)
}

fn check(told: impl Fn(Value) -> String, cases: &[(Value, &str)]) {
    for (given, want) in cases {
        assert_eq!(told(given.clone()), *want, "{given}");
    }
}

const NAME: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
    must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

#[test]
fn sources_of_volumes() {
    let volume = |source: Value| {
        let mut volume = source;
        volume["name"] = "v".into();
        with(json!({"volumes": [volume]}))
    };
    check(
        volume,
        &[
            (
                json!({"hostPath": {"path": "/a", "type": "Nope"}}),
                "spec.volumes[0].hostPath.type: Unsupported value: \"Nope\": supported values: \"\", \"BlockDevice\", \
             \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
            ),
            (
                json!({"hostPath": {}}),
                "spec.volumes[0].hostPath.path: Required value",
            ),
            (
                json!({"nfs": {"server": "s"}}),
                "[spec.volumes[0].nfs.path: Required value, spec.volumes[0].nfs.path: Invalid value: \"\": must be an \
             absolute path]",
            ),
            (
                json!({"downwardAPI": {"items": [{"path": "p"}]}}),
                "spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
            ),
            (
                json!({"downwardAPI": {"items": [{"path": "..", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
                "[spec.volumes[0].downwardAPI.path: Invalid value: \"..\": must not contain '..', \
             spec.volumes[0].downwardAPI.path: Invalid value: \"..\": must not start with '..']",
            ),
            (
                json!({"projected": {"sources": [{"serviceAccountToken": {"expirationSeconds": 1}}]}}),
                "[spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not \
             specify a duration less than 10 minutes, spec.volumes[0].projected.path: Required value]",
            ),
            (
                json!({"projected": {"sources": [
            {"secret": {"name": "a", "items": [{"key": "k", "path": "f"}]}},
            {"configMap": {"name": "b", "items": [{"key": "k", "path": "f"}]}}]}}),
                "spec.volumes[0].projected: Invalid value: \"b\": conflicting duplicate paths",
            ),
            (
                json!({"projected": {"sources": [{"secret": {"name": "a"}, "configMap": {"name": "b"}}]}}),
                "spec.volumes[0].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
            ),
            (json!({"csi": {}}), "spec.volumes[0].csi.driver: Required value"),
            (
                json!({"ephemeral": {}}),
                "spec.volumes[0].ephemeral.volumeClaimTemplate: Required value",
            ),
            (
                json!({"rbd": {"image": "i"}}),
                "spec.volumes[0].rbd.monitors: Required value",
            ),
            (
                json!({"iscsi": {"targetPortal": "p", "iqn": "no", "lun": 256}}),
                "[spec.volumes[0].iscsi.iqn: Invalid value: \"no\": must be valid format starting with iqn, eui, or naa, \
             spec.volumes[0].iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive]",
            ),
            (
                json!({"gcePersistentDisk": {"pdName": ""}}),
                "spec.volumes[0].persistentDisk.pdName: Required value",
            ),
            (
                json!({"secret": {"secretName": "s", "defaultMode": 512}}),
                "spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both \
             inclusive",
            ),
        ],
    );
}

#[test]
fn what_is_wrong_cannot_be_mounted() {
    let told = pod(json!({
        "volumes": [{"name": "v", "secret": {}}],
        "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
    }));
    assert_eq!(
        told,
        "[spec.volumes[0].secret.secretName: Required value, spec.containers[0].volumeMounts[0].name: Not found: \"v\"]"
    );
}

#[test]
fn variables_and_where_they_come_from() {
    let at = "spec.containers[0]";
    check(
        |from| container(json!({"env": [{"name": "A", "valueFrom": from}]})),
        &[
            (
                json!({"fieldRef": {"fieldPath": "metadata.labels['-']"}}),
                &format!(
                    "{at}.env[0].valueFrom.fieldRef: Invalid value: \"-\": name part must consist of alphanumeric \
             characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or \
             'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
                ),
            ),
            (
                json!({"fieldRef": {"fieldPath": "metadata.labels"}}),
                &format!(
                    "{at}.env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported \
             values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \
             \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\""
                ),
            ),
            (
                json!({"fieldRef": {"fieldPath": "spec.x['a']"}}),
                &format!(
                    "{at}.env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x['a']\": error converting \
             fieldPath: field label does not support subscript: spec.x['a']"
                ),
            ),
            (
                json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}),
                &format!(
                    "{at}.env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's \
             values 1m and 1 are supported with the cpu resource"
                ),
            ),
            (
                json!({"configMapKeyRef": {"key": "k"}}),
                &format!("{at}.env[0].valueFrom.configMapKeyRef.name: Invalid value: \"\": {NAME}"),
            ),
            (
                json!({"fileKeyRef": {"key": "K", "path": "f", "volumeName": "v"}}),
                "[]",
            ),
            (
                json!({"fileKeyRef": {"key": "K", "path": "f", "volumeName": "w"}}),
                &format!("{at}.env[0].valueFrom.fileKeyRef.volumeName: Not found: \"w\""),
            ),
        ],
    );
    check(
        |from| container(json!({"envFrom": [from]})),
        &[
            (
                json!({}),
                &format!(
                    "{at}.envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"
                ),
            ),
            (
                json!({"secretRef": {"name": "A"}}),
                &format!("{at}.envFrom[0].secretRef.name: Invalid value: \"A\": {NAME}"),
            ),
        ],
    );
}

#[test]
fn resources_of_containers_and_pods() {
    let at = "spec.containers[0].resources";
    check(
        |resources| container(json!({"resources": resources})),
        &[
            (
                json!({"limits": {"hugepages-2Mi": "1Mi", "cpu": "1"}}),
                &format!(
                    "[{at}.limits[hugepages-2Mi]: Invalid value: \"1Mi\": 1Mi is not positive integer multiple of \
             hugepages-2Mi, {at}.requests[hugepages-2Mi]: Invalid value: \"1Mi\": 1Mi is not positive integer multiple \
             of hugepages-2Mi]"
                ),
            ),
            (
                json!({"limits": {"hugepages-2Mi": "2Mi"}}),
                &format!("{at}: Forbidden: HugePages require cpu or memory"),
            ),
            (
                json!({"claims": [{"name": "x"}]}),
                &format!(
                    "{at}.claims[0]: Not found: \"x\": must be one of the names in pod.spec.resourceClaims which is \
             empty"
                ),
            ),
            (
                json!({"requests": {"example.com/gpu": "1"}}),
                &format!("{at}.limits: Required value: Limit must be set for non overcommitable resources"),
            ),
            (
                json!({"limits": {"example.com/gpu": "500m"}}),
                &format!(
                    "[{at}.limits[example.com/gpu]: Invalid value: \"500m\": must be an integer, \
             {at}.requests[example.com/gpu]: Invalid value: \"500m\": must be an integer]"
                ),
            ),
        ],
    );
    check(
        with,
        &[
            (
                json!({"resources": {"limits": {"ephemeral-storage": "1"}}}),
                "spec.resources.limits[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \
             \"cpu\", \"hugepages-\", \"memory\"",
            ),
            (
                json!({"overhead": {"gpu": "1"}}),
                "[spec.overhead.limits[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified, \
             spec.overhead.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers]",
            ),
            (
                json!({"resourceClaims": [{"name": "a"}]}),
                "spec.resourceClaims[0]: Invalid value: {\"Name\":\"a\",\"ResourceClaimName\":null,\
             \"ResourceClaimTemplateName\":null}: must specify one of: `resourceClaimName`, \
             `resourceClaimTemplateName`",
            ),
        ],
    );
}

#[test]
fn security() {
    check(
        with,
        &[
            (
                json!({"securityContext": {"runAsUser": -1}}),
                "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ),
            (
                json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}}),
                "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is \
             Localhost",
            ),
            (
                json!({"securityContext": {"seccompProfile": {"type": "Unconfined", "localhostProfile": "x"}}}),
                "spec.securityContext.seccompProfile.localhostProfile: Invalid value: {\"Type\":\"Unconfined\",\
             \"LocalhostProfile\":\"x\"}: can only be set when seccomp type is Localhost",
            ),
            (
                json!({"securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": " x"}}}),
                "spec.securityContext.appArmorProfile.localhostProfile: Invalid value: \" x\": must not be padded with \
             whitespace",
            ),
            (
                json!({"hostUsers": false, "hostNetwork": true}),
                "spec.hostNetwork: Forbidden: when `hostUsers` is false",
            ),
            (
                json!({"os": {"name": "linux"}, "securityContext": {"windowsOptions": {}}}),
                "spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
            ),
            (
                json!({"os": {"name": "beos"}}),
                "spec.os: Unsupported value: \"beos\": supported values: \"linux\", \"windows\"",
            ),
            (
                json!({"hostnameOverride": "a", "hostNetwork": true}),
                "spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true",
            ),
        ],
    );
    let at = "spec.containers[0].securityContext";
    check(
        |context| container(json!({"securityContext": context})),
        &[
            (
                json!({"procMount": "Unmasked"}),
                &format!(
                    "{at}.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`"
                ),
            ),
            (
                json!({"windowsOptions": {"runAsUserName": ""}}),
                &format!(
                    "{at}.windowsOptions.runAsUserName: Invalid value: \"\": runAsUserName cannot be an empty string"
                ),
            ),
        ],
    );
}

#[test]
fn where_pods_run() {
    check(
        with,
        &[
            (
                json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule",
            "nodeTaintsPolicy": "Nope", "labelSelector": {}}]}),
                "spec.topologySpreadConstraints[0].nodeTaintsPolicy: Unsupported value: \"Nope\": supported values: \
             \"Honor\", \"Ignore\"",
            ),
            (
                json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule",
            "matchLabelKeys": ["a"]}]}),
                "spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is \
             not set",
            ),
            (
                json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "z", "labelSelector": {}, "matchLabelKeys": ["a"], "mismatchLabelKeys": ["a"]}]}}}),
                "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys[0]: Invalid \
             value: \"a\": exists in both matchLabelKeys and mismatchLabelKeys",
            ),
            (
                json!({"tolerations": [{"key": "a", "operator": "Nope"}]}),
                "spec.tolerations[0].operator: Unsupported value: \"Nope\": supported values: \"Equal\", \"Exists\"",
            ),
            (
                json!({"tolerations": [{"key": "a", "operator": "Gt", "value": "1"}]}),
                "spec.tolerations[0].operator: Unsupported value: \"Gt\": supported values: \"Equal\", \"Exists\", \"Lt\", \
                 \"Gt\"",
            ),
            (
                json!({"preemptionPolicy": ""}),
                "spec.preemptionPolicy: Required value",
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["010.0.0.1"]}}),
                "spec.dnsConfig.nameservers[0]: Invalid value: \"010.0.0.1\": must not have leading 0s",
            ),
        ],
    );
}

#[test]
fn restarts_and_resizes() {
    let at = "spec.containers[0]";
    check(
        container,
        &[
            (
                json!({"restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}]}),
                &format!(
                    "{at}.restartPolicy: Required value: must specify restartPolicy when restart rules are used"
                ),
            ),
            (
                json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart"}]}),
                &format!("{at}.restartPolicyRules[0].exitCodes: Required value: must be specified"),
            ),
            (
                json!({"restartPolicy": "Never", "restartPolicyRules": [
                    {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}}]}),
                "[]",
            ),
            (
                json!({"restartPolicy": "Sometimes", "restartPolicyRules": [{"action": "Reboot", "exitCodes": {"operator": "Is"}}]}),
                &format!(
                    "[{at}.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \
                     \"OnFailure\", {at}.restartPolicyRules[0].action: Unsupported value: \"Reboot\": supported values: \
                     \"Restart\", \"RestartAllContainers\", {at}.restartPolicyRules[0].exitCodes.operator: Unsupported \
                     value: \"Is\": supported values: \"In\", \"NotIn\"]"
                ),
            ),
            (
                json!({"resizePolicy": [{"resourceName": "gpu", "restartPolicy": "NotRequired"}]}),
                &format!(
                    "{at}.resizePolicy: Unsupported value: \"gpu\": supported values: \"cpu\", \"memory\""
                ),
            ),
        ],
    );
}

#[test]
fn what_ended_runs_again_where_all_may_be_restarted() {
    let pod = |action: &str, state: Value| {
        let rules = json!([{"action": action, "exitCodes": {"operator": "In", "values": [42]}}]);
        json!({"spec": {"restartPolicy": "Never", "initContainers": [{"name": "i"}],
                "containers": [{"name": "c", "restartPolicy": "Never", "restartPolicyRules": rules}]},
            "status": {"initContainerStatuses": [{"name": "i", "state": state}]}})
    };
    let told = |action| {
        let ended = pod(action, json!({"terminated": {"exitCode": 0}}));
        join(&status_update(&pod(action, json!({"waiting": {}})), &ended))
    };
    assert_eq!(told("RestartAllContainers"), "[]");
    assert_eq!(
        told("Restart"),
        "status.initContainerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"
    );
}

#[test]
fn devices() {
    let told = pod(json!({
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "c", "image": "i", "volumeDevices": [{"name": "v", "devicePath": "/dev/../a"}]}],
    }));
    let at = "spec.containers[0].volumeDevices[0]";
    assert_eq!(
        told,
        format!(
            "[{at}.name: Invalid value: \"v\": can only use volume source type of PersistentVolumeClaim or Ephemeral \
             for block mode, {at}.devicePath: Invalid value: \"/dev/../a\": can not contain backsteps ('..')]"
        )
    );
}

#[test]
fn templates_are_told_at_their_own_paths() {
    let deployment = |selector: Value, labels: Value| {
        errors(
            "apps",
            "deployments",
            json!({"spec": {"selector": selector, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
        )
    };
    assert_eq!(
        deployment(json!({"matchLabels": {"a": "b"}}), json!({"a": "b"})),
        "[]"
    );
    assert!(
        deployment(json!({"matchLabels": {"a": "b"}}), json!({"a": "b", "c": "-"}))
            .starts_with("spec.template.labels: Invalid value: \"-\"")
    );
    assert_eq!(
        deployment(
            json!({"matchExpressions": [{"key": "a", "operator": "Nope"}]}),
            json!({"a": "b"})
        ),
        "[spec.selector.matchExpressions[0].operator: Invalid value: \"Nope\": not a valid selector operator, \
         spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"Nope\"}]}: invalid label \
         selector]"
    );
    assert_eq!(
        errors(
            "apps",
            "deployments",
            json!({"spec": {"strategy": {"type": "Nope"},
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
        ),
        "spec.strategy: Unsupported value: {\"Type\":\"Nope\",\"RollingUpdate\":null}: supported values: \"Recreate\", \
         \"RollingUpdate\""
    );
}

#[test]
fn autoscalers_say_which_group_they_scale() {
    let told = |target: Value| {
        errors(
            "autoscaling",
            "horizontalpodautoscalers",
            json!({"spec": {"maxReplicas": 2, "scaleTargetRef": target}}),
        )
    };
    check(
        told,
        &[
            (
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}),
                "[]",
            ),
            (
                json!({"apiVersion": "v1", "kind": "ReplicationController", "name": "d"}),
                "[]",
            ),
            (
                json!({"kind": "Deployment", "name": "d"}),
                "spec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API group",
            ),
            (
                json!({"apiVersion": "v1", "kind": "Deployment", "name": "d"}),
                "spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group",
            ),
            (
                json!({"apiVersion": "a/b/c", "kind": "Deployment", "name": "d"}),
                "spec.scaleTargetRef.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
            ),
        ],
    );
}
