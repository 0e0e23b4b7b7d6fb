//! Patterns of file names (POSIX, shell, 2.14).

use crate::pattern::{Pattern, Syntax};

/// Whether a name fits a pattern of `*`, `?` and `[…]`.
pub fn glob(pattern: &str, name: &str, fold: bool) -> bool {
    let mut expression = String::from("^");
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            '[' if letters.as_str().contains(']') => {
                expression.push('[');
                if letters.as_str().starts_with('!') {
                    letters.next();
                    expression.push('^');
                }
                for letter in letters.by_ref() {
                    expression.push(letter);
                    if letter == ']' {
                        break;
                    }
                }
            }
            '\\' => {
                expression.push('\\');
                expression.extend(letters.next());
            }
            letter if letter.is_alphanumeric() => expression.push(letter),
            letter => expression.extend(['\\', letter]),
        }
    }
    expression.push('$');
    let name: Vec<char> = name.chars().collect();
    Pattern::new(&expression, Syntax::Extended, fold).is_ok_and(|pattern| pattern.find(&name, 0).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, name, fits) in [
            ("*.log", "a.log", true),
            ("*.log", "a.logs", false),
            ("a?c", "abc", true),
            ("[!a]*", "abc", false),
            ("[ab]*", "abc", true),
            (r"\*", "*", true),
            ("a+b(c)", "a+b(c)", true),
        ] {
            assert_eq!(glob(pattern, name, false), fits, "{pattern} {name}");
        }
        assert!(glob("A*", "abc", true));
    }
}
