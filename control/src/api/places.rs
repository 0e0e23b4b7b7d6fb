//! Where the fields of a JSON body stand, by which what is wrong with them is told in upstream's order.
use crate::kinds::FieldIssue;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// The issues in the order in which a reader of this JSON body meets them, as upstream tells them. A field that comes
/// twice is met when it comes again.
pub fn in_document_order(body: &[u8], mut issues: Vec<FieldIssue>) -> Vec<FieldIssue> {
    let places = RefCell::new(Places::default());
    let seed = Walking {
        path: String::new(),
        places: &places,
    };
    let mut reader = serde_json::Deserializer::from_slice(body);
    // The body was read before: that it cannot be read is told elsewhere.
    let _ = seed.deserialize(&mut reader);
    let places = places.into_inner();
    issues.sort_by_key(|issue| places.of(issue));
    issues
}

/// Where fields stand in a document, counted from its beginning.
#[derive(Default)]
struct Places {
    next: usize,
    first: HashMap<String, usize>,
    again: HashMap<String, usize>,
}

impl Places {
    fn note(&mut self, path: String) {
        let place = self.next;
        self.next += 1;
        match self.first.entry(path) {
            Entry::Vacant(entry) => {
                entry.insert(place);
            }
            Entry::Occupied(entry) => {
                self.again.entry(entry.key().clone()).or_insert(place);
            }
        }
    }

    fn of(&self, issue: &FieldIssue) -> usize {
        let place = match issue {
            FieldIssue::Unknown(path) => self.first.get(path),
            FieldIssue::Duplicate(path) => self.again.get(path),
            FieldIssue::Repeated { .. } | FieldIssue::OfJsonPatch(_) => None,
        };
        place.copied().unwrap_or(self.next)
    }
}

/// Reads on without keeping anything but where fields stand.
struct Walking<'a> {
    path: String,
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
            let path = format!("{}[{i}]", self.path);
            let places = self.places;
            if seq.next_element_seed(Walking { path, places })?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let path = below(&self.path, &key);
            self.places.borrow_mut().note(path.clone());
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
