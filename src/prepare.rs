//! The images that manifests name and a folder's `images.yaml` describes: builds them and hands them to the registry.
//! Like a compose file's `build`, it is a client-side convenience: the cluster sees only the pushed images.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use amphipod_node::images::{Endpoints, RegistryAuth};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use crate::image::cli::CLUSTER_REGISTRY;
use crate::image::{self, ConfigOverrides, PushEvent, PushProgress, PushRequest};
use crate::manifest::{self, Document, IMAGES_FILE};
use crate::progress::{Progress, Task};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImagesFile {
    images: Vec<Source>,
}

/// One image of `images.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    /// The reference that manifests use.
    name: String,
    /// What `amphipod image push` takes, relative to the file.
    path: PathBuf,
    /// A command (words, no shell) that makes or renews `path`, run in the file's folder.
    build: Option<Vec<String>>,
}

/// Builds and pushes every described image that one of the documents uses. `registry` is the embedded registry's URL.
pub async fn images(documents: &[Document], registry: &str, progress: &Progress) -> Result<()> {
    let used = used_images(documents);
    let folders: BTreeSet<_> = documents
        .iter()
        .filter_map(|document| document.file.parent())
        .collect();
    for folder in folders {
        for source in described(folder)?
            .into_iter()
            .filter(|source| used.contains(&source.name))
        {
            prepare(folder, &source, registry, progress)
                .await
                .with_context(|| {
                    format!(
                        "preparing the image {} of {}",
                        source.name,
                        folder.join(IMAGES_FILE).display()
                    )
                })?;
        }
    }
    Ok(())
}

fn described(folder: &Path) -> Result<Vec<Source>> {
    let file = folder.join(IMAGES_FILE);
    match file.exists() {
        true => Ok(manifest::read_one::<ImagesFile>(&file)?.images),
        false => Ok(Vec::new()),
    }
}

async fn prepare(folder: &Path, source: &Source, registry: &str, progress: &Progress) -> Result<()> {
    let mut task = progress.task(format!(
        "image {}",
        source.name.rsplit('/').next().unwrap_or(&source.name)
    ));
    if let Some(words) = &source.build {
        task.update("building");
        build(folder, words).await?;
    }
    task.update("pushing");
    let task = Arc::new(Mutex::new(task));
    let request = PushRequest {
        path: folder.join(&source.path),
        reference: source.name.clone(),
        endpoints: Endpoints {
            mirrors: [(CLUSTER_REGISTRY.to_owned(), registry.to_owned())].into(),
            ..Endpoints::default()
        },
        auth: RegistryAuth::Anonymous,
        config: ConfigOverrides::default(),
        progress: show(task.clone()),
    };
    let (_, digest) = image::push(request).await?;
    if let Some(task) = Arc::into_inner(task).and_then(|task| task.into_inner().ok()) {
        task.done(&digest.to_string());
    }
    Ok(())
}

/// Push events as bytes on the task's bar.
fn show(task: Arc<Mutex<Task>>) -> PushProgress {
    let (all, done) = (AtomicU64::new(0), AtomicU64::new(0));
    Arc::new(move |event| {
        match event {
            PushEvent::Prepared { total_bytes, .. } => all.store(total_bytes, Ordering::Relaxed),
            PushEvent::Skipped { bytes } | PushEvent::Sent { bytes } => {
                done.fetch_add(bytes, Ordering::Relaxed);
            }
        }
        if let Ok(task) = task.lock() {
            task.bytes(done.load(Ordering::Relaxed), all.load(Ordering::Relaxed));
        }
    })
}

async fn build(folder: &Path, words: &[String]) -> Result<()> {
    let Some((program, arguments)) = words.split_first() else {
        bail!("`build` is empty")
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    if !folder.as_os_str().is_empty() {
        command.current_dir(folder);
    }
    let output = command
        .output()
        .await
        .with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        bail!(
            "`{}` ended with {}:\n{}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(())
}

/// Every `image:` in the documents, wherever a Pod template stands.
fn used_images(documents: &[Document]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for document in documents {
        collect(&document.object.data, &mut found);
    }
    found
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(image)) = fields.get("image") {
                found.insert(image.clone());
            }
            fields.values().for_each(|value| collect(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn images_are_found_in_any_template() {
        let mut found = BTreeSet::new();
        let pod = json!({"spec": {"template": {"spec": {"initContainers": [{"image": "a"}], "containers": [{"image": "b"}]}}}});
        collect(&pod, &mut found);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    }
}
