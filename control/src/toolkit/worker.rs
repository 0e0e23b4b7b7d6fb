//! Runs a reconciler over a queue: several workers, retries with backoff, stops on shutdown.
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio_util::sync::CancellationToken;

use super::error::StepError;
use super::queue::Queue;

/// Longest time between two looks at what cannot be watched: short enough for a person who waits for it.
const POLL_MAX: Duration = Duration::from_secs(3);

/// What a reconcile asks for after it succeeded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Nothing until something changes.
    Done,
    /// Look again after this long, even if nothing changes.
    After(Duration),
    /// Look again, less and less often: what is waited for cannot be watched.
    Poll,
}

/// Takes keys from `queue` with `workers` concurrent workers until `shutdown`; `controller` is what each step works with.
pub fn work<C, T, F>(
    name: &'static str,
    queue: Arc<Queue<T>>,
    workers: usize,
    shutdown: CancellationToken,
    controller: C,
    reconcile: F,
) -> BoxFuture<'static, ()>
where
    C: Send + Sync + 'static,
    T: Clone + Debug + Eq + Hash + Ord + Send + Sync + 'static,
    F: for<'a> Fn(&'a C, T) -> BoxFuture<'a, Result<Outcome, StepError>> + Send + Sync + 'static,
{
    Box::pin(async move {
        let one = async || {
            while let Some(key) = shutdown.run_until_cancelled(queue.next()).await {
                let result = reconcile(&controller, key.clone()).await;
                settle(name, &queue, key, result);
            }
        };
        join_all((0..workers).map(|_| one())).await;
    })
}

fn settle<T>(name: &str, queue: &Queue<T>, key: T, result: Result<Outcome, StepError>)
where
    T: Clone + Debug + Eq + Hash + Ord,
{
    match result {
        Ok(Outcome::Done) => queue.forget(&key),
        Ok(Outcome::After(delay)) => {
            queue.forget(&key);
            queue.add_after(key.clone(), delay);
        }
        Ok(Outcome::Poll) => queue.retry_within(key.clone(), POLL_MAX),
        Err(error) => {
            // A cache that is behind shows as one of these; the next try sees more.
            if error.is_conflict() || error.is_already_exists() || error.is_namespace_terminating() {
                tracing::debug!(controller = name, ?key, %error, "will try again");
            } else {
                tracing::warn!(controller = name, ?key, %error, "will try again");
            }
            queue.retry(key.clone());
        }
    }
    queue.done(&key);
}
