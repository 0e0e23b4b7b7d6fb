//! One step of a path into an object, as `fieldsV1` writes it.
use crate::kinds::numbers;
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::fmt;

/// A field, an item of a list by its keys or its value, or an item by its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    Field(String),
    /// Sorted by name.
    Key(Vec<(String, Scalar)>),
    Value(Scalar),
    Index(i64),
}

/// A JSON scalar with a total order.
#[derive(Debug, Clone)]
pub struct Scalar(pub Value);

#[cfg(test)]
thread_local! {
    /// How many scalars were compared: what finding items of lists costs.
    pub static COMPARED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Element {
    pub fn field(name: &str) -> Element {
        Element::Field(name.to_owned())
    }

    /// Reads a member name of `fieldsV1`. None for a type of element that is not known, which readers pass over.
    pub fn parse(text: &str) -> Result<Option<Element>, String> {
        let Some((head, rest)) = text.split_once(':') else {
            return Err(format!("missing colon in field path element {text:?}"));
        };
        let json = || serde_json::from_str::<Value>(rest).map_err(|e| e.to_string());
        Ok(match head {
            "f" => Some(Element::Field(rest.to_owned())),
            "v" => Some(Element::Value(Scalar(json()?))),
            "i" => Some(Element::Index(
                rest.parse().map_err(|_| format!("bad index {rest:?}"))?,
            )),
            "k" => match json()? {
                Value::Object(map) => Some(Element::Key(keys(map))),
                _ => return Err(format!("keys of {text:?} are not an object")),
            },
            _ => None,
        })
    }

    /// The member name in `fieldsV1`.
    pub fn encoded(&self) -> String {
        match self {
            Element::Field(name) => ["f:", name].concat(),
            Element::Value(value) => format!("v:{}", value.written()),
            Element::Index(index) => format!("i:{index}"),
            Element::Key(keys) => {
                let map: Map<String, Value> = keys.iter().map(|(k, v)| (k.clone(), v.written())).collect();
                // Values with text keys always serialise.
                ["k:", &serde_json::to_string(&map).unwrap_or_default()].concat()
            }
        }
    }
}

fn keys(map: Map<String, Value>) -> Vec<(String, Scalar)> {
    let mut keys: Vec<_> = map.into_iter().map(|(k, v)| (k, Scalar(v))).collect();
    keys.sort();
    keys
}

/// As error messages show a path: `.spec.ports[port=80,protocol="TCP"].name`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Field(name) => write!(f, ".{name}"),
            Element::Value(value) => write!(f, "[={}]", value.0),
            Element::Index(index) => write!(f, "[{index}]"),
            Element::Key(keys) => {
                let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={}", v.0)).collect();
                write!(f, "[{}]", keys.join(","))
            }
        }
    }
}

impl Scalar {
    /// As the object has it once it is stored.
    fn written(&self) -> Value {
        let mut value = self.0.clone();
        numbers::settle(&mut value);
        value
    }

    fn rank(&self) -> u8 {
        match self.0 {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
}

impl Ord for Scalar {
    fn cmp(&self, other: &Self) -> Ordering {
        #[cfg(test)]
        COMPARED.with(|compared| compared.set(compared.get() + 1));
        match (&self.0, &other.0) {
            (Value::String(a), Value::String(b)) => a.cmp(b),
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a
                    .as_f64()
                    .unwrap_or_default()
                    .total_cmp(&b.as_f64().unwrap_or_default()),
            },
            (a, b) => self
                .rank()
                .cmp(&other.rank())
                .then_with(|| a.to_string().cmp(&b.to_string())),
        }
    }
}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scalar {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_names_the_same_item_however_it_is_written() {
        for (written, named) in [
            ("k:{\"port\":80.0}", "k:{\"port\":80}"),
            ("v:1e3", "v:1000"),
            ("v:1.5", "v:1.5"),
        ] {
            let element = Element::parse(written).unwrap().unwrap();
            assert_eq!(element.encoded(), named);
        }
    }

    #[test]
    fn elements_read_as_they_are_written() {
        for text in [
            "f:spec",
            "f:a:b",
            "v:\"x.io/a\"",
            "v:3",
            "i:2",
            "k:{\"port\":80,\"protocol\":\"TCP\"}",
        ] {
            let element = Element::parse(text).unwrap().unwrap();
            assert_eq!(element.encoded(), text);
        }
        assert!(Element::parse("spec").is_err());
        assert!(Element::parse("k:[]").is_err());
        assert_eq!(Element::parse("z:later").unwrap(), None);
    }

    #[test]
    fn paths_are_shown_as_upstreams() {
        for (text, shown) in [
            ("f:spec", ".spec"),
            (
                "k:{\"port\":80,\"protocol\":\"TCP\"}",
                "[port=80,protocol=\"TCP\"]",
            ),
            ("v:\"a\"", "[=\"a\"]"),
        ] {
            assert_eq!(Element::parse(text).unwrap().unwrap().to_string(), shown);
        }
    }
}
