//! Manifest files: which files, which documents, at which line. Refuses to know what the objects mean.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use kube::core::{DynamicObject, GroupVersionKind};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_yaml::{Options, Spanned};

/// Names the images a folder's manifests use; not a manifest itself.
pub const IMAGES_FILE: &str = "images.yaml";

/// A manifest larger than this is a mistake: an API server takes objects of at most 3 MiB, and etcd's are 1.5.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// One object of a manifest, and where it stands.
#[derive(Clone, Debug)]
pub struct Document {
    pub object: DynamicObject,
    pub kind: GroupVersionKind,
    pub file: PathBuf,
    /// 1-based line of the document's first node.
    pub line: u64,
}

impl Document {
    /// `file:line`, for messages.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

/// The files that the command line names: a file itself, or a directory's manifests by name.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let about =
            fs::metadata(path).with_context(|| format!("looking for the manifest {}", path.display()))?;
        match about.is_dir() {
            true => files.extend(files_in(path)?),
            false => files.push(path.clone()),
        }
    }
    Ok(files)
}

fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))? {
        let path = entry
            .with_context(|| format!("listing {}", dir.display()))?
            .path();
        let manifest = matches!(
            path.extension().and_then(|end| end.to_str()),
            Some("yaml" | "yml" | "json")
        );
        if manifest && path.is_file() && path.file_name().is_some_and(|name| name != IMAGES_FILE) {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("{} holds no .yaml, .yml or .json file to apply", dir.display());
    }
    files.sort();
    Ok(files)
}

/// Every object in these files, in order; lists are taken apart. The first mistake ends it, with file, line and column.
pub fn read(files: &[PathBuf]) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for file in files {
        let text = read_text(file)?;
        let values: Vec<Spanned<Value>> = parse(&text, file)?;
        for value in values {
            let line = value.referenced.line();
            collect(value.value, file, line, &mut documents)?;
        }
    }
    Ok(documents)
}

/// One YAML (or JSON) file as `T`.
pub fn read_one<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let text = read_text(file)?;
    serde_yaml::from_str_with_options(&text, options()).map_err(|why| unreadable(file, &why))
}

fn read_text(file: &Path) -> Result<String> {
    let size = fs::metadata(file)
        .with_context(|| format!("looking for {}", file.display()))?
        .len();
    if size > MAX_FILE_BYTES {
        bail!(
            "{} has {size} bytes; a manifest has at most {MAX_FILE_BYTES}",
            file.display()
        );
    }
    fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

fn parse(text: &str, file: &Path) -> Result<Vec<Spanned<Value>>> {
    serde_yaml::from_multiple_with_options(text, options()).map_err(|why| unreadable(file, &why))
}

fn unreadable(file: &Path, why: &serde_yaml::Error) -> anyhow::Error {
    let place = why
        .location()
        .map(|at| format!(":{}:{}", at.line(), at.column()))
        .unwrap_or_default();
    anyhow!("{}{place}: not a valid manifest: {why}", file.display())
}

fn options() -> Options {
    let mut options = Options::default();
    options.legacy_octal_numbers = true; // `defaultMode: 0644` is octal in Kubernetes manifests
    options
}

fn collect(value: Value, file: &Path, line: u64, documents: &mut Vec<Document>) -> Result<()> {
    if value.is_null() {
        return Ok(()); // an empty document between two `---`
    }
    let place = format!("{}:{line}", file.display());
    let text = |name: &str| {
        value
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (version, kind) = (text("apiVersion"), text("kind"));
    for (name, found) in [("apiVersion", &version), ("kind", &kind)] {
        if found.is_empty() {
            bail!("{place}: an object needs `{name}`; this one has none");
        }
    }
    if version == "v1" && kind == "List" {
        let items = value
            .get("items")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        return items
            .into_iter()
            .try_for_each(|item| collect(item, file, line, documents));
    }
    let (group, version) = version.rsplit_once('/').unwrap_or(("", &version));
    let gvk = GroupVersionKind::gvk(group, version, &kind);
    let object: DynamicObject =
        serde_json::from_value(value).with_context(|| format!("{place}: reading the {kind}"))?;
    if object.metadata.name.is_none() && object.metadata.generate_name.is_none() {
        bail!("{place}: the {kind} has no `metadata.name`");
    }
    documents.push(Document {
        object,
        kind: gvk,
        file: file.to_owned(),
        line,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(text: &str) -> Result<Vec<Document>> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m.yaml");
        fs::write(&file, text).unwrap();
        read(&[file])
    }

    #[test]
    fn documents_keep_their_lines_and_lists_are_taken_apart() {
        let text = "# first\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n---\napiVersion: v1\nkind: List\nitems:\n- \
                    {apiVersion: apps/v1, kind: Deployment, metadata: {name: b}}\n";
        let found = documents(text).unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|d| (d.kind.group.as_str(), d.kind.kind.as_str(), d.line))
            .collect();
        assert_eq!(names, [("", "ConfigMap", 2), ("apps", "Deployment", 7)]);
    }

    #[test]
    fn mistakes_name_their_place() {
        for (text, words) in [
            ("apiVersion: v1\nkind: [Pod\n", "m.yaml:"),
            (
                "apiVersion: v1\nmetadata: {name: x}\n",
                "m.yaml:1: an object needs `kind`",
            ),
            ("apiVersion: v1\nkind: Pod\nkind: Pod\n", "m.yaml:3:"),
            ("apiVersion: v1\nkind: Pod\n", "no `metadata.name`"),
        ] {
            let why = documents(text).unwrap_err().to_string();
            assert!(why.contains(words), "{text:?}: {why}");
        }
    }
}
