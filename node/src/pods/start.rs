//! Starting one attempt of a container: image, configuration, bundle, task. A straight list of steps, each
//! with its own failure; a record is on disk before anything runs.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amphipod_shim_api::RootfsMount;
use amphipod_shim_api::network::NetworkRules;
use amphipod_shim_api::serving;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use oci_spec::runtime::{LinuxDevice, LinuxSeccomp};
use tokio_util::sync::CancellationToken;

use super::apparmor;
use super::context::{Context, PodDirs};
use super::devices;
use super::environment::environment;
use super::failure::{FailureKind, StartFailure};
use super::folders::{Given, folders};
use super::handler;
use super::hooks::{self, Hook};
use super::hostname;
use super::image_volumes;
use super::kills::Kills;
use super::launch::{Prepared, Program, launch};
use super::network_rules::network_rules;
use super::pull;
use super::record::{Record, RuntimeKind, State, User};
use super::roots;
use super::runtime;
use super::sandbox;
use super::seccomp;
use super::stop_signal::stop_signal;
use super::target::{Target, namespaces};
use super::tasks::{self, Stopping};
use super::turns::Turn;
use super::view::{PodView, spec_hash};
use crate::bundle::mounts::Bind;
use crate::bundle::{self, Namespaces, Parts, Runtime, identity};
use crate::env::Environment;
use crate::events::Severity::{Normal, Warning};
use crate::files::write_of_this_boot;
use crate::images::{Image, ImageKind, Mount, Rootfs};
use crate::removal;
use crate::users::{IDS_PER_POD, IdRange};
use crate::volumes::{self, Places};

/// Why a container waits whose `postStart` failed.
pub const POST_START_FAILED: &str = "PostStartHookError";
/// File of an attempt that receives it.
pub const TERMINATION_FILE: &str = "termination-log";
/// `/dev/shm` of a Pod, in bytes; what containerd gives.
const SHM_BYTES: u64 = 64 << 20;

/// One start.
pub struct Job {
    pub pod: Arc<Pod>,
    pub container: String,
    pub attempt: u32,
    pub ips: Vec<IpAddr>,
    pub namespaces: Namespaces,
    /// The runtime handler of the Pod's class.
    pub handler: String,
    /// The container whose processes this one sees (`targetContainerName`).
    pub target: Option<Target>,
    pub cancel: CancellationToken,
    pub turn: Turn,
    pub kills: Arc<Kills>,
}

/// Runs the job to a running task.
pub async fn start(ctx: Arc<Context>, job: Job) -> Result<Record, StartFailure> {
    let Some(pod) = PodView::new(&job.pod) else {
        return Err(StartFailure::cancelled());
    };
    let Some((container, _)) = pod.container(&job.container) else {
        return Err(StartFailure::cancelled());
    };
    let ready = async {
        let shown = sandbox::set_up_volumes_of_added(&ctx, pod, &job.container, &job.ips).await;
        shown.map_err(StartFailure::volumes)?;
        let image = pull::ensure(&ctx, pod, &container, &job.handler).await?;
        job.turn.comes().await;
        Ok(image)
    };
    let image = job.cancel.run_until_cancelled(ready).await;
    let image = image.unwrap_or_else(|| Err(StartFailure::cancelled()))?;
    let container = &*container;
    let prepared = prepare(&ctx, &job, pod, container, &image).await?;
    let event = |reason, text: &str| {
        ctx.recorder
            .container(pod, &container.name, Normal, reason, text.to_owned());
    };
    event("Created", "Container created");
    if job.cancel.is_cancelled() {
        discard(&ctx, pod, &prepared.record);
        return Err(StartFailure::cancelled());
    }
    let bundle = prepared.dir.join("bundle");
    let record = launch(&ctx, pod, prepared).await?;
    let started = match serving::port(&bundle) {
        Some(port) => format!("Container started, serving HTTP on port {port}"),
        None => "Container started".to_owned(),
    };
    event("Started", &started);
    post_start(&ctx, &job, pod, container, record).await
}

/// Runs the container's `postStart`. When it fails the container is ended, and the attempt has failed. When the start is
/// given up meanwhile, the container runs and is stopped as any other.
async fn post_start(
    ctx: &Arc<Context>,
    job: &Job,
    pod: PodView<'_>,
    container: &Container,
    record: Record,
) -> Result<Record, StartFailure> {
    let handler = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
    let Some(handler) = handler else {
        return Ok(record);
    };
    let hook = Hook {
        ctx,
        pod,
        container,
        record: &record,
        ip: job.ips.first().copied(),
    };
    let run = job.cancel.run_until_cancelled(hook.run(handler, hooks::NO_LIMIT));
    let Some(Err(error)) = run.await else {
        return Ok(record);
    };
    let recorder = &ctx.recorder;
    recorder.container(
        pod,
        &container.name,
        Warning,
        "FailedPostStartHook",
        "PostStartHook failed".into(),
    );
    recorder.container(
        pod,
        &container.name,
        Normal,
        "Killing",
        "FailedPostStartHook".into(),
    );
    let turn = CancellationToken::new();
    turn.cancel();
    let stopping = Stopping {
        ctx: ctx.clone(),
        pod: job.pod.clone(),
        record: record.clone(),
        ip: hook.ip,
        hook_is_due: true,
        turn,
        kill: job.kills.begin(&container.name),
    };
    let grace = Duration::from_secs(u64::try_from(pod.grace_seconds()).unwrap_or(0));
    let ended = tokio::select! {
        ended = tasks::wait(ctx.clone(), job.pod.clone(), record) => ended,
        // Goes on until the end is seen above.
        () = tasks::stop(stopping, grace) => return Err(StartFailure::cancelled()),
    };
    Err(StartFailure {
        reason: POST_START_FAILED,
        message: error.to_string(),
        kind: FailureKind::Attempt(Box::new(ended)),
    })
}

/// Everything decided for one attempt, before it is written.
struct Build<'a> {
    ctx: &'a Context,
    job: &'a Job,
    pod: PodView<'a>,
    container: &'a Container,
    image: &'a Image,
    /// Where its program may be among the image's files.
    program: Vec<PathBuf>,
    id: String,
    rootfs: Rootfs,
    environment: Environment,
    identity: identity::Identity,
    files: Vec<Bind>,
    volumes: Vec<Bind>,
    claimed_devices: Vec<LinuxDevice>,
    seccomp: Option<LinuxSeccomp>,
    apparmor: Option<String>,
    namespaces: Namespaces,
    hostname: String,
    /// Whom a guest may meet.
    rules: NetworkRules,
    dirs: PodDirs,
}

async fn prepare(
    ctx: &Context,
    job: &Job,
    pod: PodView<'_>,
    container: &Container,
    image: &Image,
) -> Result<Prepared, StartFailure> {
    if !has_command(container, image) {
        return Err(StartFailure::create("no command specified"));
    }
    let environment = environment(ctx, job, pod, container).await?;
    let program = bundle::process::program(container, &image.config, &environment);
    let kind = runtime::decide(&job.handler, (&image.reference, image.kind), || {
        ctx.images.is_wasm(image, &program)
    });
    let kind = kind.map_err(StartFailure::create)?;
    let image = &Image {
        kind,
        ..image.clone()
    };
    let identity = identity(ctx, pod, container, image)?;
    let dirs = ctx.dirs(pod);
    // A guest has no user namespace: its root is the host's.
    let users = job.namespaces.user.as_ref();
    let users = users.filter(|_| image.kind == ImageKind::Native);
    let places = Places {
        volumes: &dirs.volumes(),
        sub_paths: &dirs.sub_paths(),
        users: users.map(|(path, _)| path.as_path()),
    };
    image_volumes::set_up(ctx, pod, container, places).await?;
    let all = pod.spec.volumes.as_deref().unwrap_or_default();
    let volumes = volumes::binds(places, all, container, &environment);
    let mut volumes = volumes.map_err(StartFailure::config)?;
    if image.kind == ImageKind::Native {
        volumes::propagation::check(&volumes).map_err(StartFailure::create)?;
    }
    let claimed_devices =
        devices::of_claims(&dirs.devices(), container, image.kind).map_err(StartFailure::config)?;
    let seccomp = seccomp::local(&ctx.options.layout.seccomp(), pod, container, image.kind);
    let seccomp = seccomp.map_err(StartFailure::create)?;
    let apparmor = apparmor::of_container(pod, container, image.kind).await;
    let apparmor = apparmor.map_err(StartFailure::create)?;
    let namespaces = namespaces(ctx, job, pod).await?;
    let hostname = hostname::told(pod).map_err(StartFailure::config)?;
    let id = hex::encode(rand::random::<[u8; 32]>());
    let message = dirs.attempt(&container.name, job.attempt).join(TERMINATION_FILE);
    let files = roots::files(&dirs, container, &message);
    let owner = users.map(|(_, ids)| ids.first);
    let mounted = files.iter().chain(&volumes);
    let taken = mounted.map(|bind| bind.destination.clone()).collect();
    let made = roots::make(ctx, image, &id, owner, taken).await;
    let (rootfs, images_own) = made.inspect_err(|_| release(ctx, &id))?;
    volumes.extend(images_own);
    let rules = network_rules(ctx, job, pod, image.kind, &id).await;
    let rules = rules.inspect_err(|_| release(ctx, &id))?;
    let build = Build {
        ctx,
        job,
        pod,
        container,
        image,
        program,
        id,
        rootfs,
        environment,
        identity,
        files,
        volumes,
        claimed_devices,
        seccomp,
        apparmor,
        namespaces,
        hostname,
        rules,
        dirs,
    };
    let record = build.record();
    if let Err(error) = build.write(&record).await {
        discard(ctx, pod, &record);
        return Err(StartFailure::create(format!(
            "failed to write the bundle of the container: {error}"
        )));
    }
    Ok(build.prepared(record))
}

/// Whether the Pod or the image says what to run; a Wasm artifact is its own command.
fn has_command(container: &Container, image: &Image) -> bool {
    let says = |words: &Option<Vec<String>>| words.as_ref().is_some_and(|words| !words.is_empty());
    image.kind == ImageKind::Wasm
        || says(&container.command)
        || says(&container.args)
        || !image.config.entrypoint.is_empty()
        || !image.config.cmd.is_empty()
}

/// A process is who the Pod and the image say; so are the files of a guest.
fn identity(
    ctx: &Context,
    pod: PodView<'_>,
    container: &Container,
    image: &Image,
) -> Result<identity::Identity, StartFailure> {
    let wish = identity::wish(pod, container, &image.config.user).map_err(StartFailure::config)?;
    let found = ctx.images.user(image, &wish.user).map_err(StartFailure::create)?;
    Ok(wish.granted(found.uid, found.gid, &found.additional_gids, &found.home))
}

impl Build<'_> {
    /// The namespace whose containers share its shim, if they do.
    fn shared_by(&self) -> Option<&str> {
        let shares = self.runtime() == RuntimeKind::Wasm && self.job.handler != handler::WASM_ISOLATED;
        shares.then(|| self.pod.namespace())
    }

    fn runtime(&self) -> RuntimeKind {
        match self.rootfs {
            Rootfs::Native { .. } => RuntimeKind::Native,
            Rootfs::Wasm { .. } => RuntimeKind::Wasm,
        }
    }

    fn record(&self) -> Record {
        Record {
            id: self.id.clone(),
            pod_uid: self.pod.uid().to_owned(),
            pod_namespace: self.pod.namespace().to_owned(),
            pod_name: self.pod.name().to_owned(),
            container: self.container.name.clone(),
            attempt: self.job.attempt,
            image: self.image.reference.clone(),
            image_id: self.image.repo_digest.clone(),
            runtime: self.runtime(),
            user: Some(self.user()),
            address: self
                .shared_by()
                .and_then(|namespace| self.ctx.shims.of(namespace)),
            stop_signal: stop_signal(&self.image.config.stop_signal),
            log_path: self.dirs.log(&self.container.name, self.job.attempt),
            spec_hash: spec_hash(self.container),
            resources: Some(self.container.resources.clone().unwrap_or_default()),
            pod_resources: self.pod.spec.resources.clone(),
            boot_id: self.ctx.boot_id.clone(),
            created_at: Timestamp::now(),
            state: State::Created,
        }
    }

    fn user(&self) -> User {
        User {
            uid: self.identity.uid,
            gid: self.identity.gid,
            groups: self.identity.additional_gids.clone(),
        }
    }

    /// A Wasm artifact has no files that its container's could be among.
    fn has_root(&self) -> bool {
        match &self.rootfs {
            Rootfs::Native { .. } => true,
            Rootfs::Wasm { mounts, .. } => !mounts.is_empty(),
        }
    }

    fn attempt_dir(&self) -> PathBuf {
        self.dirs.attempt(&self.container.name, self.job.attempt)
    }

    /// Writes the bundle, and the record last.
    async fn write(&self, record: &Record) -> io::Result<()> {
        if record.runtime == RuntimeKind::Native {
            let shm = volumes::host::mount_tmpfs(&self.dirs.shm(), Some(SHM_BYTES), 0o1777);
            shm.map_err(io::Error::other)?;
        }
        let dir = self.attempt_dir();
        removal::remove(&dir)?;
        let bundle = self.dirs.bundle(&self.container.name, self.job.attempt);
        fs::create_dir_all(bundle.join("rootfs"))?;
        make_log_directory(&record.log_path)?;
        let message = dir.join(TERMINATION_FILE);
        fs::write(&message, "")?;
        // Any user of the container may leave its last words.
        fs::set_permissions(&message, fs::Permissions::from_mode(0o666))?;
        let given = match self.has_root() {
            true => Given {
                binds: self.volumes.clone(),
                message: None,
            },
            false => folders(
                &self.dirs.folders(&self.container.name),
                &dir.join("message"),
                &self.volumes,
                &roots::last_words(self.container, &message),
            )
            .map_err(io::Error::other)?,
        };
        let config = serde_json::to_vec(&self.config(&given))?;
        write_of_this_boot(&bundle.join("config.json"), &config)?;
        record.save(&dir).await
    }

    fn config(&self, given: &Given) -> oci_spec::runtime::Spec {
        let stored = match &self.rootfs {
            Rootfs::Native { .. } => None,
            Rootfs::Wasm { module, .. } => module.as_ref(),
        };
        let stored = stored.map(|module| (module.file.as_path(), module.digest.to_string()));
        let runtime = match &self.rootfs {
            Rootfs::Native { .. } => Runtime::Native,
            Rootfs::Wasm { cache, .. } => Runtime::Wasm {
                module: stored.as_ref().map(|(file, digest)| (*file, digest.as_str())),
                cache,
                has_root: self.has_root(),
            },
        };
        let devices = if bundle::is_privileged(self.container) {
            devices::of_host(Path::new("/dev"))
        } else {
            Vec::new()
        };
        bundle::spec(&Parts {
            pod: self.pod,
            container: self.container,
            id: &self.id,
            cluster: &self.ctx.options.cluster,
            image: &self.image.config,
            environment: &self.environment,
            identity: &self.identity,
            runtime,
            files: &self.files,
            volumes: &given.binds,
            message: given.message.as_deref(),
            namespaces: &self.namespaces,
            handler: &self.job.handler,
            hostname: &self.hostname,
            memory_capacity: self.ctx.memory_capacity,
            cgroups: self.ctx.cgroups,
            devices: &devices,
            claimed_devices: &self.claimed_devices,
            seccomp: self.seccomp.as_ref(),
            apparmor: self.apparmor.as_deref(),
            attach: &self.ctx.doors(&self.id).socket,
            rules: &self.rules,
        })
    }

    fn prepared(self, record: Record) -> Prepared {
        let dir = self.attempt_dir();
        let ids = self.namespaces.ids();
        let shared_by = self.shared_by().map(str::to_owned);
        let rootfs = match self.rootfs {
            Rootfs::Native { mounts } => mounts.into_iter().map(|m| rootfs_mount(m, ids)).collect(),
            Rootfs::Wasm { mounts, .. } => mounts.into_iter().map(|m| rootfs_mount(m, None)).collect(),
        };
        Prepared {
            record,
            dir,
            rootfs,
            program: Program {
                image: self.image.clone(),
                places: self.program,
                handler: self.job.handler.clone(),
            },
            shared_by,
            terminal: self.container.tty == Some(true),
            stdin: self.container.stdin == Some(true),
        }
    }
}

/// A mount in containerd's words; layers are idmapped by those of its overlay mounts.
fn rootfs_mount(mount: Mount, ids: Option<IdRange>) -> RootfsMount {
    let mut options = mount.options;
    if let Some(IdRange { first }) = ids {
        options.extend(["uidmap", "gidmap"].map(|map| format!("{map}=0:{first}:{IDS_PER_POD}")));
    }
    RootfsMount {
        kind: mount.fs_type,
        source: mount.source,
        options,
    }
}

fn make_log_directory(log: &Path) -> io::Result<()> {
    log.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Removes what was prepared for an attempt that will not be.
fn discard(ctx: &Context, pod: PodView<'_>, record: &Record) {
    release(ctx, &record.id);
    let dir = ctx.dirs(pod).attempt(&record.container, record.attempt);
    if let Err(error) = removal::remove(&dir) {
        tracing::warn!(%error, path = %dir.display(), "cannot remove a given-up attempt");
    }
}

/// Gives back an attempt's root filesystem, closes the ways to its streams, and forgets whom it could meet.
pub fn release(ctx: &Context, id: &str) {
    ctx.narrower.forget(id);
    ctx.doors(id).remove();
    if let Err(error) = ctx.images.release(id) {
        tracing::warn!(%error, id, "cannot release a snapshot");
    }
}
