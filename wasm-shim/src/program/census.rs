//! Counting what is in a binary before it is compiled.
//!
//! Owns the bound on functions. Refuses to validate: that is the compiler's business, and what does not parse here is
//! left to it.

use wasmparser::{Parser, Payload};

/// Most functions of one binary, all modules of a component together. The largest met (Python, JavaScript and .NET
/// engines) have some ten thousand; each costs the compiler memory of its own even when it is empty.
pub const MAX_FUNCTIONS: u64 = 500_000;

/// Functions with a body in a module, or in all modules of a component.
pub fn functions(bytes: &[u8]) -> u64 {
    Parser::new(0)
        .parse_all(bytes)
        .map_while(Result::ok)
        .map(|payload| match payload {
            Payload::FunctionSection(section) => u64::from(section.count()),
            _ => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_modules_and_components() {
        for (text, expected) in [
            ("(module)", 0),
            ("(module (func) (func))", 2),
            ("(component (core module (func)) (core module (func) (func)))", 3),
        ] {
            assert_eq!(functions(&wat::parse_str(text).unwrap()), expected, "{text}");
        }
        assert_eq!(functions(b"\0asm\x01\0\0\0\x03\xff"), 0);
    }
}
