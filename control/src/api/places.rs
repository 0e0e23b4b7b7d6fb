//! Where the fields of a JSON body stand, by which what is wrong with them is told in upstream's order.
use crate::kinds::FieldIssue;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, DefaultHasher, Hasher};

/// The issues in the order in which a reader of this JSON body meets them, as upstream tells them. A field that comes
/// twice is met when it comes again.
pub fn in_document_order(body: &[u8], mut issues: Vec<FieldIssue>) -> Vec<FieldIssue> {
    let hashes = RandomState::new();
    let places = RefCell::new(Places::of(&issues, &hashes));
    let seed = Walking {
        path: Path::root(&hashes),
        places: &places,
    };
    let mut reader = serde_json::Deserializer::from_slice(body);
    // The body was read before: that it cannot be read is told elsewhere.
    let _ = seed.deserialize(&mut reader);
    let places = places.into_inner();
    issues.sort_by_cached_key(|issue| places.place(issue, &hashes));
    issues
}

/// A path as far as it has been walked, of which only the hash is kept: a body has as many paths as fields, and the path of each may
/// be as long as the body.
#[derive(Clone)]
struct Path {
    text: DefaultHasher,
    is_root: bool,
}

impl Path {
    fn root(hashes: &RandomState) -> Path {
        Path {
            text: hashes.build_hasher(),
            is_root: true,
        }
    }

    fn and(&self, parts: [&str; 3]) -> Path {
        let mut text = self.text.clone();
        parts.iter().for_each(|part| text.write(part.as_bytes()));
        Path { text, is_root: false }
    }

    fn member(&self, key: &str) -> Path {
        self.and([if self.is_root { "" } else { "." }, key, ""])
    }

    fn item(&self, at: usize) -> Path {
        self.and(["[", &at.to_string(), "]"])
    }

    fn hash(&self) -> u64 {
        self.text.finish()
    }
}

/// Where fields that something is told of stand in a document, counted from its beginning.
#[derive(Default)]
struct Places {
    next: usize,
    wanted: HashMap<u64, Place>,
}

/// Where a field stands first, and where again.
#[derive(Default)]
struct Place {
    first: Option<usize>,
    again: Option<usize>,
}

impl Places {
    fn of(issues: &[FieldIssue], hashes: &RandomState) -> Places {
        let wanted = issues.iter().filter_map(path_of);
        let wanted = wanted.map(|path| (hash_of(path, hashes), Place::default()));
        Places {
            next: 0,
            wanted: wanted.collect(),
        }
    }

    fn note(&mut self, path: &Path) {
        let here = self.next;
        self.next += 1;
        if let Some(place) = self.wanted.get_mut(&path.hash()) {
            match place.first {
                None => place.first = Some(here),
                Some(_) => place.again = place.again.or(Some(here)),
            }
        }
    }

    fn place(&self, issue: &FieldIssue, hashes: &RandomState) -> usize {
        let place = path_of(issue).and_then(|path| self.wanted.get(&hash_of(path, hashes)));
        let at = place.and_then(|place| match issue {
            FieldIssue::Duplicate(_) => place.again,
            _ => place.first,
        });
        at.unwrap_or(self.next)
    }
}

fn path_of(issue: &FieldIssue) -> Option<&str> {
    match issue {
        FieldIssue::Unknown(path) | FieldIssue::Duplicate(path) => Some(path),
        FieldIssue::Repeated { .. } | FieldIssue::OfJsonPatch(_) => None,
    }
}

fn hash_of(path: &str, hashes: &RandomState) -> u64 {
    Path::root(hashes).member(path).hash()
}

/// Reads on without keeping anything but where fields stand.
struct Walking<'a> {
    path: Path,
    places: &'a RefCell<Places>,
}

impl<'de> DeserializeSeed<'de> for Walking<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walking<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        for i in 0.. {
            let path = self.path.item(i);
            let places = self.places;
            if seq.next_element_seed(Walking { path, places })?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let path = self.path.member(&key);
            self.places.borrow_mut().note(&path);
            let places = self.places;
            map.next_value_seed(Walking { path, places })?;
        }
        Ok(())
    }
}

/// The path of a field of what is at a path.
pub fn below(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issues_are_told_as_a_reader_meets_them() {
        let body = br#"{"z":1,"spec":{"b":1,"l":[{"y":1}],"b":2},"a":1}"#;
        let unknown = |path: &str| FieldIssue::Unknown(path.into());
        let twice = FieldIssue::Duplicate("spec.b".into());
        let found = vec![twice.clone(), unknown("a"), unknown("spec.l[0].y"), unknown("z")];
        let wanted = [unknown("z"), unknown("spec.l[0].y"), twice, unknown("a")];
        assert_eq!(in_document_order(body, found), wanted);
    }
}
