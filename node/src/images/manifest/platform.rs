//! Which entry of an index is for this node.
use super::{Descriptor, ManifestError, Platform};
use crate::images::image::ImageKind;

/// This node's architecture in Go's words, as images name it.
pub fn native_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "riscv64" => "riscv64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn is_native(platform: &Platform, arch: &str) -> bool {
    platform.os == "linux" && platform.architecture == arch
}

pub(super) fn is_wasm(platform: &Platform) -> bool {
    matches!(platform.os.as_str(), "wasi" | "wasip1" | "wasip2")
        && matches!(platform.architecture.as_str(), "wasm" | "wasm32")
}

/// The entry of an index that is taken, and what decided where the index has both kinds.
pub type Choice<'a> = (&'a Descriptor, Option<ImageKind>);

/// Chooses the entry of an index this node runs: one for `linux/<arch>` or for a WASI platform, as is `wanted` where both are
/// there; then a lone entry that names no platform.
///
/// # Errors
/// None fits.
pub fn choose<'a>(
    entries: &'a [Descriptor],
    arch: &str,
    wanted: ImageKind,
) -> Result<Choice<'a>, ManifestError> {
    let matching = |test: &dyn Fn(&Platform) -> bool| {
        entries
            .iter()
            .find(|entry| entry.platform.as_ref().is_some_and(test))
    };
    let lone = || {
        entries
            .first()
            .filter(|entry| entries.len() == 1 && entry.platform.is_none())
    };
    match (matching(&|p| is_native(p, arch)), matching(&is_wasm), wanted) {
        (Some(entry), Some(_), ImageKind::Native) | (Some(_), Some(entry), ImageKind::Wasm) => {
            Ok((entry, Some(wanted)))
        }
        (native, wasm, _) => match native.or(wasm).or_else(lone) {
            Some(entry) => Ok((entry, None)),
            None => Err(none_fits(entries, arch)),
        },
    }
}

fn none_fits(entries: &[Descriptor], arch: &str) -> ManifestError {
    let found: Vec<String> = entries
        .iter()
        .filter_map(|e| e.platform.as_ref().map(Platform::to_string))
        .collect();
    ManifestError::NoPlatform {
        wanted: format!("linux/{arch} or wasi/wasm"),
        found: found.join(", "),
    }
}

/// A config that names no platform (hand-made images) is taken as this node's.
pub(super) fn refuse_foreign_platform(platform: &Platform, arch: &str) -> Result<(), ManifestError> {
    let named = !platform.os.is_empty() && !platform.architecture.is_empty();
    if named && !is_native(platform, arch) {
        return Err(ManifestError::NoPlatform {
            wanted: format!("linux/{arch}"),
            found: platform.to_string(),
        });
    }
    Ok(())
}
