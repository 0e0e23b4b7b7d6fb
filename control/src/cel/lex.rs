//! Tokens of an expression.
use std::sync::Arc;

use super::Mistake;
use super::syntax::Literal;

/// Tokens of one expression.
const TOKENS: usize = 20_000;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Name(String),
    Literal(Literal),
    /// An operator or bracket.
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 30] = [
    "==", "!=", "<=", ">=", "&&", "||", ".?", "[?", "{?", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":",
    ".", ",", "(", ")", "[", "]", "{", "}", "$", "@", "=",
];

/// Splits a source into tokens, each with where it begins; the last is [`Token::End`].
pub(super) fn lex(source: &str) -> Result<Vec<(usize, Token)>, Mistake> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        at = skip(source, at);
        if tokens.len() > TOKENS {
            return Err(Mistake::new(
                at,
                format!("an expression may have at most {TOKENS} tokens"),
            ));
        }
        let rest = &source[at..];
        let Some(first) = rest.chars().next() else {
            tokens.push((at, Token::End));
            return Ok(tokens);
        };
        let (token, length) = token(source, at, first)?;
        tokens.push((at, token));
        at += length;
    }
}

fn skip(source: &str, mut at: usize) -> usize {
    loop {
        let rest = &source[at..];
        let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']).len();
        at += blank;
        match source[at..].starts_with("//") {
            true => at += source[at..].find('\n').unwrap_or(source.len() - at),
            false => return at,
        }
    }
}

fn token(source: &str, at: usize, first: char) -> Result<(Token, usize), Mistake> {
    let rest = &source[at..];
    if first.is_ascii_digit() || (first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit())) {
        return number(rest, at);
    }
    if let Some((raw, bytes, prefix)) = string_prefix(rest) {
        return string(rest, at, (raw, bytes, prefix));
    }
    if first.is_ascii_alphabetic() || first == '_' {
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let token = match &rest[..end] {
            "true" => Token::Literal(Literal::Bool(true)),
            "false" => Token::Literal(Literal::Bool(false)),
            "null" => Token::Literal(Literal::Null),
            name => Token::Name(name.to_owned()),
        };
        return Ok((token, end));
    }
    if first == '`' {
        return Err(Mistake::new(at, "unsupported syntax: '`'"));
    }
    let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
    match sign {
        Some(sign) => Ok((Token::Sign(sign), sign.len())),
        None => Err(Mistake::new(
            at,
            format!("Syntax error: token recognition error at: '{first}'"),
        )),
    }
}

fn number(rest: &str, at: usize) -> Result<(Token, usize), Mistake> {
    let bad = |text: &str| Mistake::new(at, format!("Syntax error: invalid number {text}"));
    if let Some(hex) = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
        let digits = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        let (text, unsigned) = (&hex[..digits], hex[digits..].starts_with(['u', 'U']));
        let value = u64::from_str_radix(text, 16).map_err(|_| bad(text))?;
        let literal = match unsigned {
            true => Literal::Uint(value),
            false => Literal::Int(i64::try_from(value).map_err(|_| bad(text))?),
        };
        return Ok((Token::Literal(literal), 2 + digits + usize::from(unsigned)));
    }
    let end = number_end(rest);
    let text = &rest[..end];
    if text.contains(['.', 'e', 'E']) {
        let value = text.parse().map_err(|_| bad(text))?;
        return Ok((Token::Literal(Literal::Double(value)), end));
    }
    if rest[end..].starts_with(['u', 'U']) {
        let value = text.parse().map_err(|_| bad(text))?;
        return Ok((Token::Literal(Literal::Uint(value)), end + 1));
    }
    // The smallest integer is its negation; the parser puts the sign in front.
    let value = match text.parse::<u64>() {
        Ok(value) if value == i64::MIN.unsigned_abs() => i64::MIN,
        Ok(value) => i64::try_from(value).map_err(|_| bad(text))?,
        Err(_) => return Err(bad(text)),
    };
    Ok((Token::Literal(Literal::Int(value)), end))
}

fn number_end(rest: &str) -> usize {
    let digits = |from: usize| {
        let tail = &rest[from..];
        from + tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len())
    };
    let mut end = digits(0);
    if rest[end..].starts_with('.') && rest[end + 1..].starts_with(|c: char| c.is_ascii_digit()) {
        end = digits(end + 1);
    }
    if rest[end..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[end + 1..].starts_with(['+', '-']));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    end
}

/// Whether a string begins here: raw, of bytes, and how long its prefix is.
fn string_prefix(rest: &str) -> Option<(bool, bool, usize)> {
    let prefix: String = rest
        .chars()
        .take_while(|c| matches!(c, 'r' | 'R' | 'b' | 'B'))
        .take(2)
        .collect();
    let quoted = rest[prefix.len()..].starts_with(['"', '\'']);
    let lower = prefix.to_lowercase();
    (quoted && lower != "rr" && lower != "bb")
        .then(|| (lower.contains('r'), lower.contains('b'), prefix.len()))
}

fn string(
    rest: &str,
    at: usize,
    (raw, bytes, prefix): (bool, bool, usize),
) -> Result<(Token, usize), Mistake> {
    let body = &rest[prefix..];
    let triple = ["\"\"\"", "'''"].iter().find(|q| body.starts_with(**q));
    let quote = triple.copied().unwrap_or(&body[..1]);
    let unterminated = || Mistake::new(at, "Syntax error: unterminated string");
    let mut out: Vec<u8> = Vec::new();
    let mut rest = &body[quote.len()..];
    loop {
        if let Some(after) = rest.strip_prefix(quote) {
            let length = prefix + (body.len() - after.len());
            return finish(out, bytes, at).map(|token| (token, length));
        }
        let c = rest.chars().next().ok_or_else(unterminated)?;
        if c == '\n' && triple.is_none() {
            return Err(unterminated());
        }
        rest = &rest[c.len_utf8()..];
        if c == '\\' && !raw {
            rest = escape(rest, &mut out, bytes)
                .ok_or_else(|| Mistake::new(at, "Syntax error: invalid escape"))?;
        } else {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

fn finish(out: Vec<u8>, bytes: bool, at: usize) -> Result<Token, Mistake> {
    if bytes {
        return Ok(Token::Literal(Literal::Bytes(Arc::from(out))));
    }
    let text = String::from_utf8(out).map_err(|_| Mistake::new(at, "Syntax error: invalid UTF-8"))?;
    Ok(Token::Literal(Literal::String(Arc::from(text))))
}

/// Decodes what follows a backslash; the rest after it.
fn escape<'a>(rest: &'a str, out: &mut Vec<u8>, bytes: bool) -> Option<&'a str> {
    let c = rest.chars().next()?;
    let after = &rest[c.len_utf8()..];
    let simple = match c {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' | '\'' | '"' | '`' | '?' => c as u8,
        'x' | 'X' => return numeric(after, 2, 16, out, bytes),
        'u' => return numeric(after, 4, 16, out, false),
        'U' => return numeric(after, 8, 16, out, false),
        '0'..='3' => return numeric(rest, 3, 8, out, bytes),
        _ => return None,
    };
    out.push(simple);
    Some(after)
}

fn numeric<'a>(rest: &'a str, digits: usize, radix: u32, out: &mut Vec<u8>, byte: bool) -> Option<&'a str> {
    let code = u32::from_str_radix(rest.get(..digits)?, radix).ok()?;
    match byte {
        true => out.push(u8::try_from(code).ok()?),
        false => out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes()),
    }
    rest.get(digits..)
}
