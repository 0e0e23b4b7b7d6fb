//! Commands: preview 1 modules and `wasi:cli/command` components, run once to their end.

use super::Ending;
use super::output::Output;
use super::wasi::{Stdio, world};
use crate::bundle;
use crate::engine::budget::{Budget, Limiter, OverBudget};
use crate::program::load::Program;
use crate::program::state::{State, store};
use crate::program::world::Linked;
use std::sync::Arc;
use wasmtime::Store;
use wasmtime_wasi::I32Exit;

/// What a command is run with.
pub struct Job<'a> {
    pub program: &'a Program,
    pub command: &'a bundle::Command,
    pub preopens: &'a [bundle::Preopen],
    pub budget: &'a Arc<Budget>,
}

impl Job<'_> {
    /// Runs it to its end and says how it ended; a trap is told on stderr.
    pub async fn run(&self, stdio: Stdio) -> Ending {
        let stderr = stdio.stderr.clone();
        let limiter = match self.budget.open(self.program.initial_bytes) {
            Ok(limiter) => limiter,
            Err(over) => return out_of_memory(&over, &stderr),
        };
        let result = match self.prepare(limiter, stdio) {
            Ok(mut store) => call(&self.program.linked, &mut store).await,
            Err(error) => Err(error),
        };
        ending(result, &stderr)
    }

    fn prepare(&self, limiter: Limiter, stdio: Stdio) -> wasmtime::Result<Store<State>> {
        let wasi = world(self.command, self.preopens, stdio)?;
        Ok(store(self.program.engine(), wasi, limiter))
    }
}

async fn call(linked: &Linked, store: &mut Store<State>) -> wasmtime::Result<Result<(), ()>> {
    match linked {
        Linked::Module(pre) => {
            let instance = pre.instantiate_async(&mut *store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
            start.call_async(&mut *store, ()).await.map(Ok)
        }
        Linked::Command(pre) | Linked::Either { command: pre, .. } => {
            let command = pre.instantiate_async(&mut *store).await?;
            command.wasi_cli_run().call_run(&mut *store).await
        }
        Linked::Http(_) => Err(wasmtime::format_err!("an HTTP handler is served, not run")),
    }
}

/// How a finished call ends the container.
fn ending(result: wasmtime::Result<Result<(), ()>>, stderr: &Output) -> Ending {
    let error = match result {
        Ok(Ok(())) => return Ending::Exited(0),
        Ok(Err(())) => return Ending::Exited(1),
        Err(error) => error,
    };
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return Ending::Exited(u8::try_from(*code).unwrap_or(u8::MAX));
    }
    if let Some(over) = error.downcast_ref::<OverBudget>() {
        return out_of_memory(over, stderr);
    }
    stderr.say(&format!("{error:?}"));
    Ending::Trapped
}

fn out_of_memory(over: &OverBudget, stderr: &Output) -> Ending {
    stderr.say(&over.to_string());
    Ending::OutOfMemory
}
