//! The flags of `amphipod image`, and what it prints.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use amphipod_node::images::{Endpoints, ImagesOptions, RegistryAuth};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{ConfigOverrides, ImageError, PushEvent, PushProgress, PushRequest, list};

/// The registry name that stands for the cluster's own (ARCHITECTURE.md).
pub const CLUSTER_REGISTRY: &str = "amphipod.local";

/// `amphipod image …`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Make an image of a .wasm file, a static executable, a directory, an OCI layout or a docker archive, and push it
    Push(PushArgs),
    /// Pull an image into the cluster's node store
    Pull(PullArgs),
    /// List the images of the node store and of the cluster's registry
    Ls(LsArgs),
}

/// Where registries are and who we are there.
#[derive(Debug, Args)]
pub struct AccessArgs {
    /// Data directory of the cluster whose registry `amphipod.local` stands for
    #[arg(long, value_name = "DIR", env = "AMPHIPOD_DATA_DIR", default_value = crate::cli::DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    /// Reach `amphipod.local` at this URL instead of asking the data directory
    #[arg(long, value_name = "URL")]
    pub registry_url: Option<String>,
    /// Speak plain HTTP to this registry (HOST or HOST:PORT; may be repeated); loopback addresses need no mention
    #[arg(long, value_name = "HOST")]
    pub insecure: Vec<String>,
    /// User and password for the registry
    #[arg(
        long,
        value_name = "USER:PASSWORD",
        env = "AMPHIPOD_REGISTRY_CREDS",
        hide_env_values = true
    )]
    pub creds: Option<String>,
}

/// `amphipod image push`
#[derive(Debug, Args)]
pub struct PushArgs {
    /// A .wasm file, a static Linux executable, a directory, an OCI layout (directory or tar) or a docker archive
    pub path: PathBuf,
    /// Where to push, such as amphipod.local/hello:v1
    pub reference: String,
    #[command(flatten)]
    pub access: AccessArgs,
    /// Entrypoint of a native image made here (repeat for arguments; default for an executable: itself)
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub entrypoint: Vec<String>,
    /// Default arguments of a native image made here (repeat for more)
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub cmd: Vec<String>,
    /// Environment of a native image made here (may be repeated)
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Working directory of a native image made here
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User of a native image made here
    #[arg(long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Port a native image made here listens on (may be repeated)
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    pub expose: Vec<String>,
    /// Label of a native image made here (may be repeated)
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
}

/// `amphipod image pull`
#[derive(Debug, Args)]
pub struct PullArgs {
    /// What to pull, such as nginx or amphipod.local/hello:v1
    pub reference: String,
    #[command(flatten)]
    pub access: AccessArgs,
}

/// `amphipod image ls`
#[derive(Debug, Args)]
pub struct LsArgs {
    #[command(flatten)]
    pub access: AccessArgs,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Runs a command. `registry_of` answers where the registry of the cluster in a data directory listens, as
/// a URL; `wasm_shim` are the command words of the Wasm shim, for compiling what is pulled.
///
/// # Errors
/// See [`ImageError`]; its text says what to do.
pub async fn run(
    command: ImageCommand,
    registry_of: impl Fn(&Path) -> Option<String>,
    wasm_shim: Vec<OsString>,
) -> Result<(), ImageError> {
    match command {
        ImageCommand::Push(args) => push(args, registry_of).await,
        ImageCommand::Pull(args) => pull(args, registry_of, wasm_shim).await,
        ImageCommand::Ls(args) => ls(args, registry_of).await,
    }
}

impl AccessArgs {
    fn registry(&self, registry_of: impl Fn(&Path) -> Option<String>) -> Option<String> {
        self.registry_url.clone().or_else(|| registry_of(&self.data_dir))
    }

    fn mirrors(&self, registry_of: impl Fn(&Path) -> Option<String>) -> BTreeMap<String, String> {
        self.registry(registry_of)
            .map(|url| (CLUSTER_REGISTRY.to_owned(), url))
            .into_iter()
            .collect()
    }

    fn insecure(&self) -> BTreeSet<String> {
        self.insecure.iter().cloned().collect()
    }

    fn endpoints(&self, registry_of: impl Fn(&Path) -> Option<String>) -> Endpoints {
        Endpoints {
            mirrors: self.mirrors(registry_of),
            insecure: self.insecure(),
            ..Endpoints::default()
        }
    }

    fn auth(&self) -> RegistryAuth {
        match self.creds.as_deref().and_then(|creds| creds.split_once(':')) {
            Some((user, password)) => RegistryAuth::Basic(user.to_owned(), password.to_owned()),
            None => RegistryAuth::Anonymous,
        }
    }
}

async fn push(args: PushArgs, registry_of: impl Fn(&Path) -> Option<String>) -> Result<(), ImageError> {
    let (bar, progress) = push_progress();
    let request = PushRequest {
        path: args.path,
        reference: args.reference,
        endpoints: args.access.endpoints(registry_of),
        auth: args.access.auth(),
        config: ConfigOverrides {
            entrypoint: args.entrypoint,
            cmd: args.cmd,
            env: args.env,
            working_dir: args.workdir,
            user: args.user,
            expose: args.expose,
            labels: args.label.into_iter().collect(),
        },
        progress,
    };
    let result = super::push(request).await;
    bar.finish_and_clear();
    let (reference, digest) = result?;
    print(&format!("{reference}\t{digest}"));
    Ok(())
}

/// A bar on standard error when that is a terminal, else nothing: the result line says it all.
fn push_progress() -> (ProgressBar, PushProgress) {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("pushing {bar:32} {bytes}/{total_bytes} {bytes_per_sec}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let shown = bar.clone();
    let progress: PushProgress = Arc::new(move |event| match event {
        PushEvent::Prepared { total_bytes, .. } => shown.set_length(total_bytes),
        PushEvent::Skipped { bytes } | PushEvent::Sent { bytes } => shown.inc(bytes),
    });
    (bar, progress)
}

async fn pull(
    args: PullArgs,
    registry_of: impl Fn(&Path) -> Option<String>,
    wasm_shim: Vec<OsString>,
) -> Result<(), ImageError> {
    let options = ImagesOptions {
        mirrors: args.access.mirrors(registry_of),
        insecure_registries: args.access.insecure(),
        wasm_shim,
        ..ImagesOptions::default()
    };
    let image = super::pull(
        &args.reference,
        &args.access.data_dir,
        options,
        &args.access.auth(),
    )
    .await?;
    print(&format!("{}\t{}", image.reference, image.digest));
    Ok(())
}

async fn ls(args: LsArgs, registry_of: impl Fn(&Path) -> Option<String>) -> Result<(), ImageError> {
    let endpoints = args.access.endpoints(registry_of);
    let registry = endpoints
        .mirrors
        .contains_key(CLUSTER_REGISTRY)
        .then_some(CLUSTER_REGISTRY);
    if registry.is_none() && !args.access.data_dir.exists() {
        return Err(ImageError::NoDataDir(args.access.data_dir));
    }
    let listed = super::ls(&args.access.data_dir, registry, endpoints).await?;
    print(&list::table(&listed));
    Ok(())
}

/// A command's result belongs on standard output; a closed pipe is the reader's choice.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
