//! A small map of texts that costs two allocations, whatever it holds: there are two of them for every cached object.
use std::collections::BTreeMap;

/// Where selectors look up labels and fields.
pub trait Lookup {
    fn find(&self, key: &str) -> Option<&str>;
}

impl Lookup for BTreeMap<String, String> {
    fn find(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

/// Keys and values in one text, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    text: Box<str>,
    /// Where each key and its value end.
    ends: Box<[(u32, u32)]>,
}

impl Texts {
    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut from = 0;
        self.ends.iter().map(move |(key, value)| {
            let (start, key, value) = (from, *key as usize, *value as usize);
            from = value;
            (&self.text[start..key], &self.text[key..value])
        })
    }
}

impl Lookup for Texts {
    fn find(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Texts {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let (mut text, mut ends) = (String::new(), Vec::new());
        let end = |text: &String| u32::try_from(text.len()).unwrap_or(u32::MAX);
        for (key, value) in pairs {
            text.push_str(key.as_ref());
            let key = end(&text);
            text.push_str(value.as_ref());
            ends.push((key, end(&text)));
        }
        Texts {
            text: text.into(),
            ends: ends.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_a_map_finds(map: BTreeMap<String, String>, other: String) {
            let texts: Texts = map.iter().collect();
            for key in map.keys().chain([&other]) {
                prop_assert_eq!(texts.find(key), map.find(key));
            }
        }
    }
}
