//! The items of a list by what they are known by: looking one up for each item of another list costs what the two are long, not one
//! times the other.
use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::view::View;

/// Items by the text of a member, empty where it is absent; of several the first, as a search from the front finds it.
pub(crate) fn by_text<'v>(
    items: impl IntoIterator<Item = &'v Value>,
    key: &str,
) -> HashMap<&'v str, &'v Value> {
    let mut index = HashMap::new();
    for item in items {
        index.entry(item.text(key)).or_insert(item);
    }
    index
}

/// The texts that a member has among items, the empty one where it is absent.
pub(crate) fn texts<'v>(items: impl IntoIterator<Item = &'v Value>, key: &str) -> HashSet<&'v str> {
    items.into_iter().map(|item| item.text(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn items() -> impl Strategy<Value = Vec<Value>> {
        let name = prop_oneof![
            "[ab]?".prop_map(|name| json!({"name": name})),
            Just(json!({})),
            Just(json!({"name": 1})),
            Just(json!("a")),
        ];
        prop::collection::vec(name, 0..6)
    }

    proptest! {
        #[test]
        fn an_index_finds_what_a_search_finds(items in items(), name in "[abc]?") {
            let searched = items.iter().position(|item| item.text("name") == name);
            let found = by_text(&items, "name").get(name.as_str()).copied();
            prop_assert_eq!(found.map(std::ptr::from_ref), searched.map(|at| std::ptr::from_ref(&items[at])));
            prop_assert_eq!(texts(&items, "name").contains(name.as_str()), searched.is_some());
        }
    }
}
