//! Wasm in images: what its container stands on, what compiling says, and what becomes of compiled code.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use axum::response::IntoResponse;

use super::hostile::{Server, serve, status};
use super::store::install;
use super::*;
use crate::images::compiled;
use crate::images::ingest;

#[tokio::test]
async fn a_wasm_image_of_layers_has_a_root_and_an_artifact_has_none() {
    if !root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = open(&dir.path().join("store"), ImagesOptions::default());
    let layers = [layer(&[("assets/one", "1")]), layer(&[("app.wasm", "\0asm")])];
    let mounts = async |sample: Sample, key: &str| {
        let server = serve(sample).await;
        let image = images.pull(&server.image(), &RegistryAuth::Anonymous).await;
        let image = image.unwrap();
        let Rootfs::Wasm { module, mounts, .. } = images.prepare(&image, key, None).unwrap() else {
            panic!("not Wasm")
        };
        assert_eq!(module.unwrap().digest, Digest::of(b"\0asm"));
        (image.layers.len(), mounts.len())
    };
    assert_eq!(
        mounts(Sample::wasm_of_layers(&layers, "/app.wasm"), "a").await,
        (2, 1)
    );
    assert_eq!(images.snapshots().unwrap(), ["a"]);
    assert_eq!(mounts(Sample::wasm(b"\0asm"), "b").await, (0, 0));
}

/// A registry with one tag, whose index has an entry for Linux and one for WASI.
async fn of_both_kinds() -> Server {
    let native = Sample::native(&[layer(&[("app", "1")])], json!({}));
    let samples = [
        (native, "linux", native_arch()),
        (Sample::wasm(b"\0asm"), "wasip2", "wasm"),
    ];
    let entry = |(sample, os, arch): &(Sample, &str, &str)| {
        json!({"mediaType": media::OCI_MANIFEST, "digest": Digest::of(&sample.manifest).to_string(),
            "size": sample.manifest.len(), "platform": {"os": os, "architecture": arch}})
    };
    let index =
        json!({"schemaVersion": 2, "manifests": samples.iter().map(entry).collect::<Vec<_>>()}).to_string();
    Server::start(move |request| {
        let path = request.uri().path();
        if path.ends_with("/manifests/v1") {
            return ([("content-type", media::OCI_INDEX)], index.clone()).into_response();
        }
        let parts = samples
            .iter()
            .flat_map(|(sample, ..)| sample.blobs.iter().chain([&sample.manifest]));
        let mut wanted = parts.filter(|part| path.ends_with(&Digest::of(part).to_string()));
        wanted
            .next()
            .map_or_else(|| status(404), |part| part.clone().into_response())
    })
    .await
}

#[tokio::test]
async fn of_an_image_for_both_each_gets_the_kind_it_wants_and_neither_hides_the_other() {
    use ImageKind::{Native, Wasm};
    if !root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let server = of_both_kinds().await;
    let (name, auth) = (server.image(), RegistryAuth::Anonymous);
    let pull = async |kind| images.pull_told(&name, &auth, kind).await.unwrap().image;
    let found = |name: &str, kind| images.find(name, kind).unwrap();
    let native = pull(Native).await;
    assert_eq!((native.kind, native.choice), (Native, Some(Native)));
    assert_eq!(found(&name, Wasm), None, "it is not here as Wasm");
    assert_eq!(found(&native.repo_digest, Wasm), None);
    let wasm = pull(Wasm).await;
    assert_eq!((wasm.kind, wasm.choice), (Wasm, Some(Wasm)));
    for (kind, expected) in [(Native, &native), (Wasm, &wasm)] {
        for name in [&name, &native.repo_digest] {
            assert_eq!(found(name, kind).as_ref(), Some(expected), "{name} as {kind:?}");
        }
    }
    assert!(images.forget(&name).unwrap());
    assert_eq!(images.list().unwrap(), []);
}

#[test]
fn a_linux_image_is_run_as_wasm_from_its_files() {
    if !root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let lower = layer(&[("bin/app", "\0asm"), ("bin/gone", "\0asm"), ("short", "\0as")]);
    let upper = layer(&[("opt/app", "\x7fELF"), ("bin/.wh.gone", "")]);
    let mut image = install(&images, "app", &[lower, upper]);
    let is_wasm = |places: &[&str]| {
        let places: Vec<_> = places.iter().map(PathBuf::from).collect();
        images.is_wasm(&image, &places)
    };
    for (places, expected) in [
        (&["/bin/app"][..], true),
        (&["/none/app", "/bin/app"], true),
        (&["/opt/app", "/bin/app"], false),
        (&["/bin/gone"], false),
        (&["/short"], false),
        (&["/bin"], false),
        (&["/../../bin/./app"], true),
        (&[], false),
    ] {
        assert_eq!(is_wasm(places), expected, "{places:?}");
    }
    image.kind = ImageKind::Wasm;
    let Rootfs::Wasm { module, mounts, .. } = images.prepare(&image, "c", None).unwrap() else {
        panic!("not Wasm")
    };
    assert_eq!((module, mounts.len()), (None, 1));
}

#[test]
fn compiled_code_that_is_no_images_goes_when_nobody_has_used_it_lately() {
    if !root_or_skip() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), ImagesOptions::default());
    let mut image = install(&images, "app:v1", &[]);
    let module = Digest::of(b"\0asm");
    (image.kind, image.module) = (ImageKind::Wasm, Some(module.clone()));
    images.inner.record(&image).unwrap();
    let engine = images.inner.layout.wasm_cache().join("engine");
    fs::create_dir(&engine).unwrap();
    let now = std::time::SystemTime::now();
    for (name, age) in [
        (module.hex(), 2 * ingest::KEPT),
        ("old", 2 * ingest::KEPT),
        ("idle", 2 * compiled::A_MOMENT),
        ("new", Duration::ZERO),
    ] {
        let file = fs::File::create(engine.join(format!("{name}.cwasm"))).unwrap();
        file.set_modified(now - age).unwrap();
    }
    let left = || -> BTreeSet<String> {
        let names = names(&engine).into_iter();
        names
            .map(|name| name.trim_end_matches(".cwasm").to_owned())
            .collect()
    };
    let expected = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    images.expire().unwrap();
    assert_eq!(left(), expected(&[module.hex(), "idle", "new"]));
    images.collect(&BTreeSet::new(), Duration::ZERO, || true).unwrap();
    assert_eq!(left(), expected(&[module.hex(), "new"]), "there is no room");
    images
        .collect(&BTreeSet::new(), Duration::ZERO, || false)
        .unwrap();
    assert_eq!(left(), expected(&["new"]), "its image is gone");
}

async fn compile_with(script: &str) -> (tempfile::TempDir, Result<(), String>) {
    let dir = tempfile::tempdir().unwrap();
    let wasm_shim: Vec<OsString> = ["/bin/sh", "-c", script, "shim"].map(OsString::from).into();
    let images = open(
        dir.path(),
        ImagesOptions {
            wasm_shim,
            ..ImagesOptions::default()
        },
    );
    let module = Digest::of(b"\0asm");
    fs::write(images.inner.layout.blob(&module), b"\0asm").unwrap();
    let result = super::super::wasm::compile(&images.inner, &module).await;
    (dir, result.map(drop).map_err(|error| error.to_string()))
}

#[tokio::test]
async fn the_compiler_is_called_by_its_contract_and_quoted() {
    let (dir, result) = compile_with(r#"printf '%s\n' "$@" > "$3/args""#).await;
    result.unwrap();
    let args = fs::read_to_string(dir.path().join("wasm/args")).unwrap();
    let args: Vec<&str> = args.lines().collect();
    let digest = Digest::of(b"\0asm");
    assert_eq!(
        (args[0], args[1], args[3], args[4]),
        ("compile", "--cache", "--digest", &*digest.to_string())
    );
    assert!(args[5].ends_with(digest.hex()));
    let (_dir, result) = compile_with("echo imports x:y, which is not offered >&2; exit 1").await;
    assert!(
        result
            .unwrap_err()
            .contains("does not run here: imports x:y, which is not offered")
    );
    let (_dir, result) = compile_with("head -c 100000 /dev/zero >&2; exit 3").await;
    assert!(result.unwrap_err().len() < 10_000);
}
