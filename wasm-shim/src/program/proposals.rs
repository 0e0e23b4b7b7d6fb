//! Interfaces of WASI proposals that have no stable version yet: `wasi:config` and `wasi:logging`.
//!
//! Owns their types and functions. Refuses to know where configuration comes from: it is the guest's environment, which
//! the node made from the manifest, ConfigMaps and Secrets.

use super::state::State;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};

/// `wasi:config/store` and the name it had before (github.com/WebAssembly/wasi-config).
const CONFIG: &[&str] = &["wasi:config/store@0.2.0-rc.1", "wasi:config/runtime@0.2.0-draft"];

/// `wasi:logging/logging` (github.com/WebAssembly/wasi-logging).
const LOGGING: &[&str] = &["wasi:logging/logging", "wasi:logging/logging@0.1.0-draft"];

/// Most of a message's context, and most lines of a message: its head is written on each.
const MAX_CONTEXT_BYTES: usize = 256;
const MAX_LINES: usize = 1_000;

/// Why a value cannot be had; the environment always can.
#[derive(ComponentType, Lower)]
#[component(variant)]
#[expect(dead_code, reason = "the interface has it; an environment is always there")]
enum ConfigError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

/// How grave a message is.
#[derive(Debug, Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "values come from guests")]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

type Value = Result<Option<String>, ConfigError>;
type Values = Result<Vec<(String, String)>, ConfigError>;

/// Defines the proposals.
///
/// # Errors
/// When a name is defined already, which would be a defect of this program.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    for name in CONFIG {
        let mut instance = linker.instance(name)?;
        instance.func_wrap("get", get)?;
        instance.func_wrap("get-all", get_all)?;
    }
    for name in LOGGING {
        linker.instance(name)?.func_wrap("log", log)?;
    }
    Ok(())
}

fn get(store: StoreContextMut<'_, State>, (key,): (String,)) -> wasmtime::Result<(Value,)> {
    let environment = &store.data().command.env;
    let found = environment.iter().rev().find(|(name, _)| *name == key);
    Ok((Ok(found.map(|(_, value)| value.clone())),))
}

fn get_all(store: StoreContextMut<'_, State>, (): ()) -> wasmtime::Result<(Values,)> {
    Ok((Ok(store.data().command.env.clone()),))
}

fn log(
    store: StoreContextMut<'_, State>,
    (level, context, message): (Level, String, String),
) -> wasmtime::Result<()> {
    store.data().log.line(&entry(level, &context, &message));
    Ok(())
}

/// A message as lines of a log: each says its level and context, so that no text passes for another entry.
fn entry(level: Level, context: &str, message: &str) -> String {
    let level = format!("{level:?}").to_uppercase();
    let separator = if context.is_empty() { "" } else { ": " };
    let context = on_one_line(&context[..context.floor_char_boundary(MAX_CONTEXT_BYTES)]);
    let lines = message.trim_end().splitn(MAX_LINES, '\n');
    let lines: Vec<String> = lines
        .map(|line| {
            format!(
                "{level} {context}{separator}{}",
                on_one_line(line.trim_end_matches('\r'))
            )
        })
        .collect();
    lines.join("\n")
}

fn on_one_line(text: &str) -> String {
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_message_says_whose_it_is() {
        for (context, message, expected) in [
            ("", "m", "WARN m"),
            ("c", "m\n", "WARN c: m"),
            (
                "c",
                "a\r\nERROR x: b\n\nd",
                "WARN c: a\nWARN c: ERROR x: b\nWARN c: \nWARN c: d",
            ),
            ("c\nERROR x", "m", "WARN c ERROR x: m"),
            ("", "", "WARN "),
        ] {
            assert_eq!(
                entry(Level::Warn, context, message),
                expected,
                "{context:?} {message:?}"
            );
        }
        let long = entry(Level::Warn, &"ä".repeat(1_000), &"\n.".repeat(10_000));
        assert_eq!(long.lines().count(), MAX_LINES);
        assert!(long.len() < MAX_LINES * 300 + 20_000);
    }
}
