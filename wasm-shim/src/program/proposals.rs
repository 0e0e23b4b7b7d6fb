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
    let level = format!("{level:?}").to_uppercase();
    let separator = if context.is_empty() { "" } else { ": " };
    store
        .data()
        .log
        .line(&format!("{level} {context}{separator}{message}"));
    Ok(())
}
