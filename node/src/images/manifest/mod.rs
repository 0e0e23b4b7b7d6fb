//! Reading manifests, indexes and configs, and deciding what an image is. Pure: bytes in, decisions out; every
//! hostile shape is refused here, before anything is fetched.

mod decision;
mod platform;

use std::collections::BTreeMap;

use serde::Deserialize;

use super::digest::{Digest, DigestError};
use super::media;

pub use decision::{Contents, Decision, Layer, decide};
pub use platform::{choose, native_arch};

/// Most layers in one image: Docker's own limit, and near what one page of overlay options holds.
pub const MAX_LAYERS: usize = 127;
/// Most entries looked at in one index; real ones have a few dozen.
pub const MAX_INDEX_ENTRIES: usize = 1000;

/// Why a manifest, index or config was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{what} is not valid JSON: {source}")]
    Json {
        what: &'static str,
        source: serde_json::Error,
    },
    #[error(
        "manifest has both \"layers\" and \"manifests\", which makes its meaning ambiguous (CVE-2021-41190)"
    )]
    Ambiguous,
    #[error("manifest has neither \"layers\" nor \"manifests\"")]
    Neither,
    #[error("manifest media type {declared:?} does not fit its content")]
    MediaType { declared: String },
    #[error("Docker schema 1 images are not supported; rebuild or convert the image")]
    SchemaOne,
    #[error("no match for platform in manifest: looked for {wanted}, found {found}")]
    NoPlatform { wanted: String, found: String },
    #[error("index refers to another index too deeply")]
    Nested,
    #[error("{count} {what} are more than the limit of {limit}")]
    TooMany {
        what: &'static str,
        count: usize,
        limit: usize,
    },
    #[error("layer {digest} has foreign URLs ({url}), which are never fetched")]
    Foreign { digest: Digest, url: String },
    #[error("layer {digest} has media type {media_type:?}, which this node cannot unpack")]
    LayerType { digest: Digest, media_type: String },
    #[error("config lists {diff_ids} diff_ids for {layers} layers")]
    DiffIds { diff_ids: usize, layers: usize },
    #[error("a Wasm artifact has exactly one module layer, this one has {0}")]
    WasmLayers(usize),
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// A reference to content (image-spec, descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default)]
    pub urls: Vec<String>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub platform: Option<Platform>,
}

/// The platform an index entry is for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: String,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// An image manifest (image-spec, manifest.md).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// What a reference can resolve to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    Image(Box<Manifest>),
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// Parses what a registry served as a manifest; `content_type` is the response header's.
///
/// # Errors
/// Refuses anything whose meaning depends on who reads it.
pub fn parse(bytes: &[u8], content_type: &str) -> Result<Resolved, ManifestError> {
    let json = |source| ManifestError::Json {
        what: "manifest",
        source,
    };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(json)?;
    let has = |key: &str| value.get(key).is_some_and(|v| !v.is_null());
    if value.get("schemaVersion").and_then(serde_json::Value::as_u64) == Some(1) {
        return Err(ManifestError::SchemaOne);
    }
    let (image, index) = (has("layers") || has("config"), has("manifests"));
    if image == index {
        return Err(if image {
            ManifestError::Ambiguous
        } else {
            ManifestError::Neither
        });
    }
    let declared = value
        .get("mediaType")
        .and_then(|v| v.as_str())
        .unwrap_or(content_type);
    check_media_type(declared, index)?;
    if image {
        let manifest: Manifest = serde_json::from_value(value).map_err(json)?;
        limit("layers", manifest.layers.len(), MAX_LAYERS)?;
        return Ok(Resolved::Image(Box::new(manifest)));
    }
    let index: Index = serde_json::from_value(value).map_err(json)?;
    limit("index entries", index.manifests.len(), MAX_INDEX_ENTRIES)?;
    Ok(Resolved::Index(index.manifests))
}

fn check_media_type(declared: &str, index: bool) -> Result<(), ManifestError> {
    let fits = match declared.split(';').next().unwrap_or_default().trim() {
        media::OCI_INDEX | media::DOCKER_INDEX => index,
        media::OCI_MANIFEST | media::DOCKER_MANIFEST => !index,
        _ => true,
    };
    fits.then_some(()).ok_or_else(|| ManifestError::MediaType {
        declared: declared.to_owned(),
    })
}

fn limit(what: &'static str, count: usize, limit: usize) -> Result<(), ManifestError> {
    if count > limit {
        return Err(ManifestError::TooMany { what, count, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::images::ImageKind;

    fn digest(n: u8) -> String {
        Digest::of(&[n]).to_string()
    }

    fn layer(media_type: &str) -> serde_json::Value {
        json!({"mediaType": media_type, "digest": digest(1), "size": 3})
    }

    fn manifest(config_type: &str, layers: Vec<serde_json::Value>) -> Manifest {
        let value = json!({
            "schemaVersion": 2,
            "config": {"mediaType": config_type, "digest": digest(0), "size": 2},
            "layers": layers,
        });
        match parse(&serde_json::to_vec(&value).unwrap(), media::OCI_MANIFEST).unwrap() {
            Resolved::Image(manifest) => *manifest,
            Resolved::Index(_) => panic!("not an index"),
        }
    }

    fn kind_of(manifest: &Manifest, config: serde_json::Value) -> Result<ImageKind, ManifestError> {
        decide(manifest, &serde_json::to_vec(&config).unwrap(), "amd64").map(|d| d.kind)
    }

    #[test]
    fn artifacts_met_in_the_wild_are_recognised() {
        let tar = || vec![layer(media::OCI_LAYER_GZIP)];
        let rootfs = json!({"diff_ids": [digest(1)]});
        let cases = [
            (
                manifest(media::WASM_CONFIG, vec![layer(media::WASM_LAYER)]),
                json!({"os": "wasip2"}),
                ImageKind::Wasm,
            ),
            (
                manifest(
                    media::WASM_CONFIG_V1,
                    vec![layer("application/vnd.wasm.content.layer.v1+wasm")],
                ),
                json!({}),
                ImageKind::Wasm,
            ),
            (
                manifest(
                    media::OCI_CONFIG,
                    vec![layer(
                        "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
                    )],
                ),
                json!({}),
                ImageKind::Wasm,
            ),
            (
                manifest(
                    media::OCI_CONFIG,
                    vec![layer("application/vnd.module.wasm.content.layer.v1+wasm")],
                ),
                json!({}),
                ImageKind::Wasm,
            ),
            (
                manifest(media::OCI_CONFIG, tar()),
                json!({"os": "wasip1", "architecture": "wasm", "rootfs": rootfs}),
                ImageKind::Wasm,
            ),
            (
                manifest(media::OCI_CONFIG, tar()),
                json!({"os": "wasi", "architecture": "wasm32", "rootfs": rootfs}),
                ImageKind::Wasm,
            ),
            (
                manifest(media::OCI_CONFIG, tar()),
                json!({"os": "linux", "architecture": "amd64", "rootfs": rootfs,
                "config": {"Labels": {"module.wasm.image/variant": "compat-smart"}}}),
                ImageKind::Wasm,
            ),
            (
                manifest(media::OCI_CONFIG, tar()),
                json!({"os": "linux", "architecture": "amd64", "rootfs": rootfs,
                "config": {"Labels": null, "Entrypoint": null}}),
                ImageKind::Native,
            ),
        ];
        for (manifest, config, expected) in cases {
            assert_eq!(kind_of(&manifest, config.clone()).unwrap(), expected, "{config}");
        }
    }

    #[test]
    fn hostile_manifests_are_refused() {
        let both = json!({"schemaVersion": 2, "layers": [], "config": {"digest": digest(0), "size": 1}, "manifests": []});
        assert!(matches!(
            parse(both.to_string().as_bytes(), ""),
            Err(ManifestError::Ambiguous)
        ));
        assert!(matches!(parse(b"{}", ""), Err(ManifestError::Neither)));
        assert!(matches!(parse(b"\x00", ""), Err(ManifestError::Json { .. })));
        assert!(matches!(
            parse(b"{\"schemaVersion\":1,\"layers\":[]}", ""),
            Err(ManifestError::SchemaOne)
        ));
        let index = json!({"manifests": []}).to_string();
        assert!(matches!(
            parse(index.as_bytes(), media::OCI_MANIFEST),
            Err(ManifestError::MediaType { .. })
        ));
        let traversal = json!({"layers": [{"digest": "sha256:../x", "size": 1}], "config": {"digest": digest(0), "size": 1}});
        assert!(matches!(
            parse(traversal.to_string().as_bytes(), ""),
            Err(ManifestError::Json { .. })
        ));
        let negative = json!({"layers": [{"digest": digest(1), "size": -1}], "config": {"digest": digest(0), "size": 1}});
        assert!(matches!(
            parse(negative.to_string().as_bytes(), ""),
            Err(ManifestError::Json { .. })
        ));
        let many: Vec<_> = (0..=MAX_LAYERS).map(|_| layer(media::OCI_LAYER)).collect();
        let many = json!({"layers": many, "config": {"digest": digest(0), "size": 1}});
        assert!(matches!(
            parse(many.to_string().as_bytes(), ""),
            Err(ManifestError::TooMany { .. })
        ));
    }

    #[test]
    fn hostile_contents_are_refused() {
        let foreign = json!({"mediaType": media::OCI_LAYER, "digest": digest(1), "size": 3, "urls": ["http://169.254.169.254/"]});
        let of = |m: &Manifest, config: &[u8]| decide(m, config, "amd64").unwrap_err();
        let m = manifest(media::OCI_CONFIG, vec![foreign]);
        assert!(matches!(of(&m, b"{}"), ManifestError::Foreign { .. }));
        let m = manifest(media::OCI_CONFIG, vec![layer(media::OCI_LAYER)]);
        assert!(matches!(
            of(&m, b"nope"),
            ManifestError::Json { what: "config", .. }
        ));
        assert!(matches!(of(&m, b"{}"), ManifestError::DiffIds { .. }));
        let arm = json!({"os": "linux", "architecture": "arm64", "rootfs": {"diff_ids": [digest(1)]}});
        assert!(matches!(
            of(&m, arm.to_string().as_bytes()),
            ManifestError::NoPlatform { .. }
        ));
        let m = manifest(media::OCI_CONFIG, vec![layer("application/x-unknown")]);
        let config = json!({"rootfs": {"diff_ids": [digest(1)]}}).to_string();
        assert!(matches!(
            of(&m, config.as_bytes()),
            ManifestError::LayerType { .. }
        ));
        let m = manifest(
            media::WASM_CONFIG,
            vec![layer(media::WASM_LAYER), layer(media::WASM_LAYER)],
        );
        assert!(matches!(of(&m, b"{}"), ManifestError::WasmLayers(2)));
        let m = manifest(media::WASM_CONFIG, vec![]);
        assert!(matches!(of(&m, b"{}"), ManifestError::WasmLayers(0)));
    }

    #[test]
    fn an_index_gives_the_kind_that_is_wanted_or_what_it_has() {
        let entry = |os: &str, arch: &str, n| json!({"digest": digest(n), "size": 1, "platform": {"os": os, "architecture": arch}});
        let chosen = |wanted, entries: &[serde_json::Value]| {
            let index = json!({"manifests": entries}).to_string();
            let Resolved::Index(entries) = parse(index.as_bytes(), media::OCI_INDEX).unwrap() else {
                panic!()
            };
            choose(&entries, "amd64", wanted).map(|(entry, choice)| (entry.digest.to_string(), choice))
        };
        let all = vec![
            entry("unknown", "unknown", 1),
            entry("wasip2", "wasm", 2),
            entry("linux", "amd64", 3),
        ];
        let (native, wasm) = (ImageKind::Native, ImageKind::Wasm);
        assert_eq!(chosen(native, &all).unwrap(), (digest(3), Some(native)));
        assert_eq!(chosen(wasm, &all).unwrap(), (digest(2), Some(wasm)));
        for wanted in [native, wasm] {
            for (entries, expected) in [
                (vec![entry("linux", "arm64", 1), entry("wasi", "wasm", 2)], 2),
                (vec![entry("linux", "amd64", 1), entry("linux", "arm64", 2)], 1),
                (vec![json!({"digest": digest(9), "size": 1})], 9),
            ] {
                assert_eq!(chosen(wanted, &entries).unwrap(), (digest(expected), None));
            }
            let error = chosen(wanted, &[entry("windows", "amd64", 1)]).unwrap_err();
            assert!(error.to_string().contains("windows/amd64"), "{error}");
        }
    }
}
