//! A look into a binary before it is compiled: how much is in it, and which WASI it is for.
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

/// The first interface of WASI in a version from 0.3 on that a component imports or exports.
pub fn later_wasi(bytes: &[u8]) -> Option<String> {
    Parser::new(0)
        .parse_all(bytes)
        .map_while(Result::ok)
        .flat_map(interfaces)
        .find(|name| is_later_wasi(name))
}

/// The names in a component's section of imports or exports.
fn interfaces(payload: Payload<'_>) -> Vec<String> {
    match payload {
        Payload::ComponentImportSection(imports) => imports
            .into_iter()
            .map_while(Result::ok)
            .map(|import| import.name.name.to_owned())
            .collect(),
        Payload::ComponentExportSection(exports) => exports
            .into_iter()
            .map_while(Result::ok)
            .map(|export| export.name.name.to_owned())
            .collect(),
        _ => Vec::new(),
    }
}

fn is_later_wasi(name: &str) -> bool {
    let version = name
        .strip_prefix("wasi:")
        .and_then(|rest| rest.split_once("@0."))
        .and_then(|(_, version)| version.split('.').next());
    version.is_some_and(|minor| minor.parse().is_ok_and(|minor: u32| minor > 2))
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

    #[test]
    fn which_wasi_a_component_is_for() {
        for (import, later) in [
            ("wasi:cli/environment@0.2.6", false),
            ("wasi:cli/environment@0.3.0", true),
            ("wasi:cli/environment@0.3.0-rc-2026-01-06", true),
            ("wasi:logging/logging", false),
            ("mine:own/thing@0.3.0", false),
        ] {
            let text = format!(r#"(component (import "{import}" (instance)))"#);
            let found = later_wasi(&wat::parse_str(text).unwrap());
            assert_eq!(found.as_deref(), later.then_some(import));
        }
        let exporting = r#"(component (instance $i) (export "wasi:cli/run@0.3.0" (instance $i)))"#;
        let found = later_wasi(&wat::parse_str(exporting).unwrap());
        assert_eq!(found.as_deref(), Some("wasi:cli/run@0.3.0"));
    }
}
