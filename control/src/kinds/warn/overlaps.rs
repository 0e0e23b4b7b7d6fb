//! Files of one volume that lie in each other's place.
use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::ops::Bound;

use serde_json::Value;

use super::TOLD;
use crate::kinds::view::View;

/// So many files are compared with one by one.
const FEW: usize = 8;

#[derive(PartialEq, Eq, Hash)]
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
    let mut told = Vec::new();
    for volume in volumes {
        told.extend(of_volume(volume));
        if told.len() > TOLD {
            break;
        }
    }
    told
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
    let (mut told, mut seen) = (Vec::new(), Seen::default());
    for file in &files {
        told.extend(seen.add(file).into_iter().map(|other| {
            let both = format!("{} with {}", file.shown(), other.shown());
            format!("volume \"{volume}\" ({what}): overlapping paths: {both}")
        }));
        if told.len() > TOLD {
            break;
        }
    }
    told
}

/// The files before one, each once, by their paths. What is found is told, so that finding costs what is told and how long a path is.
#[derive(Default)]
struct Seen<'a> {
    files: Vec<&'a File>,
    /// How many files there were when each came last: who comes again is told of the others only.
    compared: HashMap<&'a File, usize>,
    of_path: BTreeMap<&'a str, Vec<usize>>,
    of_hash: HashMap<u64, Vec<usize>>,
    hashes: RandomState,
}

impl<'a> Seen<'a> {
    /// Adds a file. Answers with those that lie in its place, in their order, but for those that it was told of before.
    fn add(&mut self, file: &'a File) -> Vec<&'a File> {
        if file.path.is_empty() {
            return Vec::new();
        }
        let count = self.files.len();
        let before = self.compared.insert(file, count);
        let from = before.unwrap_or(0);
        let near = match count - from <= FEW {
            true => (from..count).collect(),
            false => self.near(file, from),
        };
        let files = near.into_iter().map(|at| self.files[at]);
        let found = files
            .filter(|other| other.covers(file) || file.covers(other))
            .collect();
        if before.is_none() {
            self.of_path.entry(&file.path).or_default().push(count);
            let hash = self.prefixes(&file.path).last();
            self.of_hash
                .entry(hash.unwrap_or_default())
                .or_default()
                .push(count);
            self.files.push(file);
        }
        found
    }

    /// Those above, at and below a file, in their order, from one on.
    fn near(&self, file: &File, from: usize) -> Vec<usize> {
        let inside = format!("{}/", file.path);
        let below = (Bound::Included(inside.as_str()), Bound::Unbounded);
        let below = self.of_path.range::<str, _>(below);
        let below = below.take_while(|(path, _)| path.starts_with(&inside));
        let above = self.prefixes(&file.path);
        let above = above.filter_map(|hash| self.of_hash.get(&hash));
        let all = below.map(|(_, at)| at).chain(above).flatten().copied();
        let mut near: Vec<usize> = all.filter(|at| *at >= from).collect();
        near.sort_unstable();
        near
    }

    /// The hash of each directory above a path, and of the path itself last.
    fn prefixes(&self, path: &str) -> impl Iterator<Item = u64> {
        let mut hasher = self.hashes.build_hasher();
        path.split('/').map(move |part| {
            hasher.write(part.as_bytes());
            hasher.write_u8(b'/');
            hasher.finish()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::HashSet;

    fn of(paths: &[String]) -> Vec<String> {
        let items: Vec<Value> = paths.iter().map(|path| json!({"path": path})).collect();
        of_volumes(&[json!({"name": "v", "configMap": {"name": "m", "items": items}})])
    }

    /// What comparing each with each finds, each once.
    fn one_by_one(paths: &[String]) -> Vec<String> {
        let items: Vec<Value> = paths.iter().map(|path| json!({"path": path})).collect();
        let files = files(&items, "");
        let (mut told, mut seen) = (Vec::new(), HashSet::new());
        for (i, file) in files.iter().enumerate() {
            for other in files[..i].iter().filter(|o| o.covers(file) || file.covers(o)) {
                let both = format!("{} with {}", file.shown(), other.shown());
                if seen.insert(both.clone()) {
                    told.push(format!(
                        "volume \"v\" (ConfigMap \"m\"): overlapping paths: {both}"
                    ));
                }
            }
        }
        told
    }

    proptest::proptest! {
        #[test]
        fn an_index_finds_what_comparing_each_with_each_does(
            paths in proptest::collection::vec("[ab-]?/{0,2}[ab]?/{0,2}[ab]?", 0..40)
        ) {
            proptest::prop_assert_eq!(of(&paths), one_by_one(&paths));
        }
    }

    #[test]
    fn files_that_all_overlap_are_told_to_an_end() {
        let same: fn(usize) -> String = |_| "a".to_owned();
        for path in [same, |i| format!("a{}", "/b".repeat(i % 200))] {
            let paths: Vec<String> = (0..20_000).map(path).collect();
            let told = of(&paths).len();
            assert!(told < TOLD * 2, "{told}");
        }
    }

    #[test]
    fn files_are_compared_with_those_near_them_only() {
        let items: Vec<Value> = (0..1000).map(|i| json!({"path": format!("a{i}/b")})).collect();
        let (files, mut seen) = (files(&items, ""), Seen::default());
        for file in &files {
            assert_eq!(seen.near(file, 0), Vec::<usize>::new());
            assert!(seen.add(file).is_empty());
        }
        assert_eq!(seen.near(&files[7], 0), [7]);
    }
}
