//! `$(NAME)` references in env values, command and args (KEP-less, core/v1 Container): a reference that
//! resolves is replaced, `$$` is one dollar, anything else stays as it is. Pure.

/// Replaces the references in `input` that `lookup` knows.
pub fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        rest = match rest.as_bytes().first() {
            Some(b'$') => {
                out.push('$');
                &rest[1..]
            }
            Some(b'(') => reference(rest, &lookup, &mut out),
            _ => {
                out.push('$');
                rest
            }
        };
    }
    out.push_str(rest);
    out
}

/// Handles what follows a dollar and starts with a parenthesis; returns the rest.
fn reference<'a>(rest: &'a str, lookup: &impl Fn(&str) -> Option<String>, out: &mut String) -> &'a str {
    let Some(end) = rest.find(')') else {
        out.push_str("$(");
        return &rest[1..];
    };
    let name = &rest[1..end];
    match lookup(name) {
        Some(value) => out.push_str(&value),
        None => {
            out.push_str("$(");
            out.push_str(name);
            out.push(')');
        }
    }
    &rest[end + 1..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_the_api_documents() {
        let lookup = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (input, expected) in [
            ("$(A)", "a"),
            ("x$(A)y$(A)", "xaya"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$(B)", "$(B)"),
            ("$(EMPTY)", ""),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("$$", "$"),
            ("a$$b", "a$b"),
            ("$()", "$()"),
            ("$($(A))", "$($(A))"),
        ] {
            assert_eq!(expand(input, lookup), expected, "{input}");
        }
    }

    proptest! {
        #[test]
        fn text_without_dollars_is_untouched(input in "[^$]*") {
            prop_assert_eq!(expand(&input, |_| Some("x".into())), input);
        }

        #[test]
        fn never_panics(input in ".*") {
            expand(&input, |_| None);
        }
    }
}
