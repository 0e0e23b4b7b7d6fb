//! Files of one volume that lie in each other's place.
use serde_json::Value;

use crate::kinds::view::View;

#[derive(PartialEq)]
struct File {
    path: String,
    source: String,
}

impl File {
    fn shown(&self) -> String {
        match self.source.as_str() {
            "" => format!("\"{}\"", self.path),
            source => format!("\"{}\" ({source})", self.path),
        }
    }

    fn covers(&self, other: &File) -> bool {
        let rest = other.path.strip_prefix(&self.path);
        !self.path.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn files(items: &[Value], source: &str) -> Vec<File> {
    let file = |item: &Value| File {
        path: item.text("path").trim_end_matches('/').to_owned(),
        source: source.to_owned(),
    };
    items.iter().map(file).collect()
}

pub(super) fn of_volumes(volumes: &[Value]) -> Vec<String> {
    volumes.iter().flat_map(of_volume).collect()
}

fn of_volume(volume: &Value) -> Vec<String> {
    let name = volume.text("name");
    let kinds = [
        ("configMap", "ConfigMap", "name"),
        ("secret", "Secret", "secretName"),
    ];
    let mut told = Vec::new();
    for (key, shown, of) in kinds {
        let source = volume.at(key);
        if source.has("items") {
            let what = format!("{shown} \"{}\"", source.text(of));
            told.extend(overlapping(name, &what, files(source.list("items"), "")));
        }
    }
    let items = volume.list("downwardAPI.items");
    told.extend(overlapping(name, "DownwardAPI", files(items, "")));
    for source in volume.list("projected.sources") {
        if source.as_object().is_none_or(serde_json::Map::is_empty) {
            told.push(format!("volume \"{name}\" (Projected) has no sources provided"));
        }
    }
    let projected = volume.list("projected.sources").iter().flat_map(projected);
    told.extend(overlapping(name, "Projected", projected.collect()));
    told
}

fn projected(source: &Value) -> Vec<File> {
    for (key, shown) in [("configMap", "ConfigMap"), ("secret", "Secret")] {
        let part = source.at(key);
        if part.has("items") {
            return files(part.list("items"), &format!("{shown} \"{}\"", part.text("name")));
        }
    }
    match source.at("serviceAccountToken") {
        Value::Null => files(source.list("downwardAPI.items"), "DownwardAPI"),
        token => files(std::slice::from_ref(token), "ServiceAccountToken"),
    }
}

fn overlapping(volume: &str, what: &str, files: Vec<File>) -> Vec<String> {
    let mut told = Vec::new();
    for (i, file) in files.iter().enumerate() {
        let others = files[..i]
            .iter()
            .filter(|other| other.covers(file) || file.covers(other));
        told.extend(others.map(|other| {
            let both = format!("{} with {}", file.shown(), other.shown());
            format!("volume \"{volume}\" ({what}): overlapping paths: {both}")
        }));
    }
    told
}
