//! Shell patterns of one part of a name, as Go's `filepath.Match` reads them: `*`, `?`, `[a-z]`, `[^a-z]` and `\c`. A pattern
//! that is none matches nothing.

/// Whether all of `text` is as `pattern` says.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    fits(&pattern, &text)
}

/// Only the last star is ever tried again: somebody else's pattern must not cost more than its length.
fn fits(mut pattern: &[char], mut text: &[char]) -> bool {
    let mut star: Option<(&[char], &[char])> = None;
    loop {
        if let ['*', rest @ ..] = pattern {
            star = Some((rest, text));
            pattern = rest;
            continue;
        }
        match (one(pattern, text), star) {
            (Some(rest), _) => (pattern, text) = (rest, &text[1..]),
            (None, _) if pattern.is_empty() && text.is_empty() => return true,
            (None, Some((after, [_, shorter @ ..]))) => {
                star = Some((after, shorter));
                (pattern, text) = (after, shorter);
            }
            (None, _) => return false,
        }
    }
}

/// What is left of the pattern when its first part takes the first character.
fn one<'a>(pattern: &'a [char], text: &[char]) -> Option<&'a [char]> {
    let c = text.first()?;
    match pattern {
        ['?', rest @ ..] => Some(rest),
        ['[', rest @ ..] => class(rest)
            .filter(|(class, _)| class.has(*c))
            .map(|(_, rest)| rest),
        ['\\', wanted, rest @ ..] | [wanted, rest @ ..] if wanted == c => Some(rest),
        _ => None,
    }
}

struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    fn has(&self, c: char) -> bool {
        let listed = self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
        listed != self.negated
    }
}

/// Reads a class up to its bracket, and what follows.
fn class(pattern: &[char]) -> Option<(Class, &[char])> {
    let (negated, mut rest) = match pattern {
        ['^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let mut ranges = Vec::new();
    loop {
        rest = match rest {
            [']', rest @ ..] if !ranges.is_empty() => return Some((Class { negated, ranges }, rest)),
            [low, '-', high, rest @ ..] if *high != ']' => {
                ranges.push((*low, *high));
                rest
            }
            [one, rest @ ..] => {
                ranges.push((*one, *one));
                rest
            }
            [] => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_go() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("a*c", "abbc", true),
            ("*", "", true),
            ("a?", "a", false),
            ("a?", "ab", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[a", "a", false),
            ("a*b*c", "axbxbxc", true),
            ("a*b*c", "axcxbx", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("abc", "abcd", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
