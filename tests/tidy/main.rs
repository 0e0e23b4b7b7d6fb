//! ARCHITECTURE.md's invariants of absence, held against the sources and the dependency graph.

use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGES: &[&str] = &[
    "src",
    "control",
    "node",
    "linux-shim",
    "wasm-shim",
    "workloads",
    "tests",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Names of the direct dependencies (not those of tests) of a workspace package.
fn dependencies(package: &str) -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let found = packages
        .iter()
        .find(|it| it["name"] == package)
        .unwrap_or_else(|| panic!("no package {package}"));
    let dependencies = found["dependencies"].as_array().unwrap();
    let normal = dependencies
        .iter()
        .filter(|dependency| dependency["kind"].is_null());
    normal
        .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
        .collect()
}

fn sources() -> Vec<PathBuf> {
    let mut pending: Vec<PathBuf> = PACKAGES.iter().map(|package| root().join(package)).collect();
    let mut found = Vec::new();
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => pending.push(path),
                false if path.extension().is_some_and(|end| end == "rs") => found.push(path),
                false => {}
            }
        }
    }
    found
}

#[test]
fn only_the_root_package_knows_both_halves() {
    for (package, forbidden) in [
        ("amphipod-control", "amphipod-node"),
        ("amphipod-node", "amphipod-control"),
        ("amphipod-linux-shim", "k8s-openapi"),
        ("amphipod-wasm-shim", "k8s-openapi"),
        ("amphipod-shim-api", "k8s-openapi"),
        ("amphipod-node", "amphipod-linux-shim"),
        ("amphipod-node", "amphipod-wasm-shim"),
    ] {
        assert!(
            !dependencies(package).iter().any(|name| name == forbidden),
            "{package} depends on {forbidden}"
        );
    }
}

#[test]
fn one_package_knows_each_engine() {
    for (engine, knower) in [("redb", "amphipod-control"), ("wasmtime", "amphipod-wasm-shim")] {
        for package in [
            "amphipod",
            "amphipod-control",
            "amphipod-node",
            "amphipod-linux-shim",
            "amphipod-wasm-shim",
        ] {
            let knows = dependencies(package).iter().any(|name| name == engine);
            assert_eq!(knows, package == knower, "{package} and {engine}");
        }
    }
    for file in sources() {
        let is_store = file
            .parent()
            .is_some_and(|f| f.ends_with("control/src/store/redb"))
            || file.ends_with("tests/tidy/main.rs");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            is_store || !text.contains("::redb::"),
            "{} names redb",
            file.display()
        );
    }
}

#[test]
fn every_file_says_what_it_owns() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|file| {
            !std::fs::read_to_string(file)
                .unwrap()
                .trim_start()
                .starts_with("//!")
        })
        .collect();
    assert!(silent.is_empty(), "no //! at the top of {silent:#?}");
}

#[test]
fn unsafe_lives_in_sys_modules() {
    let keyword = concat!("unsafe", " {");
    let outside: Vec<_> = sources()
        .into_iter()
        .filter(|file| {
            let in_sys = file
                .components()
                .any(|part| matches!(part.as_os_str().to_str(), Some("sys" | "sys.rs")));
            !in_sys && std::fs::read_to_string(file).unwrap().contains(keyword)
        })
        .collect();
    assert!(outside.is_empty(), "unsafe outside sys: {outside:#?}");
}
