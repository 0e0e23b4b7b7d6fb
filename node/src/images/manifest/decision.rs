//! What an image is, by its manifest and config, and its layers in order.
use super::platform::{is_wasm, refuse_foreign_platform};
use super::{Descriptor, Manifest, ManifestError, Platform};
use crate::images::digest::Digest;
use crate::images::image::{ImageConfig, ImageKind};
use crate::images::media::{self, Compression};
use serde::Deserialize;

/// An image configuration, as far as a node needs it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigFile {
    os: String,
    architecture: String,
    config: Option<ImageConfig>,
    rootfs: Option<RootfsSection>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RootfsSection {
    diff_ids: Vec<Digest>,
}

/// A layer to unpack: where its bytes are, and what they are when decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub blob: Descriptor,
    pub diff_id: Digest,
    pub compression: Compression,
}

/// What an image consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// Tar layers; the runtime is `kind`'s. A Wasm image of this shape holds its module as a file.
    Layers(Vec<Layer>),
    /// One bare module or component.
    Module(Descriptor),
}

/// The decision over a manifest and its config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub kind: ImageKind,
    pub config: ImageConfig,
    pub contents: Contents,
}

/// Decides what an image is and what must be fetched for it (DESIGN.md §5: the artifact decides).
///
/// # Errors
/// Refuses configs that are not JSON, layers nobody can unpack or that live elsewhere, and foreign platforms.
pub fn decide(manifest: &Manifest, config: &[u8], arch: &str) -> Result<Decision, ManifestError> {
    refuse_foreign(&manifest.layers)?;
    let file: ConfigFile = serde_json::from_slice(config).map_err(|source| ManifestError::Json {
        what: "config",
        source,
    })?;
    let platform = Platform {
        os: file.os,
        architecture: file.architecture,
        variant: String::new(),
    };
    let config = file.config.unwrap_or_default();
    let modules: Vec<&Descriptor> = manifest
        .layers
        .iter()
        .filter(|layer| media::is_wasm_layer(&layer.media_type))
        .collect();
    if !modules.is_empty() || media::is_wasm_config(&manifest.config.media_type) {
        let [module] = modules[..] else {
            return Err(ManifestError::WasmLayers(modules.len()));
        };
        return Ok(Decision {
            kind: ImageKind::Wasm,
            config,
            contents: Contents::Module(module.clone()),
        });
    }
    let kind = if is_wasm(&platform) || is_compat(manifest, &config) {
        ImageKind::Wasm
    } else {
        refuse_foreign_platform(&platform, arch)?;
        ImageKind::Native
    };
    let layers = pair_layers(&manifest.layers, file.rootfs.unwrap_or_default().diff_ids)?;
    Ok(Decision {
        kind,
        config,
        contents: Contents::Layers(layers),
    })
}

/// Scratch images with a module at their entrypoint, marked by an annotation or label.
fn is_compat(manifest: &Manifest, config: &ImageConfig) -> bool {
    const VARIANT: &str = "module.wasm.image/variant";
    let variant = manifest
        .annotations
        .get(VARIANT)
        .or_else(|| config.labels.get(VARIANT));
    variant.is_some_and(|v| matches!(v.as_str(), "compat" | "compat-smart"))
}

fn refuse_foreign(layers: &[Descriptor]) -> Result<(), ManifestError> {
    match layers
        .iter()
        .find_map(|layer| layer.urls.first().map(|url| (layer, url)))
    {
        Some((layer, url)) => Err(ManifestError::Foreign {
            digest: layer.digest.clone(),
            url: url.clone(),
        }),
        None => Ok(()),
    }
}

fn pair_layers(layers: &[Descriptor], diff_ids: Vec<Digest>) -> Result<Vec<Layer>, ManifestError> {
    if layers.len() != diff_ids.len() {
        return Err(ManifestError::DiffIds {
            diff_ids: diff_ids.len(),
            layers: layers.len(),
        });
    }
    let pair = |(blob, diff_id): (&Descriptor, Digest)| {
        let compression = media::compression(&blob.media_type).ok_or_else(|| ManifestError::LayerType {
            digest: blob.digest.clone(),
            media_type: blob.media_type.clone(),
        })?;
        Ok(Layer {
            blob: blob.clone(),
            diff_id,
            compression,
        })
    };
    layers.iter().zip(diff_ids).map(pair).collect()
}
