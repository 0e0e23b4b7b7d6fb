//! Tokens become a tree: CEL's grammar by recursive descent, with a limit on its depth.
mod mistakes;

use super::Mistake;
use super::lex::{Token, lex};
use super::syntax::{Binding, Each, EachKind, Expr, Literal, Node, Operator};
use mistakes::{PRIMARY, begins};

/// How deep an expression may nest (cel-go's limit is 250 recursions of its grammar).
const DEPTH: usize = 64;

/// Words that cannot name anything.
const RESERVED: [&str; 18] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

pub(super) fn parse(source: &str) -> Result<Expr, Mistake> {
    let mut parser = Parser {
        source,
        tokens: lex(source)?,
        next: 0,
        depth: 0,
    };
    let expr = parser.expr()?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected("<EOF>", |token| *token == Token::End)),
    }
}

struct Parser<'s> {
    source: &'s str,
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

type Parsed = Result<Expr, Mistake>;

impl Parser<'_> {
    fn peek(&self) -> &Token {
        &self.tokens[self.next.min(self.tokens.len() - 1)].1
    }

    fn at(&self) -> usize {
        self.tokens[self.next.min(self.tokens.len() - 1)].0
    }

    fn advance(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(s) if *s == sign);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), Mistake> {
        match self.take(sign) {
            true => Ok(()),
            false => Err(self.mismatched(&format!("'{sign}'"))),
        }
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, Mistake>) -> Result<T, Mistake> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(Mistake::new(self.at(), "expression recursion limit exceeded"));
        }
        let result = parse(self);
        self.depth -= 1;
        result
    }

    fn expr(&mut self) -> Parsed {
        self.deeper(|p| {
            let at = p.at();
            let condition = p.or()?;
            if !p.take("?") {
                return Ok(condition);
            }
            let yes = p.or()?;
            p.expect(":")?;
            let no = p.expr()?;
            Ok(Expr::new(
                at,
                Node::Choose(condition.into(), yes.into(), no.into()),
            ))
        })
    }

    fn or(&mut self) -> Parsed {
        let mut terms = vec![self.and()?];
        while self.take("||") {
            terms.push(self.and()?);
        }
        Ok(balance(terms, |a, b| Node::Or(a.into(), b.into())))
    }

    fn and(&mut self) -> Parsed {
        let mut terms = vec![self.relation()?];
        while self.take("&&") {
            terms.push(self.relation()?);
        }
        Ok(balance(terms, |a, b| Node::And(a.into(), b.into())))
    }

    fn relation(&mut self) -> Parsed {
        let mut left = self.sum()?;
        for _ in 0..DEPTH {
            let at = self.at();
            let operator = match self.peek() {
                Token::Sign("==") => Operator::Equal,
                Token::Sign("!=") => Operator::Unequal,
                Token::Sign("<") => Operator::Less,
                Token::Sign("<=") => Operator::LessOrEqual,
                Token::Sign(">") => Operator::Greater,
                Token::Sign(">=") => Operator::GreaterOrEqual,
                Token::Name(name) if name == "in" => Operator::In,
                _ => return Ok(left),
            };
            self.next += 1;
            let right = self.sum()?;
            left = Expr::new(at, Node::Binary(operator, left.into(), right.into()));
        }
        Err(Mistake::new(self.at(), "expression recursion limit exceeded"))
    }

    fn sum(&mut self) -> Parsed {
        const SIGNS: [(&str, Operator); 2] = [("+", Operator::Add), ("-", Operator::Subtract)];
        self.chain(&SIGNS, Self::product)
    }

    fn product(&mut self) -> Parsed {
        const SIGNS: [(&str, Operator); 3] = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("%", Operator::Modulo),
        ];
        self.chain(&SIGNS, Self::unary)
    }

    /// Left-associative operators. The tree leans to the left, so a long chain counts as depth.
    fn chain(&mut self, signs: &[(&str, Operator)], part: fn(&mut Self) -> Parsed) -> Parsed {
        let mut left = part(self)?;
        for _ in 0..DEPTH * 2 {
            let at = self.at();
            let Some((_, operator)) = signs.iter().find(|(sign, _)| self.take(sign)) else {
                return Ok(left);
            };
            let right = part(self)?;
            left = Expr::new(at, Node::Binary(*operator, left.into(), right.into()));
        }
        Err(Mistake::new(self.at(), "expression recursion limit exceeded"))
    }

    fn unary(&mut self) -> Parsed {
        let at = self.at();
        let (mut nots, mut minuses) = (0, 0);
        while self.take("!") {
            nots += 1;
        }
        while nots == 0 && self.take("-") {
            minuses += 1;
        }
        let inner = match (minuses, self.peek()) {
            (1.., Token::Literal(Literal::Int(_) | Literal::Double(_))) => {
                let literal = self.advance();
                minuses -= 1;
                let literal = self.negative(literal)?;
                self.postfix(literal)?
            }
            _ => self.member()?,
        };
        match (nots % 2, minuses % 2) {
            (1, _) => Ok(Expr::new(at, Node::Not(inner.into()))),
            (_, 1) => Ok(Expr::new(at, Node::Negate(inner.into()))),
            _ => Ok(inner),
        }
    }

    fn negative(&self, token: Token) -> Parsed {
        let literal = match token {
            // i64::MIN stands for its own absolute value here; see `lex`.
            Token::Literal(Literal::Int(i64::MIN)) => Literal::Int(i64::MIN),
            Token::Literal(Literal::Int(n)) => Literal::Int(-n),
            Token::Literal(Literal::Double(n)) => Literal::Double(-n),
            _ => return Err(self.mismatched("NUM_INT")),
        };
        Ok(Expr::new(self.at(), Node::Literal(literal)))
    }

    fn member(&mut self) -> Parsed {
        let primary = self.primary()?;
        self.postfix(primary)
    }

    fn postfix(&mut self, mut of: Expr) -> Parsed {
        for _ in 0..DEPTH * 2 {
            let at = self.at();
            if self.take(".?") {
                let field = self.name()?;
                of = Expr::new(
                    at,
                    Node::Select {
                        of: of.into(),
                        field,
                        optional: true,
                    },
                );
            } else if self.take(".") {
                let field = self.name()?;
                of = match self.take("(") {
                    true => self.method(at, of, field)?,
                    false => Expr::new(
                        at,
                        Node::Select {
                            of: of.into(),
                            field,
                            optional: false,
                        },
                    ),
                };
            } else if self.take("[?") || self.take("[") {
                let optional = matches!(self.tokens[self.next - 1].1, Token::Sign("[?"));
                let index = self.expr()?.into();
                self.expect("]")?;
                of = Expr::new(
                    at,
                    Node::Index {
                        of: of.into(),
                        index,
                        optional,
                    },
                );
            } else if let Some(name) = of.dotted().filter(|_| self.take("{")) {
                of = self.message(of.at, name)?;
            } else {
                return Ok(of);
            }
        }
        Err(Mistake::new(self.at(), "expression recursion limit exceeded"))
    }

    /// The fields of an object of a named type, after the bracket.
    fn message(&mut self, at: usize, name: String) -> Parsed {
        let mut fields = Vec::new();
        while !self.take("}") {
            let optional = self.take("?");
            let field = self.name()?;
            self.expect(":")?;
            fields.push((field, self.expr()?, optional));
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(Expr::new(at, Node::Message { name, fields }))
    }

    fn name(&mut self) -> Result<String, Mistake> {
        match self.advance() {
            Token::Name(name) => Ok(name),
            _ => {
                self.next -= 1;
                Err(self.unnamed())
            }
        }
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at();
        match self.advance() {
            // Only a minus sign makes this one fit.
            Token::Literal(Literal::Int(i64::MIN)) => {
                Err(Mistake::new(at, "Syntax error: invalid int literal"))
            }
            Token::Literal(literal) => Ok(Expr::new(at, Node::Literal(literal))),
            Token::Name(name) if RESERVED.contains(&name.as_str()) => {
                Err(Mistake::new(at, format!("reserved identifier: {name}")))
            }
            Token::Name(name) => match self.take("(") {
                true => self.function(at, name),
                false => Ok(Expr::new(at, Node::Name(name))),
            },
            Token::Sign(".") => {
                let name = self.name()?;
                Ok(Expr::new(at, Node::Name(name)))
            }
            Token::Sign("(") => {
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign(sign @ ("[" | "[?")) => self.list(at, sign == "[?"),
            Token::Sign(sign @ ("{" | "{?")) => self.map(at, sign == "{?"),
            _ => {
                self.next -= 1;
                Err(self.unexpected(PRIMARY, begins))
            }
        }
    }

    fn list(&mut self, at: usize, mut optional: bool) -> Parsed {
        let mut items = Vec::new();
        while optional || !self.take("]") {
            let is_optional = std::mem::take(&mut optional) || self.take("?");
            items.push((self.expr()?, is_optional));
            if !self.take(",") {
                self.expect("]")?;
                break;
            }
        }
        Ok(Expr::new(at, Node::List(items)))
    }

    fn map(&mut self, at: usize, mut optional: bool) -> Parsed {
        let mut entries = Vec::new();
        while optional || !self.take("}") {
            let is_optional = std::mem::take(&mut optional) || self.take("?");
            let key = self.expr()?;
            self.expect(":")?;
            entries.push((key, self.expr()?, is_optional));
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(Expr::new(at, Node::Map(entries)))
    }

    fn args(&mut self) -> Result<Vec<Expr>, Mistake> {
        let mut args = Vec::new();
        while !self.take(")") {
            args.push(self.expr()?);
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(args)
    }

    fn function(&mut self, at: usize, function: String) -> Parsed {
        let mut args = self.args()?;
        if function == "has" {
            let one = args.len() == 1;
            return match args.pop().map(|a| a.node) {
                Some(Node::Select {
                    of,
                    field,
                    optional: false,
                }) if one => Ok(Expr::new(at, Node::Has { of, field })),
                _ => Err(Mistake::new(at, "invalid argument to has() macro")),
            };
        }
        Ok(Expr::new(
            at,
            Node::Call {
                target: None,
                function,
                args,
            },
        ))
    }

    fn method(&mut self, at: usize, target: Expr, function: String) -> Parsed {
        let args = self.args()?;
        let is_cel = matches!(&target.node, Node::Name(name) if name == "cel");
        if is_cel && function == "bind" && args.len() == 3 {
            return bind(at, Binding::Always, None, args);
        }
        let binding = match (function.as_str(), args.len()) {
            ("optMap", 2) => Some(Binding::Map),
            ("optFlatMap", 2) => Some(Binding::FlatMap),
            _ => None,
        };
        if let Some(how) = binding {
            return bind(at, how, Some(target), args);
        }
        match each_kind(&function, args.len()) {
            Some((kind, names)) => each(at, kind, target, names, args),
            None => {
                let target = Some(target.into());
                Ok(Expr::new(
                    at,
                    Node::Call {
                        target,
                        function,
                        args,
                    },
                ))
            }
        }
    }
}

/// `a && b && c …` as a tree of little depth.
fn balance(mut terms: Vec<Expr>, join: fn(Expr, Expr) -> Node) -> Expr {
    if terms.len() > 2 {
        let right = terms.split_off(terms.len() / 2);
        terms = vec![balance(terms, join), balance(right, join)];
    }
    terms
        .into_iter()
        .reduce(|a, b| Expr::new(a.at, join(a, b)))
        .unwrap_or_else(|| Expr::new(0, Node::Literal(Literal::Bool(true))))
}

fn variable(expr: Expr) -> Result<String, Mistake> {
    match expr.node {
        Node::Name(name) => Ok(name),
        _ => Err(Mistake::new(expr.at, "argument must be a simple name")),
    }
}

fn bind(at: usize, how: Binding, target: Option<Expr>, args: Vec<Expr>) -> Parsed {
    let mut args = args.into_iter();
    let missing = || Mistake::new(at, "a binding needs a name, a value and a body");
    let name = variable(args.next().ok_or_else(missing)?)?;
    let value = target.or_else(|| args.next()).ok_or_else(missing)?.into();
    let body = args.next().ok_or_else(missing)?.into();
    Ok(Expr::new(
        at,
        Node::Bind {
            how,
            name,
            value,
            body,
        },
    ))
}

/// The macro of a name and a number of arguments, and how many of them are variables.
fn each_kind(function: &str, args: usize) -> Option<(EachKind, usize)> {
    Some(match (function, args) {
        ("all", 2 | 3) => (EachKind::All, args - 1),
        ("exists", 2 | 3) => (EachKind::Exists, args - 1),
        ("exists_one" | "existsOne", 2 | 3) => (EachKind::ExistsOne, args - 1),
        ("filter", 2) => (EachKind::Filter, 1),
        ("map", 2 | 3) => (EachKind::Map, 1),
        ("transformList", 3 | 4) => (EachKind::TransformList, 2),
        ("transformMap", 3 | 4) => (EachKind::TransformMap, 2),
        _ => return None,
    })
}

fn each(at: usize, kind: EachKind, over: Expr, names: usize, args: Vec<Expr>) -> Parsed {
    let mut args = args.into_iter();
    let missing = || Mistake::new(at, "a macro needs a variable and a body");
    let name = variable(args.next().ok_or_else(missing)?)?;
    let second = match names {
        2 => Some(variable(args.next().ok_or_else(missing)?)?),
        _ => None,
    };
    let first = args.next().ok_or_else(missing)?;
    let (condition, body) = match args.next() {
        Some(body) => (Some(first), body),
        None => (None, first),
    };
    let each = Each {
        kind,
        over,
        name,
        second,
        condition,
        body,
    };
    Ok(Expr::new(at, Node::Each(Box::new(each))))
}
