//! The AppArmor profile of containers that ask for the runtime's default, or for nothing: what Docker and containerd load
//! for theirs, this node loads too. Handing it to the kernel is `apparmor_parser`'s work, which compiles it for the kernel
//! that runs.

use std::fs;
use std::io;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The name below which the kernel knows the profile.
const NAME: &str = "amphipod-default";
/// The profile itself. What is not denied is left to capabilities, seccomp, namespaces and masked paths; it is a second
/// fence behind these.
const PROFILE: &str = include_str!("default.profile");
/// Defaults of other runtimes, taken where this one cannot be loaded.
const OTHERS: [&str; 2] = ["cri-containerd.apparmor.d", "docker-default"];
/// Those that are loaded, one a line: name and mode.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
const PARSER: &str = "/sbin/apparmor_parser";
/// It takes a tenth of a second where nothing else is to be done.
const PARSER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why the profile is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot run {PARSER}: {0}")]
    Run(#[from] io::Error),
    #[error("{PARSER} refused it: {0}")]
    Refused(String),
    #[error("{PARSER} took more than {} s", PARSER_TIMEOUT.as_secs())]
    Timeout,
}

/// The name of a default that is loaded. The first time it is loaded anew: an older agent may have left another.
pub async fn name() -> Result<&'static str, LoadError> {
    static FRESH: AtomicBool = AtomicBool::new(false);
    let loaded = || fs::read_to_string(LOADED).unwrap_or_default();
    // Somebody may have taken it out again since.
    if FRESH.load(Ordering::Relaxed) && is_loaded(&loaded(), NAME) {
        return Ok(NAME);
    }
    match load().await {
        Ok(()) => {
            FRESH.store(true, Ordering::Relaxed);
            Ok(NAME)
        }
        Err(error) => other(&loaded()).ok_or(error),
    }
}

fn other(loaded: &str) -> Option<&'static str> {
    OTHERS.into_iter().find(|name| is_loaded(loaded, name))
}

fn is_loaded(loaded: &str, name: &str) -> bool {
    let mut names = loaded.lines().filter_map(|line| line.rsplit_once(" ("));
    names.any(|(loaded, _)| loaded == name)
}

async fn load() -> Result<(), LoadError> {
    parse(&["--replace", "--skip-cache"]).await
}

/// Gives the profile to the parser.
async fn parse(words: &[&str]) -> Result<(), LoadError> {
    let mut parser = Command::new(PARSER)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdin = parser.stdin.take();
    let run = async {
        if let Some(mut stdin) = stdin {
            stdin.write_all(PROFILE.as_bytes()).await?;
        }
        parser.wait_with_output().await
    };
    let output = tokio::time::timeout(PARSER_TIMEOUT, run).await;
    let output = output.map_err(|_| LoadError::Timeout)??;
    match output.status.success() {
        true => Ok(()),
        false => Err(LoadError::Refused(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_of_other_runtimes_serve_too() {
        let loaded = "/usr/bin/man (enforce)\ndocker-default (enforce)\n";
        assert_eq!(other(loaded), Some("docker-default"));
        assert_eq!(other("docker-default-not (enforce)\n"), None);
        assert!(is_loaded("amphipod-default (enforce)\n", NAME));
    }

    #[tokio::test]
    async fn the_profile_is_one() {
        match parse(&["--skip-kernel-load", "--skip-cache"]).await {
            Err(LoadError::Run(error)) => eprintln!("skipped: needs Debian's package apparmor ({error})"),
            parsed => parsed.unwrap(),
        }
        assert!(PROFILE.contains(&format!("\nprofile {NAME} ")));
    }
}
