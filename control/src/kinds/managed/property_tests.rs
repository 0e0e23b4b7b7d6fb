//! The laws of field sets, and of apply: nothing that another owns is ever lost.
use super::element::Element;
use super::set::{Path, Set};
use super::{Convert, Writer, apply};
use crate::kinds::{Kind, Registry};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn path() -> impl Strategy<Value = Path> {
    let element = prop_oneof![
        "[abc]".prop_map(Element::Field),
        (0i64..3).prop_map(Element::Index),
        (0i64..3).prop_map(|n| Element::parse(&format!("v:{n}")).unwrap().unwrap()),
        (0i64..3).prop_map(|n| Element::parse(&format!("k:{{\"k\":{n}}}")).unwrap().unwrap()),
    ];
    prop::collection::vec(element, 1..4)
}

fn paths() -> impl Strategy<Value = BTreeSet<Path>> {
    prop::collection::btree_set(path(), 0..12)
}

fn set(paths: &BTreeSet<Path>) -> Set {
    let mut set = Set::default();
    paths.iter().for_each(|path| set.insert(path));
    set
}

fn model(set: &Set) -> BTreeSet<Path> {
    let mut paths = BTreeSet::new();
    set.each_path(&mut |path| {
        paths.insert(path.to_vec());
    });
    assert_eq!(set.len(), paths.len());
    paths
}

proptest! {
    #[test]
    fn sets_are_sets_of_paths(a in paths(), b in paths()) {
        let mut union = set(&a);
        union.add(set(&b));
        prop_assert_eq!(model(&union), a.union(&b).cloned().collect());
        let mut difference = set(&a);
        difference.subtract(&set(&b));
        prop_assert_eq!(model(&difference), a.difference(&b).cloned().collect());
        prop_assert_eq!(model(&set(&a).common(&set(&b))), a.intersection(&b).cloned().collect());
        let mut whole = set(&a);
        whole.subtract_whole(&set(&b));
        let under = |path: &Path| b.iter().any(|other| path.starts_with(other));
        prop_assert_eq!(model(&whole), a.iter().filter(|p| !under(p)).cloned().collect());
    }

    #[test]
    fn a_set_reads_as_it_is_written(a in paths()) {
        prop_assert_eq!(Set::parse(&set(&a).encoded()).unwrap(), set(&a));
    }
}

fn config_maps() -> Arc<Kind> {
    Registry::builtin()
        .resource("", "v1", "configmaps")
        .unwrap()
        .clone()
}

fn apply_data(old: Option<&Value>, who: &str, data: &BTreeMap<String, String>) -> Value {
    let kind = config_maps();
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data});
    let same = |value: &Value, _: &str| Some((config_maps(), value.clone()));
    let convert: &Convert<'_> = &same;
    let writer = Writer {
        name: who,
        subresource: "",
        now: "2026-01-01T00:00:00Z",
    };
    let mut new = apply(&kind, writer, true, old, &config, convert).unwrap();
    kind.prune(&mut new).unwrap();
    kind.normalise(&mut new);
    new
}

fn data() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[abcd]", "[xy]", 0..4)
}

proptest! {
    /// After forced applies by several managers, each field is there as who applied it last, and still applies it,
    /// wants it; what nobody applies any more is gone.
    #[test]
    fn applied_fields_are_kept_until_let_go(steps in prop::collection::vec((0usize..3, data()), 1..8)) {
        let mut object = None;
        let mut want: BTreeMap<String, String> = BTreeMap::new();
        let mut owners: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for (who, data) in &steps {
            object = Some(apply_data(object.as_ref(), &format!("m{who}"), data));
            for (key, set) in &mut owners {
                if !data.contains_key(key) {
                    set.remove(who);
                }
            }
            for (key, value) in data {
                let same = want.insert(key.clone(), value.clone()).as_ref() == Some(value);
                let set = owners.entry(key.clone()).or_default();
                if !same {
                    set.clear();
                }
                set.insert(*who);
            }
            owners.retain(|_, set| !set.is_empty());
            want.retain(|key, _| owners.contains_key(key));
        }
        let found = object.map_or(Value::Null, |o| o["data"].clone());
        let found = found.as_object().cloned().unwrap_or_else(Map::new);
        let want: Map<String, Value> = want.into_iter().map(|(k, v)| (k, v.into())).collect();
        prop_assert_eq!(found, want);
    }

    #[test]
    fn applying_twice_changes_nothing(first in data(), then in data()) {
        let object = apply_data(None, "one", &first);
        let object = apply_data(Some(&object), "two", &then);
        prop_assert_eq!(apply_data(Some(&object), "two", &then), object);
    }
}
