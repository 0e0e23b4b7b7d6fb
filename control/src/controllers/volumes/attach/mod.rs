//! Volumes of CSI drivers are attached to the nodes whose Pods want them (upstream's attachdetach controller): as
//! VolumeAttachments, on which the driver's external-attacher acts.
//!
//! Flow: a Pod is bound → its volumes get attachments → when the attacher says `attached`, the node's status does → the node
//! uses them (`status.volumesInUse`) → nobody wants them and the node has let go → the node's status says no more, and the
//! attachment is deleted. Guarantees: a volume of one node is never attached to two; what a node uses is only taken from one that
//! has been silent for long, or is said to be off. Refuses to know drivers.
mod decide;
pub mod seen;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::decide::{Attachment, Host, Plan, Volume, plan};
use crate::controllers::context::{BY_NODE, Context};
use crate::toolkit::lock::lock;
use crate::toolkit::{
    Change, ObjectKey, Objects, Outcome, Pod, Queue, Recorder, StepError, Steps, claims, owners, pods,
};

pub use watch::start;

/// Who signs the Events.
const COMPONENT: &str = "attachdetach-controller";
/// How long a silent node keeps what it uses: upstream's maxWaitForUnmountDuration.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(360);
/// An attachment that was made and has not come back for so long is gone again.
const SEEN_WITHIN: Duration = Duration::from_secs(60);
/// How long an attacher may take before Pods are told: upstream's timeout of CSI operations.
const ATTACH_LIMIT: Duration = Duration::from_secs(120);

/// By volume and Pod.
type Told = HashMap<(String, Option<String>), String>;

/// What has happened and is seen in no object.
#[derive(Default)]
struct Memory {
    /// Attachments that were made and have not come back from the API yet.
    made: HashMap<String, (Attachment, Instant)>,
    /// Since when attachments are held, by node and name.
    held: HashMap<(String, String), Instant>,
    /// What Pods were told last: by node, then by volume and Pod.
    told: HashMap<String, Told>,
}

impl Memory {
    /// What was made and is there is known from now on. One that is gone may be another, which it was made after.
    fn see(&mut self, change: &Change<VolumeAttachment>) {
        if !matches!(change, Change::Deleted(_)) {
            self.made.remove(&change.object().name_any());
        }
    }
}

#[derive(Clone)]
struct Attacher {
    context: Context,
    events: Recorder,
    nodes: Arc<Queue<String>>,
    memory: Arc<Mutex<Memory>>,
}

/// A volume with the Pods that want it.
type Wanted = BTreeMap<String, (Volume, Vec<Arc<Pod>>)>;

impl Attacher {
    async fn reconcile(&self, name: String) -> Result<Outcome, StepError> {
        let node = self.context.watches.nodes.get(&ObjectKey::cluster(&name));
        let host = node.as_deref().map(Host::of);
        let wanted = self.wanted(&name);
        let volumes = wanted
            .iter()
            .map(|(unique, (volume, _))| (unique.clone(), volume.clone()));
        let overdue = |attachment: &str| self.held_for(&name, attachment) >= UNMOUNT_LIMIT;
        let mut plan = plan(
            &name,
            host.as_ref(),
            &volumes.collect(),
            &self.attachments(&name, &wanted),
            overdue,
        );
        self.remember_held(&name, &plan);
        let detach = std::mem::take(&mut plan.detach);
        let fresh = match &host {
            Some(host) if host.attached != plan.attached || !detach.is_empty() => {
                self.tell_node(&name, &plan).await?
            }
            _ => None,
        };
        // One that is refused is in nobody else's way.
        let mut failed = None;
        for attachment in detach {
            let used = fresh.as_ref().is_some_and(|fresh| fresh.uses(&attachment));
            let forced = host.as_ref().is_some_and(|host| host.uses(&attachment));
            match used && !forced {
                // It was wanted again a moment ago.
                true => self.nodes.add(name.clone()),
                false => failed = failed.or(self.detach(&attachment).await.err()),
            }
        }
        for volume in &plan.attach {
            let attached = self.attach(&name, volume).await;
            failed = failed.or(attached.err());
        }
        self.tell_pods(&name, host.as_ref(), &plan, &wanted);
        match failed {
            Some(error) => Err(error),
            None => Ok(self.again(&name, &plan, &wanted)),
        }
    }

    /// What the node's Pods want attached.
    fn wanted(&self, node: &str) -> Wanted {
        let mut wanted = Wanted::new();
        let here = self.context.watches.pods.indexed(BY_NODE, node);
        for pod in here.into_iter().filter(|pod| !pods::is_terminal(pod)) {
            let namespace = pod.namespace().unwrap_or_default();
            for used in claims::of_pod(&pod) {
                let key = ObjectKey::new(namespace.as_str(), used.name);
                let claim = self.context.watches.claims.get(&key);
                let claim =
                    claim.filter(|claim| !used.own || owners::controller_uid(claim.as_ref()) == pod.uid());
                let volume = claim.and_then(|claim| self.volume_of(&claim));
                if let Some(volume) = volume.filter(|volume| self.attaches(&volume.driver)) {
                    let entry = wanted.entry(volume.unique()).or_insert((volume, Vec::new()));
                    entry.1.push(pod.clone());
                }
            }
        }
        wanted
    }

    /// The driver's volume that a claim is bound to, if both say so.
    fn volume_of(&self, claim: &PersistentVolumeClaim) -> Option<Volume> {
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        let name = Some(claims::volume_name(claim)).filter(|_| phase == Some("Bound"))?;
        let volume = self.context.watches.volumes.get(&ObjectKey::cluster(name))?;
        let holder = volume.spec.as_ref()?.claim_ref.as_ref()?;
        Volume::of(&volume).filter(|_| holder.uid == claim.uid())
    }

    /// Without an object a driver attaches.
    fn attaches(&self, driver: &str) -> bool {
        let driver = self.context.watches.drivers.get(&ObjectKey::cluster(driver));
        driver.is_none_or(|driver| driver.spec.attach_required != Some(false))
    }

    /// The attachments that concern a node, and those just made.
    fn attachments(&self, node: &str, wanted: &Wanted) -> Vec<Attachment> {
        let seen = seen::attachments(&self.context.watches, node, wanted.keys());
        let made = &mut lock(&self.memory).made;
        made.retain(|_, (_, since)| since.elapsed() < SEEN_WITHIN);
        let unseen = made.iter().filter(|(name, _)| !seen.contains_key(*name));
        let unseen: Vec<Attachment> = unseen.map(|(_, (attachment, _))| attachment.clone()).collect();
        seen.into_values().chain(unseen).collect()
    }

    fn held_for(&self, node: &str, attachment: &str) -> Duration {
        let memory = lock(&self.memory);
        let since = memory.held.get(&(node.to_owned(), attachment.to_owned()));
        since.map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Those that are wanted again, or gone, are forgotten.
    fn remember_held(&self, node: &str, plan: &Plan) {
        let held = &mut lock(&self.memory).held;
        held.retain(|(of, name), _| {
            of != node || plan.held.contains(name) || plan.detach.iter().any(|leaving| leaving.name == *name)
        });
        for name in &plan.held {
            let key = (node.to_owned(), name.clone());
            held.entry(key).or_insert_with(Instant::now);
        }
    }

    /// Writes what the node may believe, whatever the cache has of it; answers what it uses after that.
    async fn tell_node(&self, name: &str, plan: &Plan) -> Result<Option<Host>, StepError> {
        let attached = plan.attached.iter();
        let attached: Vec<Value> = attached
            .map(|name| json!({"name": name, "devicePath": ""}))
            .collect();
        let attached = (!attached.is_empty()).then_some(attached);
        let api: Objects<Node> = Objects::all(&self.context.client);
        let change = json!({"status": {"volumesAttached": attached}});
        let written = api.merge_status(name, change).await;
        let written = written.step_opt(|| format!("write what is attached to node {name}"))?;
        Ok(written.as_ref().map(Host::of))
    }

    async fn attach(&self, node: &str, volume: &Volume) -> Result<(), StepError> {
        let name = volume.attachment(node);
        let object = json!({"metadata": {"name": name}, "spec": {
            "attacher": volume.driver, "nodeName": node, "source": {"persistentVolumeName": volume.name}}});
        let made = Attachment {
            name: name.clone(),
            node: node.to_owned(),
            driver: volume.driver.clone(),
            unique: Some(volume.unique()),
            attached: false,
            leaving: false,
        };
        // Before it is made: the watch may be faster than the answer.
        lock(&self.memory)
            .made
            .insert(name.clone(), (made, Instant::now()));
        let api: Objects<VolumeAttachment> = Objects::all(&self.context.client);
        let created = api.create(&object).await;
        if created.is_err() {
            lock(&self.memory).made.remove(&name);
        }
        self.nodes.add_after(node.to_owned(), SEEN_WITHIN);
        let created = created.map(drop);
        created.step(|| format!("attach volume {} to node {node}", volume.name))
    }

    async fn detach(&self, attachment: &Attachment) -> Result<(), StepError> {
        let name = &attachment.name;
        let seen = self.context.watches.attachments.get(&ObjectKey::cluster(name));
        let Some(seen) = seen else { return Ok(()) };
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: seen.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let api: Objects<VolumeAttachment> = Objects::all(&self.context.client);
        let deleted = api.delete(name, &params).await;
        deleted
            .step_opt(|| format!("detach {name} from node {}", attachment.node))
            .map(drop)
    }

    /// Tells Pods what became of their volumes, each thing once.
    fn tell_pods(&self, node: &str, host: Option<&Host>, plan: &Plan, wanted: &Wanted) {
        let mut news = HashMap::new();
        for (unique, (volume, pods)) in wanted {
            if plan.attached.contains(unique) {
                if host.is_some_and(|host| !host.attached.contains(unique)) {
                    let text = format!("AttachVolume.Attach succeeded for volume {:?} ", volume.name);
                    for pod in pods {
                        self.events.normal(pod.as_ref(), "SuccessfulAttachVolume", &text);
                    }
                }
                continue;
            }
            let others = plan.blocked.iter().find(|(blocked, _)| blocked == volume);
            let others = others.map(|(_, nodes)| self.users(volume, nodes));
            let failure = self.failure(node, volume);
            for pod in pods {
                let text = others.as_ref().map(|users| blocked(volume, pod, users));
                if let Some(text) = text.or_else(|| failure.clone()) {
                    news.insert((unique.clone(), pod.uid()), (pod, text));
                }
            }
        }
        let told = lock(&self.memory).told.remove(node).unwrap_or_default();
        if !news.is_empty() {
            let texts = news.iter().map(|(key, (_, text))| (key.clone(), text.clone()));
            let texts = texts.collect();
            lock(&self.memory).told.insert(node.to_owned(), texts);
        }
        for (key, (pod, text)) in news
            .into_iter()
            .filter(|(key, (_, text))| told.get(key) != Some(text))
        {
            tracing::debug!(volume = key.0, text, "a volume is not attached");
            self.events.warning(pod.as_ref(), "FailedAttachVolume", text);
        }
    }

    /// The Pods on other nodes that want the volume.
    fn users(&self, volume: &Volume, nodes: &[String]) -> Vec<Arc<Pod>> {
        let unique = volume.unique();
        let users = nodes
            .iter()
            .filter_map(|node| Some(self.wanted(node).remove(&unique)?.1));
        users.flatten().collect()
    }

    /// Why a volume is still not attached, if that can be said.
    fn failure(&self, node: &str, volume: &Volume) -> Option<String> {
        let name = volume.attachment(node);
        let attachment = self.context.watches.attachments.get(&ObjectKey::cluster(name))?;
        let status = attachment.status.as_ref();
        let said = status.and_then(|status| status.attach_error.as_ref()?.message.clone());
        let why = said.or_else(|| {
            (waited(&attachment) >= ATTACH_LIMIT).then(|| {
                let Volume { driver, handle, .. } = volume;
                format!(
                    "timed out waiting for external-attacher of {driver} CSI driver to attach volume {handle}"
                )
            })
        })?;
        Some(format!(
            "AttachVolume.Attach failed for volume {:?} : {why}",
            volume.name
        ))
    }

    /// When to look again where no object will change.
    fn again(&self, node: &str, plan: &Plan, wanted: &Wanted) -> Outcome {
        if !plan.blocked.is_empty() {
            return Outcome::Poll;
        }
        let held = plan
            .held
            .iter()
            .map(|name| UNMOUNT_LIMIT.saturating_sub(self.held_for(node, name)));
        let waiting = wanted.values().filter_map(|(volume, _)| {
            let name = ObjectKey::cluster(volume.attachment(node));
            let attachment = self.context.watches.attachments.get(&name)?;
            let left = ATTACH_LIMIT.saturating_sub(waited(&attachment));
            Some(left).filter(|_| !plan.attached.contains(&volume.unique()))
        });
        let next = held.chain(waiting).filter(|left| !left.is_zero()).min();
        next.map_or(Outcome::Done, |left| {
            Outcome::After(left + Duration::from_secs(1))
        })
    }
}

/// How long the attacher has had.
fn waited(attachment: &VolumeAttachment) -> Duration {
    let made = attachment.metadata.creation_timestamp.as_ref();
    let waited = made.and_then(|made| Duration::try_from(Timestamp::now().duration_since(made.0)).ok());
    waited.unwrap_or_default()
}

/// Upstream's `reportMultiAttachError`: a Pod is told names of its own namespace only.
fn blocked(volume: &Volume, pod: &Pod, users: &[Arc<Pod>]) -> String {
    let near = |user: &&Arc<Pod>| user.metadata.namespace == pod.metadata.namespace;
    let names: Vec<String> = users.iter().filter(near).map(|user| user.name_any()).collect();
    let far = users.len() - names.len();
    let why = match (names.is_empty(), far) {
        (true, 0) => {
            "Volume is already exclusively attached to one node and can't be attached to another".to_owned()
        }
        (true, far) => format!("Volume is already used by {far} pod(s) in different namespaces"),
        (false, 0) => format!("Volume is already used by pod(s) {}", names.join(", ")),
        (false, far) => {
            let names = names.join(", ");
            format!("Volume is already used by pod(s) {names} and {far} pod(s) in different namespaces")
        }
    };
    format!("Multi-Attach error for volume {:?} {why}", volume.name)
}
