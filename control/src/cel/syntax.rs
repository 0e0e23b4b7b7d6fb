//! The tree of an expression. Macros stay what they are, so that each can be costed and run directly.
use std::collections::BTreeSet;
use std::sync::Arc;

/// An expression and where it begins.
#[derive(Debug)]
pub(super) struct Expr {
    pub at: usize,
    pub node: Node,
    /// One more than that of its highest part: how deep it is to go through it.
    pub height: u16,
}

#[derive(Debug)]
pub(super) enum Node {
    Literal(Literal),
    Name(String),
    /// `of.field`, or `of.?field`.
    Select {
        of: Box<Expr>,
        field: String,
        optional: bool,
    },
    /// `has(of.field)`.
    Has {
        of: Box<Expr>,
        field: String,
    },
    /// `of[index]`, or `of[?index]`.
    Index {
        of: Box<Expr>,
        index: Box<Expr>,
        optional: bool,
    },
    Call {
        target: Option<Box<Expr>>,
        function: String,
        args: Vec<Expr>,
    },
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    Choose(Box<Expr>, Box<Expr>, Box<Expr>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    /// Elements, each with whether it is `?optional`.
    List(Vec<(Expr, bool)>),
    Map(Vec<(Expr, Expr, bool)>),
    /// `Object.spec{replicas: 3}`: an object of a named type.
    Message {
        name: String,
        fields: Vec<(String, Expr, bool)>,
    },
    Each(Box<Each>),
    /// `cel.bind(name, value, body)`, `x.optMap(name, body)`, `x.optFlatMap(name, body)`.
    Bind {
        how: Binding,
        name: String,
        value: Box<Expr>,
        body: Box<Expr>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binding {
    Always,
    Map,
    FlatMap,
}

/// A macro over the elements of a list or the keys of a map.
#[derive(Debug)]
pub(super) struct Each {
    pub kind: EachKind,
    pub over: Expr,
    /// The element or key; the second, when given, is the value at it.
    pub name: String,
    pub second: Option<String>,
    /// `map(x, condition, body)` has one; so do `transformList` and its like.
    pub condition: Option<Expr>,
    pub body: Expr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EachKind {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
    /// `list.sortBy(x, key)`.
    SortBy,
    TransformList,
    TransformMap,
    /// Each turn makes entries of the map.
    TransformMapEntry,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

impl Operator {
    /// As error messages name it.
    pub fn word(self) -> &'static str {
        match self {
            Operator::Equal => "_==_",
            Operator::Unequal => "_!=_",
            Operator::Less => "_<_",
            Operator::LessOrEqual => "_<=_",
            Operator::Greater => "_>_",
            Operator::GreaterOrEqual => "_>=_",
            Operator::In => "@in",
            Operator::Add => "_+_",
            Operator::Subtract => "_-_",
            Operator::Multiply => "_*_",
            Operator::Divide => "_/_",
            Operator::Modulo => "_%_",
        }
    }
}

impl Expr {
    pub fn new(at: usize, node: Node) -> Expr {
        let mut expr = Expr { at, node, height: 0 };
        let mut below = 0;
        expr.children(&mut |child| below = child.height.max(below));
        expr.height = below.saturating_add(1);
        expr
    }

    /// `a.b.c` as a dotted name, when it is nothing else.
    pub fn dotted(&self) -> Option<String> {
        match &self.node {
            Node::Name(name) => Some(name.clone()),
            Node::Select {
                of,
                field,
                optional: false,
            } => Some(format!("{}.{field}", of.dotted()?)),
            _ => None,
        }
    }

    /// Every name that is mentioned, bound or free.
    pub fn names(&self, out: &mut BTreeSet<String>) {
        if let Node::Name(name) = &self.node {
            out.insert(name.clone());
        }
        self.children(&mut |child| child.names(out));
    }

    pub fn children<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        match &self.node {
            Node::Literal(_) | Node::Name(_) => {}
            Node::Select { of, .. } | Node::Has { of, .. } | Node::Not(of) | Node::Negate(of) => visit(of),
            Node::Index { of, index, .. } => {
                visit(of);
                visit(index);
            }
            Node::Call { target, args, .. } => {
                target.iter().for_each(|t| visit(t));
                args.iter().for_each(visit);
            }
            Node::And(a, b) | Node::Or(a, b) | Node::Binary(_, a, b) => {
                visit(a);
                visit(b);
            }
            Node::Choose(a, b, c) => {
                visit(a);
                visit(b);
                visit(c);
            }
            Node::List(items) => items.iter().for_each(|(item, _)| visit(item)),
            Node::Message { fields, .. } => fields.iter().for_each(|(_, value, _)| visit(value)),
            Node::Map(entries) => entries.iter().for_each(|(key, value, _)| {
                visit(key);
                visit(value);
            }),
            Node::Each(each) => {
                visit(&each.over);
                if let Some(condition) = &each.condition {
                    visit(condition);
                }
                visit(&each.body);
            }
            Node::Bind { value, body, .. } => {
                visit(value);
                visit(body);
            }
        }
    }
}
