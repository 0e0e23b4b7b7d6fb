//! How a worker takes other resources for its containers: asks the node, then brings each running container to them.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::{Outcome, Worker};
use crate::bundle::guest::bounds_since;
use crate::events::Severity::{Normal, Warning};
use crate::pods::admission;
use crate::pods::allocations::Amounts;
use crate::pods::observed::{Busy, Sandbox};
use crate::pods::plan::is_ending;
use crate::pods::record::Record;
use crate::pods::resize::{self, Failed, Pending};
use crate::pods::status;
use crate::pods::tasks::{self, ResizeError};
use crate::pods::view::PodView;
use crate::steady;

/// Pause before limits that the host refused are tried again: memory in use has to go first.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

impl Worker {
    pub(super) fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// After a restart of the agent: what runs has what it was given, and the rest is asked for anew.
    pub(super) fn recall_allocation(&mut self) {
        let recalled = resize::recall(&self.wanted, &self.seen);
        // One Pod that is twice the same takes twice the memory.
        self.pod = match resize::is_resized(&recalled, &self.wanted) {
            true => Arc::new(recalled),
            false => self.wanted.clone(),
        };
        let pod = self.pod.clone();
        // One that is new is admitted first.
        let has_room = |view: &PodView<'_>| {
            admission::is_admitted(&self.ctx, *view) && status::takes_room(*view, &self.seen)
        };
        match PodView::new(&pod) {
            Some(view) if has_room(&view) => {
                self.ctx.allocations.note(view.uid(), Amounts::of_pod(view.spec))
            }
            Some(view) => self.ctx.give_room_back(view),
            None => {}
        }
    }

    /// Takes what the API wants, but for resources the node has not agreed to.
    pub(super) fn want(&mut self, wanted: Arc<Pod>) {
        self.pod = match resize::is_resized(&self.pod, &wanted) {
            true => Arc::new(resize::keep(&self.pod, &wanted)),
            false => wanted.clone(),
        };
        self.wanted = wanted;
        self.consider_resize();
    }

    /// Asks the node for the resources wanted, when they are others than those given.
    pub(super) fn consider_resize(&mut self) {
        let wanted = self.wanted.clone();
        let Some(view) = PodView::new(&wanted) else { return };
        if !resize::is_resized(&self.pod, &wanted) || is_ending(view, &self.seen) {
            self.seen.pending = None;
            return;
        }
        // Admission is promising the Pod what it had when it began, over whatever is agreed now. Asked again when it has ended.
        if self.seen.sandbox == Sandbox::Preparing {
            return;
        }
        let amounts = Amounts::of_pod(view.spec);
        match self.ctx.allocations.ask(view.uid(), amounts) {
            Ok(()) => {
                self.pod = wanted.clone();
                self.seen.pending = None;
                self.seen
                    .containers
                    .values_mut()
                    .for_each(|seen| seen.resize_failed = None);
                let message = resize::told(view, "started", "");
                self.ctx.recorder.pod(view, Normal, "ResizeStarted", message);
            }
            Err(pending) => self.put_off(view, pending),
        }
    }

    fn put_off(&mut self, view: PodView<'_>, pending: Pending) {
        if self.seen.pending.as_ref() == Some(&pending) {
            return;
        }
        let event = match pending.reason {
            "Infeasible" => "ResizeInfeasible",
            _ => "ResizeDeferred",
        };
        let message = resize::told(view, pending.reason, &pending.message);
        self.ctx.recorder.pod(view, Warning, event, message);
        self.seen.pending = Some(pending);
    }

    pub(super) fn resize(&mut self, pod: PodView<'_>, container: &str) {
        let Some((container, _)) = pod.container(container) else {
            return;
        };
        let Some(seen) = self.seen.containers.get_mut(&container.name) else {
            return;
        };
        let Some(mut record) = seen.last.clone() else {
            return;
        };
        seen.busy = Busy::Resizing;
        let (ctx, pod, container) = (self.ctx.clone(), self.pod.clone(), container.into_owned());
        self.under_way.spawn(async move {
            let result = tasks::resize(&ctx, &pod, &mut record, &container).await;
            Outcome::Resized { record, result }
        });
    }

    pub(super) fn resized(&mut self, record: Record, result: Result<(), ResizeError>) {
        let Some(seen) = self.seen.containers.get_mut(&record.container) else {
            return;
        };
        if seen.busy == Busy::Resizing {
            seen.busy = Busy::Idle;
        }
        match result {
            Ok(()) => {
                seen.resize_failed = None;
                // Its end may have been seen meanwhile.
                if let Some(last) = seen.last.as_mut().filter(|last| last.id == record.id) {
                    last.resources = record.resources;
                    last.pod_resources = record.pod_resources;
                }
                self.tell_when_resized();
            }
            Err(error) => {
                let retry_at = steady::now().checked_add(RETRY).unwrap_or(Timestamp::MAX);
                let message = error.to_string();
                let known = seen.resize_failed.as_ref().is_some_and(|f| f.message == message);
                seen.resize_failed = Some(Failed {
                    message: message.clone(),
                    retry_at,
                });
                let pod = self.pod.clone();
                if let Some(view) = PodView::new(&pod).filter(|_| !known) {
                    let told = resize::told(view, "error", &message);
                    self.ctx.recorder.pod(view, Warning, "ResizeError", told);
                }
            }
        }
    }

    /// Tells the shim of the Pod's guests, if any runs, what they have together now, where it may know no more than the Pod as it was
    /// `before`: a container that was made while its Pod was being resized has told it that. Until it takes it.
    pub(super) fn bound_anew(&mut self, before: Arc<Pod>) {
        let nothing = PodSpec::default();
        let [old, now] = [&before, &self.pod].map(|pod| pod.spec.as_ref().unwrap_or(&nothing));
        let Some(bounds) = bounds_since(old, now) else {
            return;
        };
        let running = |record: &&Record| record.is_running() && record.is_wasm();
        let mut all = self.seen.containers.values();
        let guest = all.find_map(|seen| seen.last.as_ref().filter(running));
        let Some(record) = guest.cloned() else { return };
        let (ctx, told) = (self.ctx.clone(), self.pod.clone());
        self.under_way.spawn(async move {
            let known = match tasks::bound(&ctx, &record, bounds).await {
                // Another resize may have been agreed on meanwhile, and its words been overtaken.
                true => told,
                // Guests use more than that now.
                false => {
                    tokio::time::sleep(RETRY.unsigned_abs()).await;
                    before
                }
            };
            Outcome::Bounded { known }
        });
    }

    /// Once every container has what the Pod was promised.
    pub(super) fn tell_when_resized(&self) {
        let Some(view) = PodView::new(&self.pod) else {
            return;
        };
        if resize::in_progress(view, &self.seen).is_none() {
            let message = resize::told(view, "completed", "");
            self.ctx.recorder.pod(view, Normal, "ResizeCompleted", message);
        }
    }
}
