//! What is wrong with a text that is not JSON, in the words of Go's `encoding/json`, which upstream's clients see.
//!
//! A recogniser for RFC 8259 that stops at the first byte that fits nowhere. Owns no values.

/// Nesting deeper than this is refused (Go's `maxNestingDepth`).
const DEPTH: usize = 10_000;

/// The first complaint; none when the text is one JSON value.
pub fn complaint(text: &[u8]) -> Option<String> {
    let mut reader = Reader {
        text,
        at: 0,
        open: Vec::new(),
    };
    reader.document().err().map(|stop| match stop {
        Stop::End => "unexpected end of JSON input".to_owned(),
        Stop::Byte(byte, context) => format!("invalid character {} {context}", quoted(byte)),
        Stop::Deep => "exceeded max depth".to_owned(),
    })
}

enum Stop {
    End,
    Byte(u8, String),
    Deep,
}

/// What a value is inside of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Array,
    Object,
}

struct Reader<'t> {
    text: &'t [u8],
    at: usize,
    open: Vec<Inside>,
}

type Step<T> = Result<T, Stop>;

impl Reader<'_> {
    fn peek(&self) -> Step<u8> {
        self.text.get(self.at).copied().ok_or(Stop::End)
    }

    fn skip_space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// The next byte that is no space.
    fn next(&mut self) -> Step<u8> {
        self.skip_space();
        self.peek()
    }

    fn wrong<T>(&self, context: impl Into<String>) -> Step<T> {
        Err(Stop::Byte(self.peek()?, context.into()))
    }

    fn document(&mut self) -> Step<()> {
        self.value()?;
        while let Some(inside) = self.open.last().copied() {
            self.after_value(inside)?;
        }
        self.skip_space();
        match self.at == self.text.len() {
            true => Ok(()),
            false => self.wrong("after top-level value"),
        }
    }

    /// Reads a scalar, or goes into the first element of an array or object.
    fn value(&mut self) -> Step<()> {
        loop {
            match self.next()? {
                b'{' => {
                    self.enter(Inside::Object)?;
                    if self.next()? == b'}' {
                        return Ok(());
                    }
                    self.key()?;
                }
                b'[' => {
                    self.enter(Inside::Array)?;
                    if self.next()? == b']' {
                        return Ok(());
                    }
                }
                _ => return self.scalar(),
            }
        }
    }

    fn enter(&mut self, inside: Inside) -> Step<()> {
        self.at += 1;
        self.open.push(inside);
        if self.open.len() > DEPTH {
            Err(Stop::Deep)
        } else {
            Ok(())
        }
    }

    fn scalar(&mut self) -> Step<()> {
        match self.peek()? {
            b'"' => self.string(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.wrong("looking for beginning of value"),
        }
    }

    /// What follows an element: another one, or the end of what it is in.
    fn after_value(&mut self, inside: Inside) -> Step<()> {
        match (self.next()?, inside) {
            (b']', Inside::Array) | (b'}', Inside::Object) => {
                self.at += 1;
                self.open.pop();
                Ok(())
            }
            (b',', Inside::Array) => {
                self.at += 1;
                self.value()
            }
            (b',', Inside::Object) => {
                self.at += 1;
                self.next()?;
                self.key()?;
                self.value()
            }
            (_, Inside::Array) => self.wrong("after array element"),
            (_, Inside::Object) => self.wrong("after object key:value pair"),
        }
    }

    fn key(&mut self) -> Step<()> {
        if self.next()? != b'"' {
            return self.wrong("looking for beginning of object key string");
        }
        self.string()?;
        if self.next()? != b':' {
            return self.wrong("after object key");
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Step<()> {
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => self.escape()?,
                byte if byte < 0x20 => return self.wrong("in string literal"),
                _ => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Step<()> {
        self.at += 1;
        match self.peek()? {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.at += 1,
            b'u' => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek()?.is_ascii_hexdigit() {
                        return self.wrong("in \\u hexadecimal character escape");
                    }
                    self.at += 1;
                }
            }
            _ => return self.wrong("in string escape code"),
        }
        Ok(())
    }

    fn literal(&mut self, word: &str) -> Step<()> {
        for expected in word.bytes() {
            if self.peek()? != expected {
                return self.wrong(format!("in literal {word} (expecting {})", quoted(expected)));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Step<()> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.peek()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return self.wrong("in numeric literal"),
        }
        if self.peek().is_ok_and(|b| b == b'.') {
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if self.peek().is_ok_and(|b| b == b'e' || b == b'E') {
            self.at += 1;
            if matches!(self.peek()?, b'+' | b'-') {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_ok_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self, context: &str) -> Step<()> {
        if !self.peek()?.is_ascii_digit() {
            return self.wrong(context);
        }
        self.digits();
        Ok(())
    }
}

/// A byte as Go quotes a character.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        0x20..=0x7e => format!("'{}'", char::from(byte)),
        0x00..=0x1f | 0x7f => format!(r"'\x{byte:02x}'"),
        // Go turns the byte into a character before quoting it.
        0x80..=0x9f | 0xad => format!(r"'\u{:04x}'", u32::from(byte)),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn complaints_are_gos() {
        for (text, want) in [
            (
                "not json",
                "invalid character 'o' in literal null (expecting 'u')",
            ),
            ("", "unexpected end of JSON input"),
            ("{\"a\":", "unexpected end of JSON input"),
            (
                "{a:1}",
                "invalid character 'a' looking for beginning of object key string",
            ),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            (
                "{\"a\":1 \"b\"}",
                "invalid character '\"' after object key:value pair",
            ),
            ("[1 2]", "invalid character '2' after array element"),
            (
                "{\"a\":1,}",
                "invalid character '}' looking for beginning of object key string",
            ),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("\"\\q\"", "invalid character 'q' in string escape code"),
            (
                "\"\\u12g4\"",
                "invalid character 'g' in \\u hexadecimal character escape",
            ),
            (
                "1.x",
                "invalid character 'x' after decimal point in numeric literal",
            ),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
        ] {
            assert_eq!(complaint(text.as_bytes()).as_deref(), Some(want), "{text}");
        }
        assert_eq!(
            complaint("[".repeat(DEPTH + 1).as_bytes()).as_deref(),
            Some("exceeded max depth")
        );
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[\\[\\]{}:,\"a1.e\\- \\\\utrefalsn]{0,12}",
            any::<i64>().prop_map(|n| format!("{{\"a\":[{n},true,null,\"x\"]}}")),
        ]
    }

    proptest! {
        /// It and the parser agree on what is JSON.
        #[test]
        fn it_accepts_what_is_json(text in text()) {
            let parsed = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(complaint(text.as_bytes()).is_none(), parsed, "{}", text);
        }
    }
}
