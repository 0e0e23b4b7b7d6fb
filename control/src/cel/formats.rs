//! The text before `.format(…)`, in pieces. What judges it before it runs and what runs it read it alike.

/// A piece of a format.
#[derive(Debug, PartialEq)]
pub(super) enum Piece<'f> {
    Text(&'f str),
    /// `%s`, or why it is no clause.
    Clause(Result<Clause, String>),
    /// A `%` and nothing after it.
    End,
}

/// How one value is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Clause {
    pub verb: u8,
    /// Digits after the point.
    pub precision: Option<usize>,
}

/// Why a clause does not show a value, without the type of that.
pub(super) fn refusal(verb: u8) -> &'static str {
    match verb {
        b's' => {
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and \
             timestamps"
        }
        b'd' => "decimal clause can only be used on integers",
        b'f' => "fixed-point clause can only be used on doubles",
        b'e' => "scientific clause can only be used on doubles",
        b'b' => "only integers and bools can be formatted as binary",
        b'o' => "octal clause can only be used on integers",
        _ => "only integers, byte buffers, and strings can be formatted as hex",
    }
}

/// The pieces of a format in order; nothing comes after one that is wrong.
pub(super) struct Pieces<'f>(pub &'f str);

impl<'f> Iterator for Pieces<'f> {
    type Item = Piece<'f>;

    fn next(&mut self) -> Option<Piece<'f>> {
        let text = self.0;
        if text.is_empty() {
            return None;
        }
        if let Some(rest) = text.strip_prefix("%%") {
            self.0 = rest;
            return Some(Piece::Text("%"));
        }
        let Some(rest) = text.strip_prefix('%') else {
            let (plain, rest) = text.split_at(text.find('%').unwrap_or(text.len()));
            self.0 = rest;
            return Some(Piece::Text(plain));
        };
        if rest.is_empty() {
            self.0 = "";
            return Some(Piece::End);
        }
        let read = clause(rest).map_err(|why| format!("could not parse formatting clause: {why}"));
        self.0 = read.as_ref().map_or("", |(_, rest)| *rest);
        Some(Piece::Clause(read.map(|(clause, _)| clause)))
    }
}

/// A clause at the beginning of a text that is not empty, and what comes after it.
fn clause(text: &str) -> Result<(Clause, &str), String> {
    let (precision, rest) = match text.strip_prefix('.') {
        None => (None, text),
        Some(rest) => {
            let (precision, rest) =
                precision(rest).map_err(|why| format!("error while parsing precision: {why}"))?;
            (Some(precision), rest)
        }
    };
    let verb = rest.as_bytes()[0];
    match verb {
        b's' | b'd' | b'f' | b'e' | b'b' | b'x' | b'X' | b'o' => Ok((Clause { verb, precision }, &rest[1..])),
        other => Err(format!(
            "unrecognized formatting clause \"{}\"",
            char::from(other)
        )),
    }
}

/// A number that something comes after.
fn precision(text: &str) -> Result<(usize, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    let end = end.ok_or("could not find end of precision specifier")?;
    let (digits, rest) = text.split_at(end);
    let why = if digits.is_empty() {
        "invalid syntax"
    } else {
        "value out of range"
    };
    let number: Result<i64, _> = digits.parse();
    let number = number.ok().and_then(|number| usize::try_from(number).ok());
    let number = number.ok_or_else(|| {
        format!("error while converting precision to integer: strconv.Atoi: parsing \"{digits}\": {why}")
    })?;
    Ok((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_text_and_clauses() {
        let clause = |verb, precision| Piece::Clause(Ok(Clause { verb, precision }));
        let pieces: Vec<Piece<'_>> = Pieces("a%%é%.2f%d%").collect();
        let want = [
            Piece::Text("a"),
            Piece::Text("%"),
            Piece::Text("é"),
            clause(b'f', Some(2)),
            clause(b'd', None),
            Piece::End,
        ];
        assert_eq!(pieces, want);
    }

    #[test]
    fn what_is_no_clause_says_why() {
        for (format, want) in [
            ("%z", "unrecognized formatting clause \"z\""),
            ("%.2z", "unrecognized formatting clause \"z\""),
            (
                "%.2",
                "error while parsing precision: could not find end of precision specifier",
            ),
            (
                "%.f",
                "error while parsing precision: error while converting precision to integer: strconv.Atoi: parsing \"\": \
                 invalid syntax",
            ),
        ] {
            let told = Piece::Clause(Err(format!("could not parse formatting clause: {want}")));
            assert_eq!(Pieces(format).collect::<Vec<_>>(), [told]);
        }
    }
}
