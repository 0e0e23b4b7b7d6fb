//! Which entry of an index is for this node.
use super::{Descriptor, ManifestError, Platform};

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

/// Chooses the entry of an index this node runs: `linux/<arch>` first, then a WASI platform, then a lone entry
/// that names no platform.
///
/// # Errors
/// None fits.
pub fn choose<'a>(entries: &'a [Descriptor], arch: &str) -> Result<&'a Descriptor, ManifestError> {
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
    matching(&|p| is_native(p, arch))
        .or_else(|| matching(&is_wasm))
        .or_else(lone)
        .ok_or_else(|| {
            let found: Vec<String> = entries
                .iter()
                .filter_map(|e| e.platform.as_ref().map(Platform::to_string))
                .collect();
            ManifestError::NoPlatform {
                wanted: format!("linux/{arch} or wasi/wasm"),
                found: found.join(", "),
            }
        })
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
