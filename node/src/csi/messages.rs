//! The calls of the CSI specification (csi.v1, 1.9) and of plugin registration that a node makes, with their fields' numbers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::grpc::{self, CallError};
use super::wire::{Fields, Message};

/// How long a driver may take for a call; upstream's `csiTimeout`.
const LIMIT: Duration = Duration::from_secs(120);
/// How long it may take to say who it is.
const SHORT: Duration = Duration::from_secs(15);

/// `NodeServiceCapability.RPC.Type`.
const STAGES: u64 = 1;
const EXPANDS: u64 = 3;
const GIVES_GROUPS: u64 = 6;

/// `VolumeCapability.AccessMode.Mode` by a volume's modes: the widest counts.
pub fn access_mode(modes: &[String]) -> u64 {
    let has = |wanted: &str| modes.iter().any(|mode| mode == wanted);
    match () {
        () if has("ReadWriteMany") => 5,
        () if has("ReadOnlyMany") && !has("ReadWriteOnce") => 3,
        () => 1,
    }
}

fn path(path: &Path) -> std::borrow::Cow<'_, str> {
    path.to_string_lossy()
}

async fn ask<T>(
    socket: &Path,
    method: &str,
    message: Message,
    limit: Duration,
    read: impl FnOnce(Fields<'_>) -> Result<T, super::wire::WireError>,
) -> Result<T, CallError> {
    let bytes = grpc::call(socket, method, message, limit).await?;
    Fields::read(&bytes)
        .and_then(read)
        .map_err(|error| CallError::Answer {
            socket: socket.to_owned(),
            why: error.to_string(),
        })
}

/// What a registrar says of its plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    pub kind: String,
    pub name: String,
    pub endpoint: String,
    pub versions: Vec<String>,
}

pub async fn plugin(socket: &Path) -> Result<Plugin, CallError> {
    let method = "/pluginregistration.Registration/GetInfo";
    ask(socket, method, Message::default(), SHORT, |fields| {
        Ok(Plugin {
            kind: fields.text(1),
            name: fields.text(2),
            endpoint: fields.text(3),
            versions: fields.texts(4),
        })
    })
    .await
}

/// Tells a registrar how it went.
pub async fn notify(socket: &Path, outcome: Result<(), &str>) -> Result<(), CallError> {
    let message = Message::default()
        .flag(1, outcome.is_ok())
        .text(2, outcome.err().unwrap_or_default());
    let method = "/pluginregistration.Registration/NotifyRegistrationStatus";
    ask(socket, method, message, SHORT, |_| Ok(())).await
}

/// What a driver says of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    pub id: String,
    pub limit: u64,
    pub topology: BTreeMap<String, String>,
}

pub async fn node_info(socket: &Path) -> Result<NodeInfo, CallError> {
    ask(
        socket,
        "/csi.v1.Node/NodeGetInfo",
        Message::default(),
        SHORT,
        |fields| {
            let topology = fields.messages(3)?.pop().map(|topology| topology.map(1));
            Ok(NodeInfo {
                id: fields.text(1),
                limit: fields.number(2),
                topology: topology.transpose()?.unwrap_or_default(),
            })
        },
    )
    .await
}

/// What a driver can do on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    pub stages: bool,
    pub expands: bool,
    pub gives_groups: bool,
}

pub async fn abilities(socket: &Path) -> Result<Abilities, CallError> {
    let method = "/csi.v1.Node/NodeGetCapabilities";
    ask(socket, method, Message::default(), SHORT, |fields| {
        let mut found = Abilities::default();
        for capability in fields.messages(1)? {
            for rpc in capability.messages(1)? {
                found.stages |= rpc.number(1) == STAGES;
                found.expands |= rpc.number(1) == EXPANDS;
                found.gives_groups |= rpc.number(1) == GIVES_GROUPS;
            }
        }
        Ok(found)
    })
    .await
}

/// How a volume is wanted (`VolumeCapability`): as files, or as a device.
#[derive(Clone, Debug, Default)]
pub struct Capability {
    pub block: bool,
    pub fs_type: String,
    pub mount_flags: Vec<String>,
    /// `fsGroup`, for a driver that gives volumes to groups itself.
    pub group: String,
    pub access_mode: u64,
}

impl Capability {
    fn message(&self) -> Message {
        let mode = Message::default().number(1, self.access_mode);
        let wanted = match self.block {
            true => Message::default().message(1, Message::default()),
            false => {
                let mount = Message::default()
                    .text(1, &self.fs_type)
                    .texts(2, self.mount_flags.iter().map(String::as_str))
                    .text(3, &self.group);
                Message::default().message(2, mount)
            }
        };
        wanted.message(3, mode)
    }
}

/// What staging and publishing have in common.
pub struct Volume<'a> {
    pub id: &'a str,
    /// What the driver's controller said when it attached the volume.
    pub attached: &'a BTreeMap<String, String>,
    pub context: &'a BTreeMap<String, String>,
    pub capability: &'a Capability,
}

pub async fn stage(
    socket: &Path,
    volume: &Volume<'_>,
    at: &Path,
    secrets: &BTreeMap<String, String>,
) -> Result<(), CallError> {
    let message = Message::default()
        .text(1, volume.id)
        .map(2, volume.attached)
        .text(3, &path(at))
        .message(4, volume.capability.message())
        .map(5, secrets)
        .map(6, volume.context);
    ask(socket, "/csi.v1.Node/NodeStageVolume", message, LIMIT, |_| Ok(())).await
}

pub async fn unstage(socket: &Path, id: &str, at: &Path) -> Result<(), CallError> {
    let message = Message::default().text(1, id).text(2, &path(at));
    ask(socket, "/csi.v1.Node/NodeUnstageVolume", message, LIMIT, |_| {
        Ok(())
    })
    .await
}

pub async fn publish(
    socket: &Path,
    volume: &Volume<'_>,
    staged: Option<&Path>,
    at: &Path,
    read_only: bool,
    secrets: &BTreeMap<String, String>,
) -> Result<(), CallError> {
    let message = Message::default()
        .text(1, volume.id)
        .map(2, volume.attached)
        .text(3, &staged.map(path).unwrap_or_default())
        .text(4, &path(at))
        .message(5, volume.capability.message())
        .flag(6, read_only)
        .map(7, secrets)
        .map(8, volume.context);
    ask(socket, "/csi.v1.Node/NodePublishVolume", message, LIMIT, |_| {
        Ok(())
    })
    .await
}

pub async fn unpublish(socket: &Path, id: &str, at: &Path) -> Result<(), CallError> {
    let message = Message::default().text(1, id).text(2, &path(at));
    ask(socket, "/csi.v1.Node/NodeUnpublishVolume", message, LIMIT, |_| {
        Ok(())
    })
    .await
}

/// A volume that is to grow on the node.
pub struct Expansion<'a> {
    pub id: &'a str,
    pub at: &'a Path,
    pub staged: Option<&'a Path>,
    pub capability: &'a Capability,
    pub bytes: u64,
}

pub async fn expand(
    socket: &Path,
    asked: &Expansion<'_>,
    secrets: &BTreeMap<String, String>,
) -> Result<(), CallError> {
    let message = Message::default()
        .text(1, asked.id)
        .text(2, &path(asked.at))
        .message(3, Message::default().number(1, asked.bytes))
        .text(4, &asked.staged.map(path).unwrap_or_default())
        .message(5, asked.capability.message())
        .map(6, secrets);
    ask(
        socket,
        "/csi.v1.Node/NodeExpandVolume",
        message,
        LIMIT,
        |_| Ok(()),
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::access_mode;

    #[test]
    fn the_widest_access_mode_counts() {
        let of = |modes: &[&str]| access_mode(&modes.iter().map(ToString::to_string).collect::<Vec<_>>());
        for (modes, expected) in [
            (&["ReadWriteOnce"][..], 1),
            (&["ReadWriteOncePod"], 1),
            (&["ReadOnlyMany"], 3),
            (&["ReadWriteOnce", "ReadOnlyMany"], 1),
            (&["ReadWriteOnce", "ReadWriteMany"], 5),
            (&[], 1),
        ] {
            assert_eq!(of(modes), expected, "{modes:?}");
        }
    }
}
