//! What a guest is run with: its words, its environment, where it begins.
//!
//! Owns what strings can be given to a guest. Refuses to know whose they are.

use super::BundleError;
use oci_spec::runtime::Process;
use std::path::Path;

/// Most bytes of arguments and environment together (`ARG_MAX` of Linux).
pub const MAX_ARGUMENT_BYTES: usize = 2 << 20;

/// Where a native container has what the kernel shows, and a guest nothing.
const KERNELS: [&str; 3] = ["/dev", "/proc", "/sys"];

/// What a guest is run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The whole argv, the program's name first.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: Option<String>,
}

impl Command {
    /// Reads a process of the runtime specification: the container's own, or one exec'd into it.
    ///
    /// # Errors
    /// When its strings cannot be given to a guest.
    pub fn from_process(process: &Process) -> Result<Self, BundleError> {
        let args = process.args().clone().unwrap_or_default();
        let env = process.env().clone().unwrap_or_default();
        check_strings(&args, &env)?;
        Ok(Self {
            args,
            env: env.iter().map(|entry| split_env(entry)).collect(),
            cwd: cwd(process.cwd())?,
        })
    }
}

fn check_strings(args: &[String], env: &[String]) -> Result<(), BundleError> {
    let all = || args.iter().chain(env);
    if all().any(|text| text.contains('\0')) {
        return Err(BundleError::Nul);
    }
    let bytes = all().map(|text| text.len() + 1).sum();
    if bytes > MAX_ARGUMENT_BYTES {
        Err(BundleError::ArgumentsTooLong(bytes))
    } else {
        Ok(())
    }
}

fn split_env(entry: &str) -> (String, String) {
    let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
    (name.to_owned(), value.to_owned())
}

/// The root is where guests begin anyway; naming it would promise a preopen that may not be there.
fn cwd(path: &Path) -> Result<Option<String>, BundleError> {
    if KERNELS.iter().any(|kernels| path.starts_with(kernels)) {
        return Err(BundleError::Directory(path.to_owned()));
    }
    let named = path.to_str().filter(|text| !text.is_empty() && *text != "/");
    Ok(named.map(str::to_owned))
}
