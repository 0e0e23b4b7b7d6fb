//! The CNCF Wasm OCI artifact (TAG Runtime, "Wasm OCI Artifact layout"): one `application/wasm` layer, and a config
//! that says which WASI it is for and, for a component, what it imports and exports.

use std::fs;
use std::path::Path;

use amphipod_node::images::media;
use serde_json::{Value, json};
use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};

use super::artifact::Blob;
use super::native::EPOCH;
use super::{Artifact, ImageError};

/// What a module says about itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Interface {
    component: bool,
    imports: Vec<String>,
    exports: Vec<String>,
}

/// Makes the artifact of the module or component at `path`.
pub fn build(path: &Path) -> Result<Artifact, ImageError> {
    let bytes = fs::read(path).map_err(ImageError::io("read", path))?;
    let invalid = |message: String| ImageError::Wasm {
        path: path.to_owned(),
        message,
    };
    Validator::new_with_features(WasmFeatures::default() | WasmFeatures::COMPONENT_MODEL)
        .validate_all(&bytes)
        .map_err(|error| invalid(error.to_string()))?;
    let interface = inspect(&bytes).map_err(|error| invalid(error.to_string()))?;
    let layer = Blob::memory(bytes);
    let config = Blob::memory(config(&interface, &layer).to_string().into_bytes());
    Ok(Artifact::image(
        (config, media::WASM_CONFIG),
        vec![(layer, media::WASM_LAYER)],
    ))
}

/// Reads the outermost imports and exports; those of modules inside a component are its own business.
fn inspect(bytes: &[u8]) -> Result<Interface, wasmparser::BinaryReaderError> {
    let mut interface = Interface::default();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version { encoding, .. } if depth == 0 => {
                interface.component = encoding == Encoding::Component;
                depth = 1;
            }
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    interface.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    interface.exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(interface)
}

fn config(interface: &Interface, layer: &Blob) -> Value {
    let mut config = json!({
        "created": EPOCH,
        "architecture": "wasm",
        "os": if interface.component { "wasip2" } else { "wasip1" },
        "layerDigests": [layer.digest.to_string()],
    });
    if interface.component {
        config["component"] = json!({
            "exports": interface.exports,
            "imports": interface.imports,
            "target": target(interface),
        });
    }
    config
}

/// The world a component is made for, told by what it exports.
fn target(interface: &Interface) -> Option<String> {
    const WORLDS: [(&str, &str); 2] = [
        ("wasi:http/incoming-handler@", "wasi:http/proxy@"),
        ("wasi:cli/run@", "wasi:cli/command@"),
    ];
    let world = |export: &String| {
        WORLDS
            .iter()
            .find_map(|(exported, world)| Some(format!("{world}{}", export.strip_prefix(exported)?)))
    };
    interface.exports.iter().find_map(world)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workload built into the repository.
    fn workload(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("workloads/wasm")
            .join(name)
    }

    #[test]
    fn a_http_component_names_its_world() {
        let interface = inspect(&fs::read(workload("server.wasm")).unwrap()).unwrap();
        assert!(interface.component);
        assert!(
            interface
                .exports
                .iter()
                .any(|export| export.starts_with("wasi:http/incoming-handler@"))
        );
        assert!(
            interface
                .imports
                .iter()
                .any(|import| import.starts_with("wasi:http/types@")),
            "{interface:?}"
        );
        assert!(target(&interface).unwrap().starts_with("wasi:http/proxy@"));
    }

    #[test]
    fn a_core_module_is_for_wasip1() {
        let bytes = fs::read(workload("fail.wasm")).unwrap();
        let interface = inspect(&bytes).unwrap();
        assert_eq!(interface, Interface::default());
        let config = config(&interface, &Blob::memory(bytes));
        assert_eq!(
            (&config["os"], &config["component"]),
            (&json!("wasip1"), &Value::Null)
        );
    }

    #[test]
    fn broken_modules_are_refused_before_anything_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.wasm");
        fs::write(&path, b"\0asm\x01\0\0\0\xff\xff").unwrap();
        assert!(matches!(build(&path), Err(ImageError::Wasm { .. })));
    }
}
