//! What is told of one process: that it was started, and that it has ended, in this order however short its life was.
//!
//! containerd promises its callers that an end never comes before the beginning is told (its runtime v2, "Events"). But whoever
//! starts a process learns that it runs while somebody else may learn already that it has ended: so an end waits while something
//! that comes before it is being done, which is a [`Hold`]. So do the commands in a container, whose ends come before that of its
//! first process, and the end comes before the removal.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerd_shim_protos::events::task::{TaskExecStarted, TaskExit, TaskStart};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::topics;
use tokio::sync::Notify;

use super::Publisher;
use crate::client::Exit;

/// One process of a container: its first, or one exec'd into it.
#[derive(Debug)]
pub struct Story {
    publisher: Publisher,
    container: String,
    /// Empty for the first.
    exec: String,
    state: Mutex<State>,
    /// Its end has been told.
    over: Notify,
}

#[derive(Debug, Default)]
struct State {
    holds: usize,
    is_started: bool,
    /// An end that waits to be told.
    end: Option<(u32, Exit)>,
    /// It has been told.
    is_over: bool,
}

/// As long as it is there, the end is not told.
#[derive(Debug)]
#[must_use]
pub struct Hold<S: Deref<Target = Story>>(S);

impl Story {
    /// That of a container's first process.
    pub fn of(publisher: &Publisher, container: &str) -> Self {
        Self::of_exec(publisher, container, "")
    }

    /// That of a command in a container.
    pub fn of_exec(publisher: &Publisher, container: &str, exec: &str) -> Self {
        Self {
            publisher: publisher.clone(),
            container: container.to_owned(),
            exec: exec.to_owned(),
            state: Mutex::default(),
            over: Notify::new(),
        }
    }

    /// The same container's, of a command in it.
    pub fn beside(&self, exec: &str) -> Self {
        Self::of_exec(&self.publisher, &self.container, exec)
    }

    /// Whether anybody listens.
    pub fn is_heard(&self) -> bool {
        self.publisher.is_heard()
    }

    /// Something begins that comes before the end.
    pub fn hold(&self) -> Hold<&Self> {
        self.state().holds += 1;
        Hold(self)
    }

    /// The same for longer than whoever says so is there.
    pub fn hold_on(self: Arc<Self>) -> Hold<Arc<Self>> {
        self.state().holds += 1;
        Hold(self)
    }

    /// Waits until the end has been told, if somebody listens.
    pub async fn over(&self) {
        while self.is_heard() {
            let mut over = std::pin::pin!(self.over.notified());
            over.as_mut().enable();
            if self.state().is_over {
                return;
            }
            over.await;
        }
    }

    /// It runs; said while there is a [`Hold`].
    pub fn started(&self, pid: u32) {
        self.state().is_started = true;
        if self.exec.is_empty() {
            self.publisher.tell(topics::TASK_START_EVENT_TOPIC, || TaskStart {
                container_id: self.container.clone(),
                pid,
                ..TaskStart::default()
            });
        } else {
            let topic = topics::TASK_EXEC_STARTED_EVENT_TOPIC;
            self.publisher.tell(topic, || TaskExecStarted {
                container_id: self.container.clone(),
                exec_id: self.exec.clone(),
                pid,
                ..TaskExecStarted::default()
            });
        }
    }

    /// Somebody in the container was killed for memory.
    pub fn out_of_memory(&self) {
        self.publisher.out_of_memory(&self.container);
    }

    /// It has ended. Said twice, it is told once.
    pub fn ended(&self, pid: u32, exit: Exit) {
        let mut state = self.state();
        if !state.is_over && state.end.is_none() {
            state.end = Some((pid, exit));
        }
        self.conclude(state);
    }

    fn release(&self) {
        let mut state = self.state();
        state.holds -= 1;
        self.conclude(state);
    }

    /// A container's first process ends although it was never started; of a command that is not told, since nothing was told
    /// of it that could end.
    fn conclude(&self, mut state: MutexGuard<'_, State>) {
        if state.holds > 0 {
            return;
        }
        let Some((pid, exit)) = state.end.take() else {
            return;
        };
        state.is_over = true;
        if self.exec.is_empty() || state.is_started {
            self.tell_end(pid, exit);
        }
        self.over.notify_waiters();
    }

    fn tell_end(&self, pid: u32, exit: Exit) {
        self.publisher.tell(topics::TASK_EXIT_EVENT_TOPIC, || TaskExit {
            container_id: self.container.clone(),
            // The first process has the name of its container.
            id: match self.exec.is_empty() {
                true => self.container.clone(),
                false => self.exec.clone(),
            },
            pid,
            exit_status: exit.status,
            exited_at: MessageField::some(exit.wire_time()),
            ..TaskExit::default()
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Deref<Target = Story>> Drop for Hold<S> {
    fn drop(&mut self) {
        self.0.release();
    }
}
