//! What the rootfs mounts of a CreateTaskRequest mean to `mount(2)`. Pure.
//!
//! containerd's `uidmap=` and `gidmap=` ask for an overlay whose lower layers show other owners.
//! Overlay layers are mounted by the old call on purpose: `fsconfig` takes strings of at most 255 bytes, and one
//! `lowerdir` list is longer.

use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use crate::id_map::{IdMapError, IdMaps};

/// `mount(2)` takes at most a page of data with its NUL.
const DATA_LIMIT: usize = 4095;

/// One rootfs mount, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsMount {
    pub kind: String,
    pub source: String,
    pub flags: MsFlags,
    pub data: String,
    /// Directory to stand in while mounting, which relative `lowerdir`s are below.
    pub base: Option<PathBuf>,
    /// Lower layers to be seen through an id map; they are not in `data`.
    pub id_mapped: Option<IdMappedLayers>,
}

/// The lower layers of an overlay, topmost first, and their map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMappedLayers {
    pub maps: IdMaps,
    pub lower: Vec<PathBuf>,
}

/// A rootfs mount that cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootfsPlanError {
    #[error(
        "the image's {0} layers need {1} bytes of mount options, more than the kernel takes; use an image with fewer layers or a shorter data directory"
    )]
    TooLong(usize, usize),
    #[error("the rootfs mount's id map: {0}")]
    Ids(#[from] IdMapError),
    #[error("only an overlay with lower layers can be idmapped as a rootfs, not {0}")]
    NotLayers(String),
}

/// Reads one mount in containerd's words.
pub fn parse(kind: &str, source: &str, options: &[String]) -> Result<RootfsMount, RootfsPlanError> {
    let mut flags = if kind == "bind" {
        MsFlags::MS_BIND
    } else {
        MsFlags::empty()
    };
    let mut data = Vec::new();
    for option in options {
        match option.as_str() {
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            "ro" => flags |= MsFlags::MS_RDONLY,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "rw" | "defaults" => {}
            map if map.starts_with("uidmap=") || map.starts_with("gidmap=") => {}
            other => data.push(other.to_owned()),
        }
    }
    let id_mapped = match IdMaps::of_options(options)? {
        Some(maps) => Some(IdMappedLayers {
            maps,
            lower: take_lower(kind, &mut data)?,
        }),
        None => None,
    };
    let mut plan = RootfsMount {
        kind: kind.into(),
        source: source.into(),
        flags,
        data: data.join(","),
        base: None,
        id_mapped,
    };
    if plan.data.len() > DATA_LIMIT {
        shorten(&mut plan, &mut data)?;
    }
    Ok(plan)
}

fn take_lower(kind: &str, data: &mut Vec<String>) -> Result<Vec<PathBuf>, RootfsPlanError> {
    let at = data.iter().position(|o| o.starts_with("lowerdir="));
    match at.filter(|_| kind == "overlay") {
        Some(at) => {
            let option = data.remove(at);
            let list = &option["lowerdir=".len()..];
            Ok(list.split(':').map(PathBuf::from).collect())
        }
        None => Err(RootfsPlanError::NotLayers(kind.into())),
    }
}

/// Makes the layers relative to the directory they have in common.
fn shorten(plan: &mut RootfsMount, data: &mut [String]) -> Result<(), RootfsPlanError> {
    let too_long = RootfsPlanError::TooLong(1, plan.data.len());
    let Some(lower) = data.iter_mut().find(|o| o.starts_with("lowerdir=")) else {
        return Err(too_long);
    };
    let layers: Vec<PathBuf> = lower["lowerdir=".len()..].split(':').map(PathBuf::from).collect();
    let base = common(&layers);
    let relative = layers
        .iter()
        .map(|l| l.strip_prefix(&base).unwrap_or(l).display().to_string());
    *lower = format!("lowerdir={}", relative.collect::<Vec<_>>().join(":"));
    plan.data = data.join(",");
    plan.base = Some(base);
    if plan.data.len() > DATA_LIMIT {
        return Err(RootfsPlanError::TooLong(layers.len(), plan.data.len()));
    }
    Ok(())
}

fn common(paths: &[PathBuf]) -> PathBuf {
    let mut base = paths
        .first()
        .and_then(|p| p.parent())
        .unwrap_or(Path::new("/"))
        .to_path_buf();
    while !paths.iter().all(|p| p.starts_with(&base)) {
        if !base.pop() {
            break;
        }
    }
    base
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_options_are_data() {
        let options = [
            "lowerdir=/a:/b".to_owned(),
            "upperdir=/u".into(),
            "workdir=/w".into(),
            "ro".into(),
        ];
        let plan = parse("overlay", "overlay", &options).unwrap();
        assert_eq!(plan.data, "lowerdir=/a:/b,upperdir=/u,workdir=/w");
        assert_eq!((plan.flags, plan.base), (MsFlags::MS_RDONLY, None));
    }

    #[test]
    fn idmapped_layers_are_taken_apart() {
        let options = [
            "lowerdir=/a:/b",
            "upperdir=/u",
            "uidmap=0:65536:65536",
            "gidmap=0:65536:65536",
        ];
        let options = options.map(str::to_owned);
        let plan = parse("overlay", "overlay", &options).unwrap();
        assert_eq!(plan.data, "upperdir=/u");
        let layers = plan.id_mapped.unwrap();
        assert_eq!(layers.lower, ["/a", "/b"].map(PathBuf::from));
        assert_eq!(layers.maps.user_outside(0), Some(65536));
        assert!(parse("bind", "/x", &options[1..]).is_err());
        assert!(parse("overlay", "o", &options[..3]).is_err(), "half a map");
    }

    #[test]
    fn many_layers_become_relative() {
        let layers: Vec<String> = (0..100)
            .map(|n| format!("/data/node/images/layers/sha256-{n:064}/fs"))
            .collect();
        let options = [format!("lowerdir={}", layers.join(":")), "upperdir=/u".into()];
        assert!(matches!(
            parse("overlay", "o", &options),
            Err(RootfsPlanError::TooLong(100, _))
        ));
        let options = [
            format!("lowerdir={}", layers[..45].join(":")),
            "upperdir=/u".into(),
        ];
        let plan = parse("overlay", "o", &options).unwrap();
        assert_eq!(plan.base.as_deref(), Some(Path::new("/data/node/images/layers")));
        assert!(plan.data.starts_with("lowerdir=sha256-000"), "{}", plan.data);
    }
}
