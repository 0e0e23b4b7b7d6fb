//! Ctrl-C and SIGTERM become one cancelled token. Refuses to know what stops.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first SIGINT or SIGTERM cancels; a second one ends the process at once, as impatient people expect.
pub fn on_interrupt() -> Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        for exit_code in [None, Some(130)] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            match exit_code {
                None => cancelled.cancel(),
                Some(code) => std::process::exit(code),
            }
        }
    });
    Ok(token)
}
