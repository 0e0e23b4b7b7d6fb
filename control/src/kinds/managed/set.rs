//! Sets of fields: the tree that `fieldsV1` holds, and its algebra.
//!
//! A set is made of paths; that a path is in it says nothing about the paths above or below.
use super::element::Element;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Paths deeper than this are refused when read; no schema is as deep, and each level costs stack.
const DEPTH: usize = 128;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    nodes: BTreeMap<Element, Node>,
}

/// What a set holds at an element: the element itself, paths below it, or both. Never neither.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    pub member: bool,
    pub below: Set,
}

pub type Path = Vec<Element>;

impl Node {
    pub fn leaf() -> Node {
        Node {
            member: true,
            below: Set::default(),
        }
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds what is at an element.
    pub fn put(&mut self, element: Element, node: Node) {
        if node.is_empty() {
            return;
        }
        match self.nodes.get_mut(&element) {
            Some(mine) => {
                mine.member |= node.member;
                mine.below.add(node.below);
            }
            None => drop(self.nodes.insert(element, node)),
        }
    }

    pub fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let node = self.nodes.entry(first.clone()).or_default();
        match rest {
            [] => node.member = true,
            rest => node.below.insert(rest),
        }
    }

    pub fn get(&self, element: &Element) -> Option<&Node> {
        self.nodes.get(element)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Element, &Node)> {
        self.nodes.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Element, &mut Node)> {
        self.nodes.iter_mut()
    }

    pub fn has(&self, path: &[Element]) -> bool {
        let Some((first, rest)) = path.split_first() else {
            return false;
        };
        self.nodes.get(first).is_some_and(|node| match rest {
            [] => node.member,
            rest => node.below.has(rest),
        })
    }

    /// Union.
    pub fn add(&mut self, other: Set) {
        if self.nodes.is_empty() {
            self.nodes = other.nodes;
            return;
        }
        for (element, node) in other.nodes {
            self.put(element, node);
        }
    }

    /// Difference, path by path.
    pub fn subtract(&mut self, other: &Set) {
        for (element, theirs) in &other.nodes {
            let Some(mine) = self.nodes.get_mut(element) else {
                continue;
            };
            mine.member &= !theirs.member;
            mine.below.subtract(&theirs.below);
            if mine.is_empty() {
                self.nodes.remove(element);
            }
        }
    }

    /// Difference that takes, with a path, everything below it.
    pub fn subtract_whole(&mut self, other: &Set) {
        for (element, theirs) in &other.nodes {
            let Some(mine) = self.nodes.get_mut(element) else {
                continue;
            };
            if theirs.member {
                self.nodes.remove(element);
                continue;
            }
            mine.below.subtract_whole(&theirs.below);
            if mine.is_empty() {
                self.nodes.remove(element);
            }
        }
    }

    /// Intersection.
    pub fn common(&self, other: &Set) -> Set {
        let (few, many) = match self.nodes.len() <= other.nodes.len() {
            true => (self, other),
            false => (other, self),
        };
        let mut out = Set::default();
        for (element, a) in &few.nodes {
            let Some(b) = many.nodes.get(element) else {
                continue;
            };
            let node = Node {
                member: a.member && b.member,
                below: a.below.common(&b.below),
            };
            if !node.is_empty() {
                out.nodes.insert(element.clone(), node);
            }
        }
        out
    }

    /// Every path; those of a level before those below it.
    pub fn paths(&self) -> Vec<Path> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, prefix: &mut Path, out: &mut Vec<Path>) {
        let here = self.nodes.iter().filter(|(_, node)| node.member);
        out.extend(here.map(|(element, _)| {
            let mut path = prefix.clone();
            path.push(element.clone());
            path
        }));
        for (element, node) in &self.nodes {
            prefix.push(element.clone());
            node.below.collect(prefix, out);
            prefix.pop();
        }
    }

    /// Reads `fieldsV1`.
    pub fn parse(fields: &Value) -> Result<Set, String> {
        Set::parse_at(fields, DEPTH)
    }

    fn parse_at(fields: &Value, depth: usize) -> Result<Set, String> {
        let map = fields.as_object().ok_or("a field set must be an object")?;
        let mut set = Set::default();
        for (name, below) in map.iter().filter(|(name, _)| *name != ".") {
            let depth = depth.checked_sub(1).ok_or("a field set is too deep")?;
            let Some(element) = Element::parse(name)? else {
                continue;
            };
            let inner = below.as_object().ok_or("a field set must be an object")?;
            let node = Node {
                member: inner.is_empty() || inner.contains_key("."),
                below: Set::parse_at(below, depth)?,
            };
            set.put(element, node);
        }
        Ok(set)
    }

    /// The set as `fieldsV1`.
    pub fn encoded(&self) -> Value {
        let mut map = Map::new();
        for (element, node) in &self.nodes {
            let mut below = node.below.encoded();
            if let (Some(inner), true, false) = (below.as_object_mut(), node.member, node.below.is_empty()) {
                inner.insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(element.encoded(), below);
        }
        Value::Object(map)
    }
}

/// A path as messages show it.
pub fn shown(path: &[Element]) -> String {
    path.iter().map(ToString::to_string).collect()
}
