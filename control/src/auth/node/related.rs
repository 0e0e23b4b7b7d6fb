//! Which objects the Pods of a node refer to (upstream's graph of the Node authorizer).
//!
//! Looked up when asked. What a Pod or a volume refers to is read of it once: a node that starts thousands of Pods asks for
//! several objects of each.
use crate::auth::reader::Reader;
use serde_json::Value;

/// What an object would have to be to a Pod of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Pod,
    Secret,
    ConfigMap,
    Claim,
    /// A PersistentVolume, through the claim that it is bound to.
    Volume,
    ResourceClaim,
    ServiceAccount,
    /// A VolumeAttachment to the node.
    Attachment,
    /// A ResourceSlice of the node.
    Slice,
}

/// Marks a Pod that a node itself made from a file: it grants its node nothing.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Sources of volumes that name a secret as `secretRef`.
const BY_REFERENCE: [&str; 7] = [
    "cephfs",
    "cinder",
    "flexVolume",
    "iscsi",
    "rbd",
    "scaleIO",
    "storageos",
];

/// What of a volume's driver the node hands secrets to; those of the controller are none of its business.
const OF_THE_NODE: [&str; 3] = [
    "nodePublishSecretRef",
    "nodeStageSecretRef",
    "nodeExpandSecretRef",
];

/// Whether a Pod on the node refers to this object (or is it).
pub fn exists(reader: &dyn Reader, node: &str, relation: Relation, namespace: &str, name: &str) -> bool {
    let of_pods = || {
        let pods = reader.references_on(node, namespace);
        pods.iter().any(|pod| pod.has(relation, name))
    };
    match relation {
        Relation::Pod => {
            let found = reader.get(("", "pods"), Some(namespace), name);
            found.is_some_and(|pod| pod["spec"]["nodeName"] == node)
        }
        Relation::Attachment => {
            let found = reader.get(("storage.k8s.io", "volumeattachments"), None, name);
            found.is_some_and(|attachment| attachment["spec"]["nodeName"] == node)
        }
        Relation::Slice => {
            let found = reader.get(("resource.k8s.io", "resourceslices"), None, name);
            found.is_some_and(|slice| slice["spec"]["nodeName"] == node)
        }
        Relation::Volume => {
            let found = reader.get(("", "persistentvolumes"), None, name);
            found.is_some_and(|volume| VolumeSecrets::of(&volume).is_used(reader, node))
        }
        Relation::Secret => of_pods() || of_volumes(reader, node, namespace, name),
        _ => of_pods(),
    }
}

fn of_volumes(reader: &dyn Reader, node: &str, namespace: &str, name: &str) -> bool {
    let volumes = reader.volume_secrets();
    let has = |volume: &VolumeSecrets| {
        volume
            .secrets
            .iter()
            .any(|(n, s)| (&**n, &**s) == (namespace, name))
    };
    volumes
        .iter()
        .any(|volume| has(volume) && volume.is_used(reader, node))
}

/// A PersistentVolume: the claim that it is bound to, and the secrets that its node needs. Namespaces and names.
#[derive(Debug)]
pub struct VolumeSecrets {
    claim: Option<(Box<str>, Box<str>)>,
    secrets: Box<[(Box<str>, Box<str>)]>,
}

impl VolumeSecrets {
    pub fn of(volume: &Value) -> Self {
        let spec = &volume["spec"];
        let claim = &spec["claimRef"];
        let claimed = text(&claim["namespace"]);
        let azure = &spec["azureFile"];
        let by_name = (
            text(&azure["secretNamespace"]).or(claimed),
            text(&azure["secretName"]),
        );
        let of_kinds = BY_REFERENCE.iter().map(|kind| {
            let (namespace, name) = referred(&spec[*kind]["secretRef"]);
            (namespace.or(claimed), name)
        });
        let of_driver = OF_THE_NODE.iter().map(|which| referred(&spec["csi"][*which]));
        let all = std::iter::once(by_name).chain(of_kinds).chain(of_driver);
        VolumeSecrets {
            claim: claimed.zip(text(&claim["name"])).map(owned),
            secrets: all
                .filter_map(|(namespace, name)| namespace.zip(name).map(owned))
                .collect(),
        }
    }

    /// Whether a Pod on the node uses the claim.
    fn is_used(&self, reader: &dyn Reader, node: &str) -> bool {
        let claim = self.claim.as_ref();
        claim.is_some_and(|(namespace, name)| exists(reader, node, Relation::Claim, namespace, name))
    }
}

fn referred(reference: &Value) -> (Option<&str>, Option<&str>) {
    (text(&reference["namespace"]), text(&reference["name"]))
}

fn owned((namespace, name): (&str, &str)) -> (Box<str>, Box<str>) {
    (namespace.into(), name.into())
}

/// What one Pod refers to in its namespace.
#[derive(Debug, Default)]
pub struct References(Box<[(Relation, Box<str>)]>);

impl References {
    pub fn of(pod: &Value) -> Self {
        if pod["metadata"]["annotations"].get(MIRROR).is_some() {
            return Self::default();
        }
        let spec = &pod["spec"];
        let mut found = Found::default();
        found.add(Relation::ServiceAccount, &spec["serviceAccountName"]);
        items(&spec["imagePullSecrets"]).for_each(|secret| found.add(Relation::Secret, &secret["name"]));
        items(&spec["volumes"]).for_each(|volume| found.volume(pod, volume));
        ["containers", "initContainers", "ephemeralContainers"]
            .iter()
            .flat_map(|list| items(&spec[*list]))
            .for_each(|container| found.environment(container));
        items(&spec["resourceClaims"])
            .chain(items(&pod["status"]["resourceClaimStatuses"]))
            .for_each(|claim| found.add(Relation::ResourceClaim, &claim["resourceClaimName"]));
        References(found.0.into())
    }

    fn has(&self, relation: Relation, name: &str) -> bool {
        self.0.iter().any(|(r, n)| *r == relation && **n == *name)
    }
}

#[derive(Default)]
struct Found(Vec<(Relation, Box<str>)>);

impl Found {
    fn add(&mut self, relation: Relation, name: &Value) {
        self.0.extend(text(name).map(|name| (relation, name.into())));
    }

    fn volume(&mut self, pod: &Value, volume: &Value) {
        self.add(Relation::Secret, &volume["secret"]["secretName"]);
        self.add(Relation::Secret, &volume["azureFile"]["secretName"]);
        self.add(Relation::Secret, &volume["csi"]["nodePublishSecretRef"]["name"]);
        for kind in BY_REFERENCE {
            self.add(Relation::Secret, &volume[kind]["secretRef"]["name"]);
        }
        self.add(Relation::ConfigMap, &volume["configMap"]["name"]);
        for source in items(&volume["projected"]["sources"]) {
            self.add(Relation::Secret, &source["secret"]["name"]);
            self.add(Relation::ConfigMap, &source["configMap"]["name"]);
        }
        self.add(Relation::Claim, &volume["persistentVolumeClaim"]["claimName"]);
        if volume["ephemeral"]["volumeClaimTemplate"].is_object() {
            self.ephemeral(&pod["metadata"]["name"], &volume["name"]);
        }
    }

    /// The claim that an ephemeral volume has of its own: `POD-VOLUME`.
    fn ephemeral(&mut self, pod: &Value, volume: &Value) {
        if let (Some(pod), Some(volume)) = (text(pod), text(volume)) {
            self.0.push((Relation::Claim, format!("{pod}-{volume}").into()));
        }
    }

    fn environment(&mut self, container: &Value) {
        for from in items(&container["envFrom"]) {
            self.add(Relation::Secret, &from["secretRef"]["name"]);
            self.add(Relation::ConfigMap, &from["configMapRef"]["name"]);
        }
        for variable in items(&container["env"]) {
            let from = &variable["valueFrom"];
            self.add(Relation::Secret, &from["secretKeyRef"]["name"]);
            self.add(Relation::ConfigMap, &from["configMapKeyRef"]["name"]);
        }
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// A name; an empty one is none.
fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}
