//! Tokens become a tree: CEL's grammar by recursive descent, with a limit on its depth.
mod macros;
mod mistakes;

use super::Mistake;
use super::lex::{Token, lex};
use super::syntax::{Binding, Expr, Literal, Node, Operator};
use macros::{bind, each, each_kind};
use mistakes::{PRIMARY, begins};

/// How deep brackets may nest (cel-go's limit is 250 recursions of its grammar).
const DEPTH: usize = 64;
/// How high a tree may be: what goes through it recurses, and a thread of the server has two megabytes of stack.
const HEIGHT: u16 = 140;
const TOO_DEEP: &str = "expression recursion limit exceeded";

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

    /// Where a sign was that is taken.
    fn taken(&mut self, sign: &str) -> Option<usize> {
        let at = self.at();
        self.take(sign).then_some(at)
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
            return Err(Mistake::new(self.at(), TOO_DEEP));
        }
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// Fails for a tree that is too high; asked wherever trees grow without brackets.
    fn low(&self, expr: Expr) -> Parsed {
        match expr.height > HEIGHT {
            true => Err(Mistake::new(self.at(), TOO_DEEP)),
            false => Ok(expr),
        }
    }

    fn expr(&mut self) -> Parsed {
        self.deeper(|p| {
            let condition = p.or()?;
            let at = p.at();
            if !p.take("?") {
                return Ok(condition);
            }
            let yes = p.or()?;
            p.expect(":")?;
            let no = p.expr()?;
            p.low(Expr::new(
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
        loop {
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
            left = self.low(Expr::new(at, Node::Binary(operator, left.into(), right.into())))?;
        }
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

    /// Left-associative operators. The tree leans to the left, so a long chain is a high tree.
    fn chain(&mut self, signs: &[(&str, Operator)], part: fn(&mut Self) -> Parsed) -> Parsed {
        let mut left = part(self)?;
        loop {
            let at = self.at();
            let Some((_, operator)) = signs.iter().find(|(sign, _)| self.take(sign)) else {
                return Ok(left);
            };
            let right = part(self)?;
            left = self.low(Expr::new(at, Node::Binary(*operator, left.into(), right.into())))?;
        }
    }

    fn unary(&mut self) -> Parsed {
        let at = self.at();
        let (mut nots, mut minuses) = (0, 0);
        while self.take("!") {
            nots += 1;
        }
        let mut sign = at;
        if nots == 0 {
            while let Some(at) = self.taken("-") {
                (sign, minuses) = (at, minuses + 1);
            }
        }
        let inner = match (minuses, self.peek()) {
            (1.., Token::Literal(Literal::Int(_) | Literal::Double(_))) => {
                let literal = self.advance();
                minuses -= 1;
                let literal = self.negative(literal, sign)?;
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

    /// The literal after a sign, which it begins with.
    fn negative(&self, token: Token, sign: usize) -> Parsed {
        let literal = match token {
            // i64::MIN stands for its own absolute value here; see `lex`.
            Token::Literal(Literal::Int(i64::MIN)) => Literal::Int(i64::MIN),
            Token::Literal(Literal::Int(n)) => Literal::Int(-n),
            Token::Literal(Literal::Double(n)) => Literal::Double(-n),
            _ => return Err(self.mismatched("NUM_INT")),
        };
        Ok(Expr::new(sign, Node::Literal(literal)))
    }

    fn member(&mut self) -> Parsed {
        let primary = self.primary()?;
        self.postfix(primary)
    }

    fn postfix(&mut self, mut of: Expr) -> Parsed {
        loop {
            of = self.low(of)?;
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
                let bracket = self.at();
                of = match self.take("(") {
                    true => self.method(bracket, of, field)?,
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
            } else if let Some(name) = of.dotted().filter(|_| self.take("{?") || self.take("{")) {
                let optional = matches!(self.tokens[self.next - 1].1, Token::Sign("{?"));
                of = self.message(at, name, optional)?;
            } else {
                return Ok(of);
            }
        }
    }

    /// The fields of an object of a named type, after the bracket; `optional` says whether the first one is.
    fn message(&mut self, at: usize, name: String, mut optional: bool) -> Parsed {
        let mut fields = Vec::new();
        while optional || !self.take("}") {
            let optional = std::mem::take(&mut optional) || self.take("?");
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
            Token::Name(name) => {
                let bracket = self.at();
                match self.take("(") {
                    true => self.function(bracket, name),
                    false => Ok(Expr::new(at, Node::Name(name))),
                }
            }
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
        if function == "has" && args.len() == 1 {
            let argument = args.remove(0);
            return match argument.node {
                Node::Select {
                    of,
                    field,
                    optional: false,
                } => Ok(Expr::new(at, Node::Has { of, field })),
                _ => Err(Mistake::new(argument.at, "invalid argument to has() macro")),
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
            let mut args = args;
            let value = args.remove(1);
            return bind(target.at, Binding::Always, value, args);
        }
        let binding = match (function.as_str(), args.len()) {
            ("optMap", 2) => Some(Binding::Map),
            ("optFlatMap", 2) => Some(Binding::FlatMap),
            _ => None,
        };
        if let Some(how) = binding {
            return bind(at, how, target, args);
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
