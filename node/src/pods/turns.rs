//! The starts under way of one Pod, and their order: a main container starts when those before it that are being started
//! have been, their `postStart` included, as upstream does; what a proxy does there may hold back the application it
//! serves. Only the images are made present side by side.

use tokio_util::sync::{CancellationToken, DropGuard};

use super::view::PodView;

/// The starts under way, by container.
#[derive(Default)]
pub struct Starts(Vec<(String, Start)>);

struct Start {
    cancel: CancellationToken,
    done: CancellationToken,
}

/// What one start waits for; those behind it wait until this is dropped.
pub struct Turn {
    before: Vec<CancellationToken>,
    _done: DropGuard,
}

impl Turn {
    /// Waits until the containers before have been started, or could not be.
    pub async fn comes(&self) {
        for start in &self.before {
            start.cancelled().await;
        }
    }
}

impl Starts {
    /// Notes a start: what gives it up, and its turn.
    pub fn begin(&mut self, pod: PodView<'_>, container: &str) -> (CancellationToken, Turn) {
        let mains = &pod.spec.containers;
        let number = mains.iter().position(|c| c.name == container).unwrap_or(0);
        let before = mains[..number].iter().filter_map(|c| self.find(&c.name));
        let before = before.map(|start| start.done.clone()).collect();
        let (cancel, done) = (CancellationToken::new(), CancellationToken::new());
        let turn = Turn {
            before,
            _done: done.clone().drop_guard(),
        };
        let start = Start {
            cancel: cancel.clone(),
            done,
        };
        self.end(container);
        self.0.push((container.to_owned(), start));
        (cancel, turn)
    }

    fn find(&self, container: &str) -> Option<&Start> {
        let found = self.0.iter().find(|(name, _)| name == container);
        found.map(|(_, start)| start)
    }

    /// Gives a start up.
    pub fn cancel(&self, container: &str) {
        if let Some(start) = self.find(container) {
            start.cancel.cancel();
        }
    }

    pub fn cancel_all(&self) {
        self.0.iter().for_each(|(_, start)| start.cancel.cancel());
    }

    /// Forgets a start that has ended.
    pub fn end(&mut self, container: &str) {
        self.0.retain(|(name, _)| name != container);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn has_come(turn: &Turn) -> bool {
        let coming = pin!(turn.comes());
        coming.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn main_containers_start_one_after_the_other() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}}))
        .unwrap();
        let pod = PodView::new(&pod).unwrap();
        let mut starts = Starts::default();
        let mut turn = |name| starts.begin(pod, name).1;
        let (sidecar, a, b, c) = (turn("s"), turn("a"), turn("b"), turn("c"));
        assert!(has_come(&sidecar) && has_come(&a) && !has_come(&b) && !has_come(&c));
        drop(b);
        assert!(!has_come(&c), "a is not up, though b was given up");
        drop(a);
        assert!(has_come(&c));
        // A restart waits for nothing that is behind it.
        assert!(has_come(&turn("a")));
    }
}
