//! The agent's side of starting a shim: run its binary, read the address. Knows no particular runtime.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::ShimAddress;
use crate::client::Exit;

/// A shim answers `start` in milliseconds; a machine under great load needs a few seconds.
const START_LIMIT: Duration = Duration::from_secs(30);
/// `delete` kills and unmounts what a dead shim left.
const DELETE_LIMIT: Duration = Duration::from_secs(60);
/// An address or an error message, never more.
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// How a kind of shim is run on this node.
#[derive(Debug, Clone)]
pub struct ShimCommand {
    /// The program and its first words: `[/usr/bin/amphipod, linux-shim]`, or a containerd shim binary.
    pub words: Vec<OsString>,
    /// containerd namespace: the cluster's name.
    pub namespace: String,
}

/// Why a shim could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartShimError {
    #[error("no command is configured for this runtime")]
    NoCommand,
    #[error("cannot run shim {program:?}: {source}; is it installed and executable?")]
    Spawn {
        program: OsString,
        source: std::io::Error,
    },
    #[error("cannot read the answer of the shim: {0}")]
    Read(std::io::Error),
    #[error("the shim did not answer {action:?} within {limit:?}")]
    Timeout { action: &'static str, limit: Duration },
    #[error("the shim failed to {action} ({status}): {message}")]
    Failed {
        action: &'static str,
        status: std::process::ExitStatus,
        message: String,
    },
    #[error("the shim answered with something that is no address: {0:?}")]
    BadAnswer(String),
}

struct Output {
    stdout: Vec<u8>,
}

impl ShimCommand {
    /// Finds or starts the process that serves the group of this bundle, and says where it listens.
    pub async fn start(&self, id: &str, bundle: &Path) -> Result<ShimAddress, StartShimError> {
        let output = self.run("start", id, bundle, START_LIMIT).await?;
        parse_address(&String::from_utf8_lossy(&output.stdout))
    }

    /// Cleans up after a shim that died: kills what is left of the container, removes its cgroup.
    pub async fn delete(&self, id: &str, bundle: &Path) -> Result<Exit, StartShimError> {
        let output = self.run("delete", id, bundle, DELETE_LIMIT).await?;
        let answer = DeleteResponse::parse_from_bytes(&output.stdout)
            .map_err(|e| StartShimError::BadAnswer(e.to_string()))?;
        let at = jiff::Timestamp::new(answer.exited_at.seconds, answer.exited_at.nanos);
        Ok(Exit {
            status: answer.exit_status,
            at: at.unwrap_or(jiff::Timestamp::UNIX_EPOCH),
        })
    }

    async fn run(
        &self,
        action: &'static str,
        id: &str,
        bundle: &Path,
        limit: Duration,
    ) -> Result<Output, StartShimError> {
        let child = self.spawn(action, id, bundle)?;
        match tokio::time::timeout(limit, finish(child, action)).await {
            Ok(done) => done,
            Err(_) => Err(StartShimError::Timeout { action, limit }),
        }
    }

    fn spawn(&self, action: &str, id: &str, bundle: &Path) -> Result<Child, StartShimError> {
        let (program, words) = self.words.split_first().ok_or(StartShimError::NoCommand)?;
        let directory = if bundle.is_dir() {
            bundle.to_owned()
        } else {
            PathBuf::from("/")
        };
        Command::new(program)
            .args(words)
            .args([
                "-namespace",
                &self.namespace,
                "-id",
                id,
                "-address",
                "",
                "-bundle",
            ])
            .arg(bundle)
            .arg(action)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| StartShimError::Spawn {
                program: program.clone(),
                source,
            })
    }
}

async fn finish(mut child: Child, action: &'static str) -> Result<Output, StartShimError> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = tokio::join!(read(stdout), read(stderr));
    let status = child.wait().await.map_err(StartShimError::Read)?;
    if !status.success() {
        let message = String::from_utf8_lossy(&stderr.map_err(StartShimError::Read)?)
            .trim()
            .to_owned();
        return Err(StartShimError::Failed {
            action,
            status,
            message,
        });
    }
    Ok(Output {
        stdout: stdout.map_err(StartShimError::Read)?,
    })
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(OUTPUT_LIMIT).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// containerd 2's JSON form of the answer (`BootstrapParams`).
#[derive(Deserialize)]
struct Bootstrap {
    version: u32,
    address: String,
    protocol: String,
}

/// A plain address means Task API 2 (containerd 1.x); JSON names its version.
fn parse_address(answer: &str) -> Result<ShimAddress, StartShimError> {
    let answer = answer.trim();
    let bad = || StartShimError::BadAnswer(answer.chars().take(200).collect());
    let found = match serde_json::from_str::<Bootstrap>(answer) {
        Ok(b) if b.protocol == "ttrpc" => ShimAddress {
            address: b.address,
            version: b.version,
        },
        Ok(_) => return Err(bad()),
        Err(_) => ShimAddress {
            address: answer.into(),
            version: 2,
        },
    };
    if found.address.starts_with("unix://") {
        Ok(found)
    } else {
        Err(bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_address_are_read() {
        let plain = parse_address("unix:///run/a.sock\n").unwrap();
        assert_eq!((plain.address.as_str(), plain.version), ("unix:///run/a.sock", 2));
        let json =
            parse_address(r#"{"version":3,"address":"unix:///run/b.sock","protocol":"ttrpc"}"#).unwrap();
        assert_eq!((json.address.as_str(), json.version), ("unix:///run/b.sock", 3));
        assert!(parse_address("").is_err());
        assert!(parse_address(r#"{"version":3,"address":"unix:///b","protocol":"grpc"}"#).is_err());
    }

    fn command(words: &[&str]) -> ShimCommand {
        ShimCommand {
            words: words.iter().map(OsString::from).collect(),
            namespace: "n".into(),
        }
    }

    #[tokio::test]
    async fn a_failing_shim_is_quoted() {
        let bundle = tempfile::tempdir().unwrap();
        let failing = command(&["/bin/sh", "-c", "echo no luck >&2; exit 3"]);
        let error = failing.start("c", bundle.path()).await.unwrap_err();
        assert!(error.to_string().contains("no luck"), "{error}");
        let absent = command(&["/nonexistent/shim"])
            .start("c", bundle.path())
            .await
            .unwrap_err();
        assert!(matches!(absent, StartShimError::Spawn { .. }), "{absent}");
    }

    #[tokio::test]
    async fn the_address_is_taken_from_standard_output() {
        let bundle = tempfile::tempdir().unwrap();
        let shim = command(&["/bin/sh", "-c", "echo unix:///x.sock"]);
        assert_eq!(
            shim.start("c", bundle.path()).await.unwrap().address,
            "unix:///x.sock"
        );
    }
}
