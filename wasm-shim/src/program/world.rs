//! The world this host offers to guests, and whether a guest fits into it.
//!
//! Owns the linkers, the list of what is offered, and how a guest is started. Refuses to know containers. Linking is
//! decided before anything runs, at compile time and again at load time, so that a missing import is an error with a
//! name and never a trap.

use super::state::State;
use super::{blobstore, files, keyvalue, keyvalue_draft2, lookup, proposals, sockets};
use amphipod_shim_api::annotations::WASM_INVOKE;
use std::time::Duration;
use wasmtime::component::{Component, Linker as ComponentLinker};
use wasmtime::{Engine, GuestProfiler, InstancePre, Linker, Module, ValType};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{I32Exit, p1};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// The interfaces offered to components, each for every 0.2.x a guest may ask for. The linker decides; this list only
/// explains its decision, and a test holds it to the linker.
pub const OFFERED: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// Interfaces offered in exactly these versions: proposals without a stable one.
pub const PROPOSALS: &[&str] = &[
    "wasi:blobstore/blobstore@0.2.0-draft",
    "wasi:blobstore/container@0.2.0-draft",
    "wasi:blobstore/types@0.2.0-draft",
    "wasi:config/store@0.2.0-rc.1",
    "wasi:config/runtime@0.2.0-draft",
    "wasi:keyvalue/atomics@0.2.0-draft",
    "wasi:keyvalue/atomics@0.2.0-draft2",
    "wasi:keyvalue/batch@0.2.0-draft",
    "wasi:keyvalue/batch@0.2.0-draft2",
    "wasi:keyvalue/store@0.2.0-draft",
    "wasi:keyvalue/store@0.2.0-draft2",
    "wasi:logging/logging",
    "wasi:logging/logging@0.1.0-draft",
];

/// The version track of [`OFFERED`].
const OFFERED_VERSION: &str = "0.2.";

/// What core modules may import.
const PREVIEW1: &str = "wasi_snapshot_preview1";

/// Exports that make a component a program.
const EXPORT_RUN: &str = "wasi:cli/run";
const EXPORT_HANDLER: &str = "wasi:http/incoming-handler";

/// Export that makes a core module a program, and the one that prepares a reactor (WASI preview 1, application ABI).
pub const EXPORT_START: &str = "_start";
pub const EXPORT_INITIALIZE: &str = "_initialize";

/// Why a guest does not fit this host.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("component imports {import:?}, which this host does not offer (offered: {offered})")]
    NotOffered { import: String, offered: String },
    #[error(
        "module imports {module:?} {name:?}, which this host does not offer (offered: the functions of {PREVIEW1:?})"
    )]
    ModuleNotOffered { module: String, name: String },
    #[error(
        "component exports neither {EXPORT_RUN}@0.2 nor {EXPORT_HANDLER}@0.2: there is nothing to run (exports: {exports})"
    )]
    NothingToRun { exports: String },
    #[error(
        "module does not export a function {EXPORT_START:?} without parameters and results: there is nothing to run, \
         unless the annotation {WASM_INVOKE} names another one (it has: {exports})"
    )]
    NoStart { exports: String },
    #[error(
        "annotation {WASM_INVOKE}: the module exports no function {name:?} that takes nothing and returns nothing or \
         an i32 (it has: {exports})"
    )]
    NoExport { name: String, exports: String },
    #[error("annotation {WASM_INVOKE} is for core modules; a component says itself what is run")]
    InvokeOfComponent,
    #[error("linking: {0:#}")]
    Other(wasmtime::Error),
}

/// A function of a core module to run in the place of `_start`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoke {
    pub name: String,
    /// It was said of many: whoever has no such function runs as without.
    pub if_exported: bool,
}

/// A guest that is linked and needs only a store to run.
pub enum Linked {
    Module(InstancePre<State>),
    Command(CommandPre<State>),
    Http(ProxyPre<State>),
    /// Exports both, as every TinyGo component does: its container decides.
    Either {
        command: CommandPre<State>,
        http: ProxyPre<State>,
    },
}

impl Linked {
    /// Whether what is to be run is there, and is the function of a core module that was named rather than `_start` or
    /// what a component says itself.
    ///
    /// # Errors
    /// When it is not there.
    pub fn check_entry(&self, invoke: Option<&Invoke>) -> Result<bool, LinkError> {
        let insists = invoke.is_some_and(|invoke| !invoke.if_exported);
        let Self::Module(pre) = self else {
            return match insists {
                true => Err(LinkError::InvokeOfComponent),
                false => Ok(false),
            };
        };
        let callable = callable(pre.module());
        let exports = || listed(&callable.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        let has = |wanted: &str, may_return: bool| {
            let fits = |(name, returns): &(&str, bool)| *name == wanted && (may_return || !returns);
            callable.iter().any(fits)
        };
        match invoke {
            Some(Invoke { name, .. }) if has(name, true) => Ok(true),
            _ if !insists && has(EXPORT_START, false) => Ok(false),
            None => Err(LinkError::NoStart { exports: exports() }),
            Some(Invoke { name, .. }) => Err(LinkError::NoExport {
                name: name.clone(),
                exports: exports(),
            }),
        }
    }

    /// What records where its guests are, looked at every `interval`.
    ///
    /// # Errors
    /// When wasmtime cannot.
    pub fn profiler(
        &self,
        engine: &Engine,
        name: &str,
        interval: Duration,
    ) -> wasmtime::Result<GuestProfiler> {
        let component = match self {
            Self::Module(pre) => {
                let modules = [(name.to_owned(), pre.module().clone())];
                return GuestProfiler::new(engine, name, interval, modules);
            }
            Self::Command(pre) | Self::Either { command: pre, .. } => pre.instance_pre().component(),
            Self::Http(pre) => pre.instance_pre().component(),
        };
        GuestProfiler::new_component(engine, name, interval, component.clone(), [])
    }

    /// Whether it can be run to an end.
    pub fn is_command(&self) -> bool {
        !matches!(self, Self::Http(_))
    }

    /// The handler, when the program is to serve: one that is both serves if its container was given a port.
    pub fn http(&self, port_given: bool) -> Option<&ProxyPre<State>> {
        match self {
            Self::Http(http) => Some(http),
            Self::Either { http, .. } if port_given => Some(http),
            Self::Either { .. } | Self::Module(_) | Self::Command(_) => None,
        }
    }
}

/// The linkers of one engine.
pub struct World {
    engine: Engine,
    modules: Linker<State>,
    components: ComponentLinker<State>,
}

impl World {
    /// Defines everything this host offers.
    ///
    /// # Errors
    /// When wasmtime's own definitions clash, which would be a defect of this program.
    pub fn new(engine: &Engine) -> wasmtime::Result<Self> {
        let mut modules = Linker::new(engine);
        p1::add_to_linker_async(&mut modules, |state: &mut State| &mut state.wasi)?;
        modules.allow_shadowing(true);
        modules.func_wrap(PREVIEW1, "proc_exit", exit)?;
        modules.allow_shadowing(false);
        let mut components = ComponentLinker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut components)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut components)?;
        proposals::add_to_linker(&mut components)?;
        keyvalue::add_to_linker(&mut components)?;
        keyvalue_draft2::add_to_linker(&mut components)?;
        blobstore::add_to_linker(&mut components)?;
        lookup::add_to_linker(&mut components)?;
        sockets::add_to_linker(&mut components)?;
        files::add_to_linker(&mut components)?;
        Ok(Self {
            engine: engine.clone(),
            modules,
            components,
        })
    }

    /// The engine guests of this world are compiled for.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Links a core module that is a preview 1 command or reactor.
    ///
    /// # Errors
    /// When an import is missing or of another type, or it exports no function that could be run.
    pub fn link_module(&self, module: &Module) -> Result<Linked, LinkError> {
        if callable(module).is_empty() {
            return Err(LinkError::NoStart { exports: listed(&[]) });
        }
        let pre = self
            .modules
            .instantiate_pre(module)
            .map_err(|error| self.explain_module(module, error))?;
        Ok(Linked::Module(pre))
    }

    /// Links a component that is a command or an HTTP handler or both.
    ///
    /// # Errors
    /// When an import is missing or of another type, or it exports neither.
    pub fn link_component(&self, component: &Component) -> Result<Linked, LinkError> {
        let ty = component.component_type();
        let exports: Vec<&str> = ty.exports(&self.engine).map(|(name, _)| name).collect();
        let has = |wanted: &str| exports.iter().any(|name| on_our_track(name, wanted));
        let pre = self
            .components
            .instantiate_pre(component)
            .map_err(|error| self.explain(component, error))?;
        let command = has(EXPORT_RUN).then(|| CommandPre::new(pre.clone())).transpose();
        let http = has(EXPORT_HANDLER).then(|| ProxyPre::new(pre)).transpose();
        match (
            command.map_err(LinkError::Other)?,
            http.map_err(LinkError::Other)?,
        ) {
            (Some(command), Some(http)) => Ok(Linked::Either { command, http }),
            (Some(command), None) => Ok(Linked::Command(command)),
            (None, Some(http)) => Ok(Linked::Http(http)),
            (None, None) => Err(LinkError::NothingToRun {
                exports: listed(&exports),
            }),
        }
    }

    fn explain(&self, component: &Component, error: wasmtime::Error) -> LinkError {
        let ty = component.component_type();
        let missing = ty.imports(&self.engine).map(|(name, _)| name).find(|name| {
            !PROPOSALS.contains(name) && !OFFERED.iter().any(|offered| on_our_track(name, offered))
        });
        match missing {
            Some(import) => LinkError::NotOffered {
                import: import.to_owned(),
                offered: offered_for_people(),
            },
            None => LinkError::Other(error),
        }
    }

    fn explain_module(&self, module: &Module, error: wasmtime::Error) -> LinkError {
        let missing = module.imports().find(|import| import.module() != PREVIEW1);
        match missing {
            Some(import) => LinkError::ModuleNotOffered {
                module: import.module().to_owned(),
                name: import.name().to_owned(),
            },
            None => LinkError::Other(error),
        }
    }
}

/// The exported functions of a module that take nothing and return nothing or an `i32`, and whether they return one.
fn callable(module: &Module) -> Vec<(&str, bool)> {
    let fits = |export: wasmtime::ExportType<'_>| {
        let ty = export.ty();
        let function = ty.func()?;
        let mut results = function.results();
        match (function.params().len(), results.next(), results.next()) {
            (0, None, _) => Some(false),
            (0, Some(ValType::I32), None) => Some(true),
            _ => None,
        }
    };
    module
        .exports()
        .filter_map(|export| Some((export.name(), fits(export)?)))
        .collect()
}

/// `proc_exit` with any status: wasmtime's own traps on 126 and above, which shells and test programs use.
fn exit(status: i32) -> wasmtime::Result<()> {
    Err(I32Exit(status).into())
}

/// Whether `name` (`wasi:cli/run@0.2.3`) is `interface` (`wasi:cli/run`) in a version of the track offered here.
fn on_our_track(name: &str, interface: &str) -> bool {
    name.strip_prefix(interface)
        .and_then(|rest| rest.strip_prefix('@'))
        .is_some_and(|version| version.starts_with(OFFERED_VERSION))
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn offered_for_people() -> String {
    OFFERED
        .iter()
        .map(|name| format!("{name}@{OFFERED_VERSION}x"))
        .chain(PROPOSALS.iter().map(|name| (*name).to_owned()))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::compiler;

    fn world() -> World {
        World::new(&compiler().unwrap()).unwrap()
    }

    fn component(text: &str) -> Result<Linked, LinkError> {
        let world = world();
        let component = Component::new(world.engine(), wat::parse_str(text).unwrap()).unwrap();
        world.link_component(&component)
    }

    fn module(text: &str) -> Result<Linked, LinkError> {
        let world = world();
        let module = Module::new(world.engine(), wat::parse_str(text).unwrap()).unwrap();
        world.link_module(&module)
    }

    fn refusal(result: Result<Linked, LinkError>) -> String {
        result.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn every_interface_offered_links() {
        for name in OFFERED {
            for version in ["0.2.0", "0.2.6"] {
                let text = format!(r#"(component (import "{name}@{version}" (instance)))"#);
                let message = refusal(component(&text));
                assert!(message.contains("nothing to run"), "{name}: {message}");
            }
        }
    }

    #[test]
    fn every_proposal_links() {
        for name in PROPOSALS {
            let message = refusal(component(&format!(r#"(component (import "{name}" (instance)))"#)));
            assert!(message.contains("nothing to run"), "{name}: {message}");
        }
    }

    #[test]
    fn a_missing_import_is_named() {
        let message = refusal(component(
            r#"(component (import "foo:bar/baz@1.0.0" (instance (export "f" (func)))))"#,
        ));
        assert!(
            message.starts_with(
                r#"component imports "foo:bar/baz@1.0.0", which this host does not offer (offered: wasi:cli"#
            ),
            "{message}"
        );
        let message = refusal(module(
            r#"(module (import "env" "abort" (func)) (func (export "_start")))"#,
        ));
        assert!(
            message.starts_with(r#"module imports "env" "abort", which this host does not offer"#),
            "{message}"
        );
    }

    #[test]
    fn an_import_of_another_type_is_refused() {
        let text = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param f64))) (func (export "_start")))"#;
        assert!(refusal(module(text)).starts_with("linking: "));
    }

    #[test]
    fn a_module_needs_something_to_run() {
        assert!(matches!(module("(module)"), Err(LinkError::NoStart { .. })));
        let start = r#"(module (func (export "_start")))"#;
        let odd = r#"(module (func (export "_start") (param i32)) (func (export "other")))"#;
        let reactor =
            r#"(module (func (export "_initialize")) (func (export "go") (result i32) i32.const 3))"#;
        let check = |text: &str, name: Option<&str>, if_exported| {
            let invoke = name.map(|name| Invoke {
                name: name.to_owned(),
                if_exported,
            });
            module(text).unwrap().check_entry(invoke.as_ref()).ok()
        };
        // Whether the named function is run, by a container's own word and by its Pod's; none where nothing is.
        for (text, name, own, shared) in [
            (start, None, Some(false), Some(false)),
            (start, Some("go"), None, Some(false)),
            (odd, None, None, None),
            (odd, Some("other"), Some(true), Some(true)),
            (reactor, None, None, None),
            (reactor, Some("go"), Some(true), Some(true)),
            (reactor, Some("_start"), None, None),
            (reactor, Some("stop"), None, None),
        ] {
            let found = (check(text, name, false), check(text, name, true));
            assert_eq!(found, (own, shared), "{text} {name:?}");
        }
    }

    #[test]
    fn tracks() {
        for (name, interface, expected) in [
            ("wasi:cli/run@0.2.0", "wasi:cli/run", true),
            ("wasi:cli/run@0.3.0", "wasi:cli/run", false),
            ("wasi:cli/run", "wasi:cli/run", false),
            ("wasi:cli/runner@0.2.0", "wasi:cli/run", false),
        ] {
            assert_eq!(on_our_track(name, interface), expected, "{name}");
        }
    }
}
