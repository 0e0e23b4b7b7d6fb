//! Sets of fields: the tree that `fieldsV1` holds, and its algebra.
//!
//! A set is made of paths; that a path is in it says nothing about the paths above or below.
use super::element::Element;
use serde_json::{Map, Value};

/// Paths deeper than this are refused when read; no schema is as deep, and each level costs stack.
const DEPTH: usize = 128;

/// Sorted, every element once: sets are made from what is sorted already, at the end, and most are small.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    nodes: Vec<(Element, Node)>,
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

    fn add(&mut self, other: Node) {
        self.member |= other.member;
        self.below.add(other.below);
    }
}

/// Of elements in any order, each any number of times.
impl FromIterator<(Element, Node)> for Set {
    fn from_iter<I: IntoIterator<Item = (Element, Node)>>(nodes: I) -> Self {
        let mut nodes: Vec<_> = nodes.into_iter().filter(|(_, node)| !node.is_empty()).collect();
        nodes.sort_by(|(a, _), (b, _)| a.cmp(b));
        nodes.dedup_by(|(element, node), (before, kept)| {
            let same = element == before;
            if same {
                kept.add(std::mem::take(node));
            }
            same
        });
        Set { nodes }
    }
}

impl Set {
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Where an element is, or would be.
    fn find(&self, element: &Element) -> Result<usize, usize> {
        match self.nodes.last() {
            Some((last, _)) if last < element => Err(self.nodes.len()),
            _ => self.nodes.binary_search_by(|(at, _)| at.cmp(element)),
        }
    }

    /// Adds what is at an element. Whoever has many, in no order, collects them instead.
    pub fn put(&mut self, element: Element, node: Node) {
        if node.is_empty() {
            return;
        }
        match self.find(&element) {
            Ok(at) => self.nodes[at].1.add(node),
            Err(at) => self.nodes.insert(at, (element, node)),
        }
    }

    pub fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let at = self.find(first).unwrap_or_else(|at| {
            self.nodes.insert(at, (first.clone(), Node::default()));
            at
        });
        let node = &mut self.nodes[at].1;
        match rest {
            [] => node.member = true,
            rest => node.below.insert(rest),
        }
    }

    pub fn get(&self, element: &Element) -> Option<&Node> {
        self.find(element).ok().map(|at| &self.nodes[at].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Element, &Node)> {
        self.nodes.iter().map(|(element, node)| (element, node))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Element, &mut Node)> {
        self.nodes.iter_mut().map(|(element, node)| (&*element, node))
    }

    pub fn has(&self, path: &[Element]) -> bool {
        let Some((first, rest)) = path.split_first() else {
            return false;
        };
        self.get(first).is_some_and(|node| match rest {
            [] => node.member,
            rest => node.below.has(rest),
        })
    }

    /// Union.
    pub fn add(&mut self, other: Set) {
        match (self.nodes.last(), other.nodes.first()) {
            (_, None) => {}
            (None, _) => *self = other,
            (Some((last, _)), Some((first, _))) if last < first => self.nodes.extend(other.nodes),
            _ => {
                *self = std::mem::take(self)
                    .nodes
                    .into_iter()
                    .chain(other.nodes)
                    .collect()
            }
        }
    }

    /// Looks at every element that is in both; what is said not to stay, or is left empty, goes.
    fn sift(&mut self, other: &Set, stays: impl Fn(&mut Node, &Node) -> bool) {
        let mut theirs = other.nodes.iter().peekable();
        self.nodes.retain_mut(|(element, mine)| {
            while theirs.next_if(|(at, _)| at < element).is_some() {}
            match theirs.peek() {
                Some((at, theirs)) if at == element => stays(mine, theirs) && !mine.is_empty(),
                _ => true,
            }
        });
    }

    /// Difference, path by path.
    pub fn subtract(&mut self, other: &Set) {
        self.sift(other, |mine, theirs| {
            mine.member &= !theirs.member;
            mine.below.subtract(&theirs.below);
            true
        });
    }

    /// Difference that takes, with a path, everything below it.
    pub fn subtract_whole(&mut self, other: &Set) {
        self.sift(other, |mine, theirs| {
            if !theirs.member {
                mine.below.subtract_whole(&theirs.below);
            }
            !theirs.member
        });
    }

    /// Intersection.
    pub fn common(&self, other: &Set) -> Set {
        let mut theirs = other.nodes.iter().peekable();
        let mut nodes = Vec::new();
        for (element, a) in &self.nodes {
            while theirs.next_if(|(at, _)| at < element).is_some() {}
            let Some((_, b)) = theirs.peek().filter(|(at, _)| at == element) else {
                continue;
            };
            let node = Node {
                member: a.member && b.member,
                below: a.below.common(&b.below),
            };
            if !node.is_empty() {
                nodes.push((element.clone(), node));
            }
        }
        Set { nodes }
    }

    /// How many paths there are.
    pub fn len(&self) -> usize {
        let of = |node: &Node| usize::from(node.member) + node.below.len();
        self.nodes.iter().map(|(_, node)| of(node)).sum()
    }

    /// Shows every path; those of a level before those below it.
    pub fn each_path(&self, show: &mut dyn FnMut(&[Element])) {
        self.show(&mut Vec::new(), show);
    }

    fn show(&self, prefix: &mut Path, show: &mut dyn FnMut(&[Element])) {
        for (element, _) in self.nodes.iter().filter(|(_, node)| node.member) {
            prefix.push(element.clone());
            show(prefix);
            prefix.pop();
        }
        for (element, node) in self.nodes.iter().filter(|(_, node)| !node.below.is_empty()) {
            prefix.push(element.clone());
            node.below.show(prefix, show);
            prefix.pop();
        }
    }

    /// Reads `fieldsV1`.
    pub fn parse(fields: &Value) -> Result<Set, String> {
        Set::parse_at(fields, DEPTH)
    }

    fn parse_at(fields: &Value, depth: usize) -> Result<Set, String> {
        let map = fields.as_object().ok_or("a field set must be an object")?;
        let mut nodes = Vec::with_capacity(map.len());
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
            nodes.push((element, node));
        }
        Ok(nodes.into_iter().collect())
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
