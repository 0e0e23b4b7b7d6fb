//! Takes away everything a cluster's network made on this host, by the cluster's name alone: half of it,
//! or all of its files, may be gone already.
//!
//! `net.ipv4.ip_forward` stays on: who else relies on it cannot be known.

use std::io;
use std::path::{Path, PathBuf};

use super::links::{LinkError, Links};
use super::names::{BadClusterId, Names};
use super::nft::{self, NftError};
use super::sandbox::SandboxError;
use crate::{mounts, removal};

/// Why something of a cluster's network is still there. What comes first in [`down`] was removed.
#[derive(Debug, thiserror::Error)]
pub enum DownError {
    #[error(transparent)]
    Id(#[from] BadClusterId),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Nft(#[from] NftError),
    #[error("cannot {step} {}", path.display())]
    File {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// Removes pinned namespaces and their mounts, links, and the nftables table of a cluster.
pub async fn down(cluster_id: &str, run_dir: &Path) -> Result<(), DownError> {
    let names = Names::new(cluster_id)?;
    remove_pins(&run_dir.join("ns"))?;
    remove_links(&names).await?;
    Ok(nft::delete_table(&names.table())?)
}

pub(super) fn remove_pins(root: &Path) -> Result<(), DownError> {
    let failed = |step, path: &Path, source| DownError::File {
        step,
        path: path.to_owned(),
        source,
    };
    let Ok(root) = root.canonicalize() else {
        return Ok(());
    };
    mounts::release_under(&root).map_err(|e| failed("unmount what is below", &root, e))?;
    removal::remove(&root).map_err(|e| failed("remove", &root, e))
}

async fn remove_links(names: &Names) -> Result<(), DownError> {
    let links = Links::open()?;
    for link in links
        .all()
        .await?
        .iter()
        .filter(|link| names.owns_link(&link.name))
    {
        links.remove(link).await?;
    }
    Ok(())
}
