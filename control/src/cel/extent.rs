//! How large declared values can be: what the cost of an expression is estimated by.
use std::collections::BTreeMap;
use std::sync::Arc;

/// Of a declared value and its parts.
#[derive(Debug, Default, PartialEq)]
pub struct Extent {
    /// The most characters, bytes, elements or members. Upstream counts none of what is a number, or has fields.
    pub most: u64,
    /// By the names that expressions use: escaped, see [`super::escape`].
    pub fields: BTreeMap<String, Arc<Extent>>,
    /// Of a field by any other name.
    pub others: Option<Arc<Extent>>,
    /// Of the keys of a map.
    pub keys: Option<Arc<Extent>>,
    /// Of the elements of a list, or the values of a map.
    pub items: Option<Arc<Extent>>,
}

impl Extent {
    /// Of what has no parts.
    pub fn of(most: u64) -> Extent {
        Extent {
            most,
            ..Extent::default()
        }
    }
}
