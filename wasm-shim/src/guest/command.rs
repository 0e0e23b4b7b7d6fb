//! Commands: preview 1 modules and `wasi:cli/command` components, run once to their end.

use super::Ending;
use super::debug::{Dumps, Profile, told};
use super::output::Output;
use super::wasi::{Stdio, world};
use crate::bundle;
use crate::engine::budget::{Budget, Limiter, OverBudget};
use crate::program::load::Program;
use crate::program::state::{State, store};
use crate::program::world::{EXPORT_INITIALIZE, EXPORT_START, Linked};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::{Instance, Store};
use wasmtime_wasi::I32Exit;

/// How long a command waits for memory that others of its container hold now.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);

/// What a command is run with.
pub struct Job<'a> {
    pub program: &'a Program,
    pub command: &'a Arc<bundle::Command>,
    pub grants: &'a bundle::Grants,
    pub budget: &'a Arc<Budget>,
    /// The function of a core module to run in the place of `_start`.
    pub invoke: Option<&'a str>,
    pub dumps: Option<&'a Dumps>,
    pub profile: Option<&'a Arc<Profile>>,
}

impl Job<'_> {
    /// Runs it to its end and says how it ended; a trap is told on stderr.
    pub async fn run(&self, stdio: Stdio) -> Ending {
        let stderr = stdio.stderr.clone();
        let opened = self
            .budget
            .open_in_time(self.program.initial_bytes, ROOM_PATIENCE);
        let limiter = match opened.await {
            Ok(limiter) => limiter,
            Err(over) => return out_of_memory(&over, &stderr),
        };
        let mut store = match self.prepare(limiter, stdio) {
            Ok(store) => store,
            Err(error) => return ending(Err(error), &stderr, |_| None),
        };
        let result = call(&self.program.linked, self.invoke, &mut store).await;
        let result = result.map_err(|error| store.data().explain(error));
        ending(result, &stderr, |error| {
            self.dumps.and_then(|dumps| dumps.write(error, &mut store))
        })
    }

    fn prepare(&self, limiter: Limiter, stdio: Stdio) -> wasmtime::Result<Store<State>> {
        let mut wasi = world(self.command, self.grants, stdio)?;
        wasi.profile = self.profile.cloned();
        Ok(store(self.program.engine(), wasi, limiter))
    }
}

async fn call(
    linked: &Linked,
    invoke: Option<&str>,
    store: &mut Store<State>,
) -> wasmtime::Result<Result<(), ()>> {
    match linked {
        Linked::Module(pre) => {
            let instance = pre.instantiate_async(&mut *store).await?;
            match invoke {
                Some(name) => invoke_export(store, instance, name).await,
                None => run_export(store, instance, EXPORT_START).await,
            }
            .map(Ok)
        }
        Linked::Command(pre) | Linked::Either { command: pre, .. } => {
            let command = pre.instantiate_async(&mut *store).await?;
            command.wasi_cli_run().call_run(&mut *store).await
        }
        Linked::Http(_) => Err(wasmtime::format_err!("an HTTP handler is served, not run")),
    }
}

async fn run_export(store: &mut Store<State>, instance: Instance, name: &str) -> wasmtime::Result<()> {
    let function = instance.get_typed_func::<(), ()>(&mut *store, name)?;
    function.call_async(&mut *store, ()).await
}

/// Calls a function of a reactor, initialised first (WASI preview 1, application ABI). A number it returns is its exit
/// status, as if it were `main`.
async fn invoke_export(store: &mut Store<State>, instance: Instance, name: &str) -> wasmtime::Result<()> {
    if instance.get_func(&mut *store, EXPORT_INITIALIZE).is_some() {
        run_export(store, instance, EXPORT_INITIALIZE).await?;
    }
    let Ok(function) = instance.get_typed_func::<(), i32>(&mut *store, name) else {
        return run_export(store, instance, name).await;
    };
    match function.call_async(&mut *store, ()).await? {
        0 => Ok(()),
        status => Err(I32Exit(status).into()),
    }
}

/// The status of an exit as its parent would see it (exit(3)).
fn low_byte(status: i32) -> u8 {
    status.to_le_bytes()[0]
}

/// How a finished call ends the container. What `dump` says of a trap is said with it.
fn ending(
    result: wasmtime::Result<Result<(), ()>>,
    stderr: &Output,
    dump: impl FnOnce(&wasmtime::Error) -> Option<String>,
) -> Ending {
    let error = match result {
        Ok(Ok(())) => return Ending::Exited(0),
        Ok(Err(())) => return Ending::Exited(1),
        Err(error) => error,
    };
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return Ending::Exited(low_byte(*code));
    }
    if let Some(over) = error.downcast_ref::<OverBudget>() {
        return out_of_memory(over, stderr);
    }
    stderr.say_trap(&told(&error), dump(&error));
    Ending::Trapped
}

fn out_of_memory(over: &OverBudget, stderr: &Output) -> Ending {
    stderr.say(&over.to_string());
    Ending::OutOfMemory
}
