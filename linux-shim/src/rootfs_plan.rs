//! What the rootfs mounts of a CreateTaskRequest mean to `mount(2)`. Pure.
//!
//! Overlay layers are mounted by the old call on purpose: `fsconfig` takes strings of at most 255 bytes, and one
//! `lowerdir` list is longer.

use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

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
}

/// A rootfs mount that cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootfsPlanError {
    #[error(
        "the image's {0} layers need {1} bytes of mount options, more than the kernel takes; use an image with fewer layers or a shorter data directory"
    )]
    TooLong(usize, usize),
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
            other => data.push(other.to_owned()),
        }
    }
    let mut plan = RootfsMount {
        kind: kind.into(),
        source: source.into(),
        flags,
        data: data.join(","),
        base: None,
    };
    if plan.data.len() > DATA_LIMIT {
        shorten(&mut plan, &mut data)?;
    }
    Ok(plan)
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
