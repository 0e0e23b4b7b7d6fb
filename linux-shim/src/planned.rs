//! From what Create asks for to a process that waits for its program: read the bundle, plan, confine, make.

use std::path::PathBuf;

use amphipod_shim_api::cgroup::Limits;
use amphipod_shim_api::{Standing, TaskError, annotations};
use oci_spec::runtime::Spec;

use crate::confine::{self, Confined};
use crate::container::{failed, invalid, run_poststop};
use crate::init::ContainerPlan;
use crate::init::keyring::keyring_of;
use crate::process::{ContainerProcess, Made};
use crate::reaper::Reaper;
use crate::rootfs_plan::RootfsMount;
use crate::rootless::{self, Configuration, Trace, TraceError};
use crate::streams::Addresses;
use crate::{scope, spec};

/// What Create asks for.
#[derive(Debug)]
pub struct Asked {
    pub id: String,
    pub namespace: String,
    pub bundle: PathBuf,
    pub rootfs: Vec<RootfsMount>,
    pub addresses: Addresses,
    /// systemd is to manage its cgroup, or it is not made.
    pub systemd: bool,
    /// It has no session keyring of its own.
    pub keeps_keyring: bool,
    /// `pivot_root` cannot be done on this host.
    pub no_pivot: bool,
}

/// A container as it is to be.
#[derive(Debug)]
pub struct Planned {
    pub spec: Spec,
    pub plan: ContainerPlan,
    limits: Limits,
    /// Of its cgroup.
    path: String,
    addresses: Addresses,
}

impl Planned {
    pub fn of(standing: Standing, asked: &Asked) -> Result<Self, TaskError> {
        let read = rootless::configuration(&asked.bundle, standing).map_err(|e| invalid(&e))?;
        let Configuration { spec, said, .. } = read;
        for text in said {
            tracing::warn!(id = asked.id, "{text}");
        }
        if asked.systemd {
            scope::demanded(&spec)?;
        }
        let path = confine::path(standing, &spec, &asked.namespace, &asked.id);
        let planned = spec::plan(&spec, &asked.bundle, &path, asked.rootfs.clone());
        let (mut plan, limits) = planned.map_err(|e| invalid(&e))?;
        if plan.shares_mounts() {
            return Err(TaskError::InvalidArgument(
                "config.json has no new mount namespace; only the OCI command line runs a container without one"
                    .into(),
            ));
        }
        let asks_for_one = asked.addresses.terminal.then_some((0, 0));
        plan.process.terminal = plan.process.terminal.or(asks_for_one);
        let addresses = Addresses {
            terminal: plan.process.terminal.is_some(),
            attach: spec::annotation(&spec, annotations::ATTACH).map(PathBuf::from),
            ..asked.addresses.clone()
        };
        plan.subject = spec::subject(&spec, &asked.id, &asked.bundle);
        if asked.no_pivot {
            plan.avoid_pivot();
        }
        plan.process.keyring = (!asked.keeps_keyring).then(|| keyring_of(&asked.id));
        Ok(Self {
            spec,
            plan,
            limits,
            path,
            addresses,
        })
    }

    pub fn shares_processes(&self) -> bool {
        spec::annotation(&self.spec, annotations::PROCESSES) == Some(annotations::PROCESSES_OF_SANDBOX)
    }

    /// Makes its cgroup and, in it, its first process, up to the moment before the program. Without root
    /// each is written down as it comes, so that what is left of it is found when this shim has died.
    pub async fn make(&mut self, reaper: &Reaper, standing: Standing) -> Result<(Confined, Made), TaskError> {
        confine::unused(&self.plan.cgroup)?;
        let (path, limits) = (std::mem::take(&mut self.path), std::mem::take(&mut self.limits));
        self.trace(standing.makes_do(), || {
            // Where systemd will make one is not known yet: it is asked for it by its name.
            let by_files = scope::of(&self.spec).is_none();
            Ok(Trace::of_cgroup(if by_files { &path } else { "" }))
        })?;
        let made = Confined::make(reaper, standing, &self.spec, path, &mut self.plan, limits);
        let mut confined = made.await?;
        let begun = self.begin(reaper, standing, &confined).await;
        confined.settled(reaper).await;
        match begun {
            Ok(made) => Ok((confined, made)),
            Err(error) => {
                confined.discard(&self.plan.cgroup).await;
                run_poststop(reaper, &self.plan.hooks, &self.plan.subject).await;
                Err(error)
            }
        }
    }

    async fn begin(
        &self,
        reaper: &Reaper,
        standing: Standing,
        confined: &Confined,
    ) -> Result<Made, TaskError> {
        let traced = standing.makes_do();
        self.trace(traced, || Ok(Trace::of_cgroup(&confined.path)))?;
        let made = ContainerProcess::create(reaper, &self.plan, &self.addresses).await;
        let made = made.map_err(|e| failed(&e))?;
        self.trace(traced, || Trace::of(made.process.pid(), &confined.path))?;
        Ok(made)
    }

    fn trace(
        &self,
        wanted: bool,
        trace: impl FnOnce() -> Result<Trace, TraceError>,
    ) -> Result<(), TaskError> {
        if !wanted {
            return Ok(());
        }
        let traced = trace().and_then(|trace| trace.save(&self.plan.subject.bundle));
        traced.map_err(|e| TaskError::Internal(e.to_string()))
    }
}
