//! Ctrl-C and SIGTERM become one cancelled token. Refuses to know what stops.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// There while systemd runs the host (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// SIGTERM came.
static TERMINATED: AtomicBool = AtomicBool::new(false);

/// Whether this process was stopped because the host goes down. Where systemd runs it, a service may be stopped for other
/// reasons, and systemd is asked.
pub fn host_is_ending() -> bool {
    if !TERMINATED.load(Ordering::Relaxed) {
        return false;
    }
    if !Path::new(SYSTEMD).exists() {
        return true;
    }
    let state = std::process::Command::new("systemctl")
        .arg("is-system-running")
        .output();
    match state {
        Ok(output) => output.stdout.trim_ascii() == b"stopping",
        Err(error) => {
            tracing::warn!(%error, "systemd cannot be asked whether the host goes down");
            false
        }
    }
}

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
                _ = terminate.recv() => TERMINATED.store(true, Ordering::Relaxed),
            }
            match exit_code {
                None => cancelled.cancel(),
                Some(code) => std::process::exit(code),
            }
        }
    });
    Ok(token)
}
