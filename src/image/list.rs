//! Listing what a node's store and a registry hold.

use std::path::Path;

use amphipod_node::images::{
    Distribution, Endpoints, Image, ImageKind, ImageReference, Images, ImagesOptions, RegistryAuth,
    RegistryError, media,
};
use comfy_table::{Cell, CellAlignment, Table};
use serde::Deserialize;
use serde_json::Value;

use super::{ImageError, node_store};

/// One line of `amphipod image ls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub reference: String,
    /// The manifest's or index's digest.
    pub digest: String,
    /// `native` or `wasm`; empty for an index in a registry.
    pub kind: &'static str,
    /// Compressed bytes; none where unknown.
    pub size: Option<u64>,
    /// `node` or `registry`.
    pub place: &'static str,
}

#[derive(Deserialize)]
struct Catalog {
    #[serde(default)]
    repositories: Vec<String>,
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// Lists the node store below `data_dir`, if there is one, and the registry `registry` as reached by `endpoints`.
///
/// # Errors
/// See [`ImageError`].
pub async fn ls(
    data_dir: &Path,
    registry: Option<&str>,
    endpoints: Endpoints,
) -> Result<Vec<Listed>, ImageError> {
    let mut listed = Vec::new();
    let store = node_store(data_dir);
    if store.is_dir() {
        let images = Images::open(&store, ImagesOptions::default())?;
        listed.extend(images.list()?.iter().map(from_store));
    }
    if let Some(registry) = registry {
        let client = Distribution::new(endpoints).map_err(|error| ImageError::Client(error.to_string()))?;
        let found = from_registry(&client, registry).await;
        let failed = |source| ImageError::Registry {
            step: "list",
            reference: registry.to_owned(),
            source,
        };
        listed.extend(found.map_err(failed)?);
    }
    Ok(listed)
}

fn from_store(image: &Image) -> Listed {
    let kind = match image.kind {
        ImageKind::Native => "native",
        ImageKind::Wasm => "wasm",
    };
    let (reference, digest) = (image.reference.clone(), image.digest.to_string());
    Listed {
        reference,
        digest,
        kind,
        size: Some(image.size),
        place: "node",
    }
}

async fn from_registry(client: &Distribution, registry: &str) -> Result<Vec<Listed>, RegistryError> {
    let anonymous = RegistryAuth::Anonymous;
    let catalog = client.document(registry, "_catalog", &anonymous).await?;
    let catalog: Catalog = serde_json::from_slice(&catalog).unwrap_or(Catalog {
        repositories: Vec::new(),
    });
    let mut listed = Vec::new();
    for name in catalog.repositories {
        let tags = client
            .document(registry, &format!("{name}/tags/list"), &anonymous)
            .await?;
        let tags = serde_json::from_slice::<Tags>(&tags)
            .ok()
            .and_then(|tags| tags.tags)
            .unwrap_or_default();
        for tag in tags {
            let Ok(reference) = format!("{registry}/{name}:{tag}").parse::<ImageReference>() else {
                continue;
            };
            let manifest = client.manifest(&reference, &tag, &anonymous).await?;
            let (kind, size) = describe(&manifest.bytes);
            let (reference, digest) = (reference.to_string(), manifest.digest.to_string());
            listed.push(Listed {
                reference,
                digest,
                kind,
                size,
                place: "registry",
            });
        }
    }
    Ok(listed)
}

/// Kind and compressed size as far as a manifest alone says them; an index says neither.
fn describe(manifest: &[u8]) -> (&'static str, Option<u64>) {
    let value: Value = serde_json::from_slice(manifest).unwrap_or_default();
    let Some(layers) = value["layers"].as_array() else {
        return ("", None);
    };
    let media_type = |part: &Value| part["mediaType"].as_str().unwrap_or_default().to_owned();
    let wasm = media::is_wasm_config(&media_type(&value["config"]))
        || layers
            .iter()
            .any(|layer| media::is_wasm_layer(&media_type(layer)));
    let parts = std::iter::once(&value["config"]).chain(layers);
    let size = parts
        .filter_map(|part| part["size"].as_u64())
        .fold(0, u64::saturating_add);
    (if wasm { "wasm" } else { "native" }, Some(size))
}

/// The list as a table for people.
pub fn table(listed: &[Listed]) -> String {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header(["IMAGE", "KIND", "SIZE", "DIGEST", "WHERE"]);
    for image in listed {
        let digest = image
            .digest
            .trim_start_matches("sha256:")
            .get(..12)
            .unwrap_or_default();
        let size = image.size.map(human_size).unwrap_or_default();
        table.add_row([
            Cell::new(&image.reference),
            Cell::new(image.kind),
            Cell::new(size).set_alignment(CellAlignment::Right),
            Cell::new(digest),
            Cell::new(image.place),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Bytes in the largest unit that leaves at least 1.
fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_tell_kind_and_size() {
        let manifest = |kind: &str| {
            format!(
                r#"{{"config":{{"mediaType":"{kind}","size":2}},"layers":[{{"mediaType":"x","size":3}}]}}"#
            )
        };
        assert_eq!(
            describe(manifest(media::WASM_CONFIG).as_bytes()),
            ("wasm", Some(5))
        );
        assert_eq!(
            describe(manifest(media::OCI_CONFIG).as_bytes()),
            ("native", Some(5))
        );
        assert_eq!(describe(br#"{"manifests":[]}"#), ("", None));
        assert_eq!(describe(b"nonsense"), ("", None));
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (5 << 20, "5.0 MiB"),
        ] {
            assert_eq!(human_size(bytes), expected);
        }
    }
}
