//! A container: its cgroup, its first process, those exec'd into it, and the calls its state allows.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use amphipod_shim_api::cgroup::{Cgroup, Limits};
use amphipod_shim_api::client::{Exit, TaskStatus};
use amphipod_shim_api::events::Story;
use amphipod_shim_api::systemd::Unit;
use amphipod_shim_api::{Standing, TaskError, TaskStats};
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use tokio::sync::Notify;

use crate::confine::failed as cgroup_failed;
use crate::exec::{Exec, already_started, failed as exec_failed, still_running};
use crate::hooks::{Hooks, Subject};
use crate::id_map::IdMaps;
use crate::init::{ContainerPlan, ProcessPlan};
use crate::keeper::SharedProcesses;
use crate::launch::Running;
use crate::out_of_memory;
use crate::planned::{Asked, Planned};
use crate::process::{ContainerProcess, ProcessError, run_hooks};
use crate::processes;
use crate::reaper::Reaper;
use crate::rootless::RootlessError;
use crate::scope;
use crate::spec;
use crate::streams::Addresses;

/// A container and everything in it.
#[derive(Debug)]
pub struct Container {
    pub id: String,
    pub bundle: PathBuf,
    pub spec: Spec,
    cgroup: Cgroup,
    /// What systemd calls it, if it is the cgroup's manager.
    unit: Option<Unit>,
    more_namespaces: CloneFlags,
    ids: Option<IdMaps>,
    hooks: Hooks,
    subject: Subject,
    keyring: Option<String>,
    /// The cgroup above belongs to the same cluster, so that the last container removes it.
    owns_parent: bool,
    first: Arc<ContainerProcess>,
    /// What containerd is told of the first process.
    story: Arc<Story>,
    execs: Mutex<HashMap<String, Exec>>,
    /// An exec was started or removed.
    changed: Notify,
    paused: AtomicBool,
}

/// One process as State describes it.
#[derive(Debug)]
pub struct Described {
    pub pid: u32,
    pub status: TaskStatus,
    pub addresses: Addresses,
    pub exit: Option<Exit>,
}

pub fn failed(error: &ProcessError) -> TaskError {
    TaskError::Internal(format!(
        "OCI runtime create failed: unable to start container process: {error}"
    ))
}

impl Container {
    /// Makes a container whose program waits for [`Container::start`]. On failure nothing of it is left.
    pub async fn create(
        reaper: &Reaper,
        shared: &SharedProcesses,
        asked: Asked,
        story: Arc<Story>,
    ) -> Result<Self, TaskError> {
        let standing = Standing::of_this_process();
        let mut planned = Planned::of(standing, &asked)?;
        if planned.shares_processes() {
            if standing.makes_do() {
                return Err(invalid(&RootlessError::SharedProcesses));
            }
            let given = shared.give(reaper, &mut planned.plan).await;
            given.map_err(|e| failed(&e))?;
        }
        make_rootfs_dir(&planned.plan.rootfs)?;
        let (confined, made) = planned.make(reaper, standing).await?;
        let Planned { spec, plan, .. } = planned;
        let (pid, ending) = (made.process.pid(), Arc::clone(&story));
        let look = out_of_memory::look(&plan.cgroup, &confined, &asked.bundle, &story);
        let first = made.follow(end_of_all(&plan), move |exit| {
            look(exit.status);
            ending.ended(pid, exit);
        });
        Ok(Self {
            id: asked.id,
            bundle: asked.bundle,
            spec,
            more_namespaces: plan.more_namespaces(),
            ids: plan.ids,
            cgroup: plan.cgroup,
            owns_parent: spec::is_below(&confined.path, &asked.namespace),
            unit: confined.unit,
            hooks: plan.hooks,
            subject: plan.subject,
            keyring: plan.process.keyring,
            first,
            story,
            execs: Mutex::default(),
            changed: Notify::new(),
            paused: AtomicBool::new(false),
        })
    }

    /// Lets the first process, or an exec, run; answers its pid.
    pub async fn start(&self, reaper: &Reaper, exec: &str) -> Result<u32, TaskError> {
        if self.is_paused() {
            // Frozen, a process would neither take the word nor come in.
            return Err(TaskError::FailedPrecondition("the container is paused".into()));
        }
        match exec.is_empty() {
            true => self.start_first(reaper).await,
            false => self.start_exec(reaper, exec).await,
        }
    }

    async fn start_first(&self, reaper: &Reaper) -> Result<u32, TaskError> {
        let _starting = self.story.hold();
        started(self.first.start().await)?;
        let state = self.subject.state("running", self.first.pid().cast_signed());
        if let Err(error) = run_hooks(reaper, &self.hooks.poststart, &state).await {
            self.kill_all(libc::SIGKILL)?;
            self.first.wait().await;
            return Err(failed(&error));
        }
        self.story.started(self.first.pid());
        Ok(self.first.pid())
    }

    async fn start_exec(&self, reaper: &Reaper, exec: &str) -> Result<u32, TaskError> {
        let asked = self.execs().get_mut(exec).map(Exec::take);
        let (plan, addresses) = asked.unwrap_or_else(|| Err(self.no_exec(exec)))?;
        let comes_before = Arc::clone(&self.story).hold_on();
        let made = ContainerProcess::exec(reaper, self.running(), &plan, &self.subject, &addresses).await;
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                self.execs().insert(exec.into(), Exec::Asked(plan, addresses));
                return Err(exec_failed(&error));
            }
        };
        let story = Arc::new(self.story.beside(exec));
        let _starting = story.hold();
        let (pid, ending) = (made.process.pid(), Arc::clone(&story));
        let process = made.follow(
            || (),
            move |exit| {
                ending.ended(pid, exit);
                drop(comes_before);
            },
        );
        self.execs().insert(exec.into(), Exec::Made(Arc::clone(&process)));
        self.changed.notify_waiters();
        process.start().await.map_err(|e| exec_failed(&e))?;
        story.started(pid);
        Ok(pid)
    }

    /// The container as processes are added to it.
    fn running(&self) -> Running<'_> {
        Running {
            pid: Pid::from_raw(self.first.pid().cast_signed()),
            cgroup: &self.cgroup,
            more: self.more_namespaces,
            ids: self.ids.as_ref(),
            shares_mounts: false,
        }
    }

    /// Remembers a process to be started in the container.
    pub fn add_exec(&self, exec: &str, mut plan: ProcessPlan, addresses: Addresses) -> Result<(), TaskError> {
        if self.first.exit().is_some() {
            return Err(TaskError::FailedPrecondition(format!(
                "container {} is not running",
                self.id
            )));
        }
        let mut execs = self.execs();
        if execs.contains_key(exec) {
            return Err(TaskError::AlreadyExists(format!(
                "exec {exec} in container {}",
                self.id
            )));
        }
        plan.keyring.clone_from(&self.keyring);
        execs.insert(exec.into(), Exec::Asked(Box::new(plan), addresses));
        Ok(())
    }

    /// The first process (for an empty id) or a started exec.
    pub fn process(&self, exec: &str) -> Result<Arc<ContainerProcess>, TaskError> {
        if exec.is_empty() {
            return Ok(Arc::clone(&self.first));
        }
        let not_started = || TaskError::FailedPrecondition(format!("exec {exec} is not started"));
        self.exec(exec)?.made().ok_or_else(not_started)
    }

    /// Waits for the end of a process; an exec may be waited for before it is started (containerd does).
    pub async fn wait(&self, exec: &str) -> Result<Exit, TaskError> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            match exec.is_empty() {
                false if self.exec(exec)?.made().is_none() => changed.await,
                _ => return Ok(self.process(exec)?.wait().await),
            }
        }
    }

    pub fn describe(&self, exec: &str) -> Result<Described, TaskError> {
        if !exec.is_empty()
            && let Exec::Asked(_, addresses) | Exec::Starting(addresses) = self.exec(exec)?
        {
            return Ok(Described {
                pid: 0,
                status: TaskStatus::Created,
                addresses,
                exit: None,
            });
        }
        let process = self.process(exec)?;
        let exit = process.exit();
        let status = match (exit, process.is_started(), self.is_paused()) {
            (Some(_), ..) => TaskStatus::Stopped,
            (None, _, true) => TaskStatus::Paused,
            (None, false, false) => TaskStatus::Created,
            (None, true, false) => TaskStatus::Running,
        };
        Ok(Described {
            pid: process.pid(),
            status,
            addresses: process.addresses().clone(),
            exit,
        })
    }

    /// Signals one process, or everything in the container.
    pub fn kill(&self, exec: &str, signal: i32, all: bool) -> Result<(), TaskError> {
        if all && exec.is_empty() {
            return self.kill_all(signal);
        }
        match self.process(exec)?.kill(signal) {
            Err(ProcessError::Finished) => Err(TaskError::NotFound("process already finished".into())),
            Err(error) => Err(TaskError::InvalidArgument(error.to_string())),
            // What v1 has frozen ends only when it is thawed.
            Ok(()) if signal == libc::SIGKILL && exec.is_empty() && self.is_paused() => self.thaw(),
            Ok(()) => Ok(()),
        }
    }

    fn kill_all(&self, signal: i32) -> Result<(), TaskError> {
        if signal == libc::SIGKILL {
            return match self.cgroup.is_none() {
                false => self.cgroup.kill().map_err(cgroup_failed),
                true => self.kill_known(),
            };
        }
        for pid in self.pids()? {
            // One that is gone meanwhile needs no signal.
            let _ = crate::sys::process::kill(pid.cast_signed(), signal);
        }
        Ok(())
    }

    /// Kills those we made. The first of a PID namespace takes the others with it; beside another nobody else is known.
    fn kill_known(&self) -> Result<(), TaskError> {
        let mut known = vec![Arc::clone(&self.first)];
        known.extend(self.execs().values().filter_map(Exec::made));
        known
            .iter()
            .try_for_each(|process| match process.kill(libc::SIGKILL) {
                Ok(()) | Err(ProcessError::Finished) => Ok(()),
                Err(error) => Err(TaskError::Internal(error.to_string())),
            })
    }

    /// Removes a stopped exec.
    pub fn delete_exec(&self, exec: &str) -> Result<(u32, Exit), TaskError> {
        let (pid, exit) = match self.exec(exec)? {
            Exec::Asked(..) => (
                0,
                Exit {
                    status: 0,
                    at: jiff::Timestamp::now(),
                },
            ),
            Exec::Starting(_) => return Err(still_running(exec)),
            Exec::Made(process) => match process.exit() {
                Some(exit) => (process.pid(), exit),
                None => return Err(still_running(exec)),
            },
        };
        self.execs().remove(exec);
        self.changed.notify_waiters();
        Ok((pid, exit))
    }

    /// Ends what is left of a container that is stopped or was never started, and its cgroup.
    pub async fn delete(&self, reaper: &Reaper) -> Result<(u32, Exit), TaskError> {
        if self.first.exit().is_none() && self.first.is_started() {
            return Err(TaskError::FailedPrecondition(format!(
                "container {} is still running",
                self.id
            )));
        }
        if self.cgroup.exists() || self.cgroup.is_none() {
            self.kill_all(libc::SIGKILL)?;
        }
        let exit = self.first.wait().await;
        if let Some(unit) = &self.unit {
            let stopped = scope::stop(unit).await;
            stopped.map_err(|e| TaskError::Internal(e.to_string()))?;
        }
        self.cgroup.remove().await.map_err(cgroup_failed)?;
        if self.owns_parent {
            self.cgroup.remove_parent();
        }
        run_poststop(reaper, &self.hooks, &self.subject).await;
        self.story.over().await;
        Ok((self.first.pid(), exit))
    }

    fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Stops everybody in a container that runs; of one that does not, containerd's shim refuses it too. Nothing is begun
    /// in it meanwhile.
    pub async fn pause(&self) -> Result<(), TaskError> {
        self.must_be(TaskStatus::Running, "paused")?;
        let cgroup = self.controlled()?;
        self.paused.store(true, Ordering::Relaxed);
        let stopped = cgroup.freeze(|| self.is_paused()).await;
        stopped.map_err(|error| {
            self.paused.store(false, Ordering::Relaxed);
            cgroup_failed(error)
        })
    }

    pub fn resume(&self) -> Result<(), TaskError> {
        self.must_be(TaskStatus::Paused, "resumed")?;
        self.thaw()
    }

    fn thaw(&self) -> Result<(), TaskError> {
        self.controlled()?.thaw().map_err(cgroup_failed)?;
        self.paused.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn must_be(&self, wanted: TaskStatus, to_be: &str) -> Result<(), TaskError> {
        match self.describe("")?.status {
            status if status == wanted => Ok(()),
            status => Err(TaskError::FailedPrecondition(format!(
                "container {} cannot be {to_be}: it is {status:?}",
                self.id
            ))),
        }
    }

    /// Sets other limits; those not given stay.
    pub async fn update(&self, limits: &Limits) -> Result<(), TaskError> {
        let cgroup = self.controlled()?;
        let failed = |e| TaskError::internal("update the cgroup", e);
        let limits = cgroup.changes(limits).map_err(failed)?;
        if let Some(unit) = &self.unit {
            scope::update(unit, &limits).await?;
        }
        cgroup.change(&limits).map_err(failed)
    }

    /// Everybody in it; without a cgroup of its own, in its PID namespace.
    pub fn pids(&self) -> Result<Vec<u32>, TaskError> {
        match self.cgroup.is_none() {
            false => self.cgroup.pids().map_err(cgroup_failed),
            // Its number may be somebody else's by now.
            true if self.first.has_ended() => Ok(Vec::new()),
            true => Ok(processes::of_namespace(self.first.pid())),
        }
    }

    /// The pids of its execs, and what they are called.
    pub fn started_execs(&self) -> Vec<(u32, String)> {
        let execs = self.execs();
        let made = execs.iter().filter_map(|(id, exec)| Some((exec.made()?, id)));
        made.filter(|(process, _)| !process.has_ended())
            .map(|(process, id)| (process.pid(), id.clone()))
            .collect()
    }

    /// What it uses now.
    pub fn stats(&self) -> Result<TaskStats, TaskError> {
        self.controlled()?.stats().map_err(cgroup_failed)
    }

    /// Its cgroup, for what cannot be done without one.
    fn controlled(&self) -> Result<&Cgroup, TaskError> {
        match self.cgroup.is_none() {
            false => Ok(&self.cgroup),
            true => Err(TaskError::FailedPrecondition(format!(
                "container {} has no cgroup of its own, which this needs",
                self.id
            ))),
        }
    }

    fn exec(&self, exec: &str) -> Result<Exec, TaskError> {
        self.execs().get(exec).cloned().ok_or_else(|| self.no_exec(exec))
    }

    fn no_exec(&self, exec: &str) -> TaskError {
        TaskError::NotFound(format!("exec {exec} in container {}", self.id))
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Exec>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the others in a container whose first process has ended. The kernel does where that was the first of the
/// container's own PID namespace.
fn end_of_all(plan: &ContainerPlan) -> impl FnOnce() + Send + use<> {
    let leaves_others = !plan.new_namespaces.contains(CloneFlags::CLONE_NEWPID);
    let cgroup = leaves_others.then(|| plan.cgroup.clone());
    move || {
        if let Some(cgroup) = cgroup.filter(|cgroup| !cgroup.is_none())
            && let Err(error) = cgroup.kill()
        {
            tracing::warn!(%error, "end what a container's first process left");
        }
    }
}

fn started(result: Result<(), ProcessError>) -> Result<(), TaskError> {
    match result {
        Ok(()) => Ok(()),
        Err(ProcessError::Started) => Err(already_started()),
        Err(error) => Err(failed(&error)),
    }
}

/// Hooks after the end, also of a container that was begun and did not come to be (runtime-spec, runtime.md, "Lifecycle").
/// They change nothing any more: what went wrong is only told, and the others run.
pub async fn run_poststop(reaper: &Reaper, hooks: &Hooks, subject: &Subject) {
    let state = subject.state("stopped", 0);
    for hook in &hooks.poststop {
        if let Err(error) = run_hooks(reaper, std::slice::from_ref(hook), &state).await {
            tracing::warn!(%error, "a hook failed");
        }
    }
}

fn make_rootfs_dir(path: &Path) -> Result<(), TaskError> {
    std::fs::create_dir_all(path)
        .map_err(|e| TaskError::internal("create the root file system's mount point", e))
}

pub fn invalid(error: &dyn std::error::Error) -> TaskError {
    TaskError::InvalidArgument(error.to_string())
}
