//! Instances of an HTTP handler: made for a request, thrown away after it, or, where a container asks for that, kept
//! for the next one.
//!
//! Owns whose turn it is and what is left of an instance between requests. Refuses to know connections. By default
//! nothing of one request is there for the next: a new store, and memory from the pool that is zero again. An
//! instance that is reused keeps its globals and memory, which is what it is kept for.

use super::debug::Profile;
use super::output::Output;
use super::request::read_on;
use super::wasi::{Stdio, world};
use crate::bundle::Container;
use crate::engine::budget::{Budget, Limiter, OverBudget, SHARE_KEPT};
use crate::engine::commons::Spare;
use crate::program::state::{State, store};
use http::{Request, Response};
use hyper::body::Incoming;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout};
use wasmtime::Store;
use wasmtime::component::Resource;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p2::types::{HostIncomingRequest, HostResponseOutparam};

/// How long an instance that nobody needs is kept: an idle container holds its listener and nothing else.
const IDLE: Duration = Duration::from_secs(10);

/// Where a guest's answer goes.
pub type Answer = oneshot::Sender<Result<Response<HyperOutgoingBody>, ErrorCode>>;

/// Why no instance can be had for a request.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    #[error("the container is ending")]
    Ending,
    #[error("making the instance's world: {0:#}")]
    World(wasmtime::Error),
    #[error("giving the request to the guest: {0:#}")]
    Request(wasmtime::Error),
}

/// A store, and the instance in it once it has been called.
pub struct Instance {
    store: Store<State>,
    proxy: Option<Proxy>,
    served: u32,
    since: Instant,
    permit: Option<OwnedSemaphorePermit>,
}

/// A request as its instance sees it: handles of the instance's own table.
pub struct Call {
    request: Resource<HostIncomingRequest>,
    answer: Resource<HostResponseOutparam>,
}

impl Instance {
    /// Writes the core dump that came with a trap, if its container asks for dumps. Answers a line for people.
    pub fn dump(&mut self, error: &wasmtime::Error, container: &Container) -> Option<String> {
        let dumps = container.debugging.dumps.as_ref()?;
        dumps.write(error, &mut self.store)
    }

    /// Puts a request into the instance's table.
    ///
    /// # Errors
    /// When it is no request a guest could be given.
    pub fn prepare(&mut self, request: Request<Incoming>, answer: Answer) -> Result<Call, InstanceError> {
        let mut view = self.store.data_mut().http();
        let request = view
            .new_incoming_request(Scheme::Http, read_on(request))
            .map_err(InstanceError::Request)?;
        let answer = view
            .new_response_outparam(answer)
            .map_err(InstanceError::Request)?;
        Ok(Call { request, answer })
    }

    /// Calls the handler, instantiated if this is its first request.
    ///
    /// # Errors
    /// When the guest traps; the instance is of no use any more.
    pub async fn call(&mut self, pre: &ProxyPre<State>, call: Call) -> wasmtime::Result<()> {
        let called = self.try_call(pre, call).await;
        called.map_err(|error| self.store.data().explain(error))
    }

    async fn try_call(&mut self, pre: &ProxyPre<State>, call: Call) -> wasmtime::Result<()> {
        let proxy = match &mut self.proxy {
            Some(proxy) => proxy,
            none => none.insert(pre.instantiate_async(&mut self.store).await?),
        };
        let handler = proxy.wasi_http_incoming_handler();
        handler
            .call_handle(&mut self.store, call.request, call.answer)
            .await?;
        self.served += 1;
        Ok(())
    }
}

/// What instances are made from.
pub struct Mould {
    pub pre: ProxyPre<State>,
    /// Bytes of linear memory and tables one fresh instance takes.
    pub initial_bytes: u64,
    pub container: Arc<Container>,
    pub budget: Arc<Budget>,
    pub stdout: Output,
    pub stderr: Output,
    pub profile: Option<Arc<Profile>>,
}

#[derive(Default)]
struct Kept {
    instances: Vec<Instance>,
    sweeping: bool,
    closed: bool,
}

/// Instances that are no longer kept hold their memory until they are gone: who comes for it meanwhile waits, and does not
/// take it that nobody has any to spare.
#[derive(Default)]
struct Leaving(Mutex<()>);

impl Leaving {
    /// Throws away what is taken, and hands on what is said of it. Others take nothing before that.
    fn throw_away<T, A>(&self, take: impl FnOnce() -> (T, A)) -> A {
        let _others_wait = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (old, said) = take();
        drop(old);
        said
    }
}

/// The instances of one container.
pub struct Instances {
    mould: Mould,
    turns: Arc<Semaphore>,
    kept: Mutex<Kept>,
    leaving: Leaving,
}

impl Instances {
    /// No instances yet: the first is made by the first request.
    pub fn new(mould: Mould) -> Arc<Self> {
        let this = Arc::new(Self {
            turns: Arc::new(Semaphore::new(mould.container.serving.concurrency)),
            kept: Mutex::default(),
            leaving: Leaving::default(),
            mould,
        });
        let spare: Weak<dyn Spare> = Arc::downgrade(&(Arc::clone(&this) as Arc<dyn Spare>));
        this.mould.budget.set_spare(spare);
        this
    }

    /// The container whose instances they are.
    pub fn container(&self) -> &Container {
        &self.mould.container
    }

    /// What instances are made from.
    pub fn pre(&self) -> &ProxyPre<State> {
        &self.mould.pre
    }

    /// An instance for one request: waits for a turn, and for memory that others hold now. A burst of requests queues
    /// instead of killing the container.
    ///
    /// # Errors
    /// When even an unused budget could not hold an instance, or its world cannot be made.
    pub async fn take(&self) -> Result<Instance, InstanceError> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let permit = turn.map_err(|_| InstanceError::Ending)?;
        let mut instance = self.kept_or_new().await?;
        instance.permit = Some(permit);
        Ok(instance)
    }

    async fn kept_or_new(&self) -> Result<Instance, InstanceError> {
        loop {
            let freed = self.mould.budget.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(instance) = self.kept().instances.pop() {
                return Ok(instance);
            }
            match self.mould.budget.open_one_of_many(self.mould.initial_bytes) {
                Ok(limiter) => return self.make(limiter),
                Err(over) if over.may_fit_later() => {
                    // Either is a reason to try again: others' shares lapse without a word.
                    let _ = timeout(SHARE_KEPT, freed).await;
                }
                Err(over) => return Err(over.into()),
            }
        }
    }

    fn make(&self, limiter: Limiter) -> Result<Instance, InstanceError> {
        let mould = &self.mould;
        let stdio = Stdio {
            stdin: None,
            stdout: mould.stdout.clone(),
            stderr: mould.stderr.clone(),
        };
        let container = &mould.container;
        let mut wasi = world(&container.command, &container.grants, stdio).map_err(InstanceError::World)?;
        wasi.profile = mould.profile.clone();
        Ok(Instance {
            store: store(mould.pre.engine(), wasi, limiter),
            proxy: None,
            served: 0,
            since: Instant::now(),
            permit: None,
        })
    }

    /// Takes back an instance whose request ended well: kept for the next one, if it may serve another.
    pub fn give_back(self: &Arc<Self>, mut instance: Instance) {
        instance.permit = None;
        if instance.served >= self.mould.container.serving.reuse {
            return;
        }
        instance.since = Instant::now();
        let sweep = {
            let mut kept = self.kept();
            if kept.closed {
                return;
            }
            kept.instances.push(instance);
            !std::mem::replace(&mut kept.sweeping, true)
        };
        self.mould.budget.nudge();
        if sweep {
            tokio::spawn(Arc::clone(self).sweep());
        }
    }

    /// Throws away what has been idle for too long, until nothing is left.
    async fn sweep(self: Arc<Self>) {
        while let Some(next) = self.throw_away(Instant::now()) {
            tokio::time::sleep_until(next).await;
        }
    }

    /// Answers when to look again. The least recently used are at the front.
    fn throw_away(&self, now: Instant) -> Option<Instant> {
        self.leaving.throw_away(|| {
            let mut kept = self.kept();
            let fresh = kept.instances.partition_point(|one| one.since + IDLE <= now);
            let old: Vec<Instance> = kept.instances.drain(..fresh).collect();
            let next = kept.instances.first().map(|one| one.since + IDLE);
            kept.sweeping = next.is_some();
            (old, next)
        })
    }

    /// Whether none is kept, and nothing waits to throw one away.
    pub fn is_empty(&self) -> bool {
        let kept = self.kept();
        kept.instances.is_empty() && !kept.sweeping
    }

    /// Throws all kept instances away, and those that come back later.
    pub fn close(&self) {
        self.kept().closed = true;
        self.let_go();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Idle ones, when others of the Pod need their memory.
impl Spare for Instances {
    fn let_go(&self) {
        self.leaving
            .throw_away(|| (std::mem::take(&mut self.kept().instances), ()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{Command, Grants};
    use crate::engine::Engines;
    use crate::names::Names;
    use crate::program::world::{Linked, World};
    use amphipod_shim_api::stdio::Sinks;
    use std::io::Write as _;
    use wasmtime::component::Component;

    /// More than the pool has slots: one that is not given back would be missed. Says what a request pays before its
    /// handler runs.
    const ROUNDS: usize = 3_000;

    fn demo_server(engines: &Engines) -> ProxyPre<State> {
        let binary = include_bytes!("../../../workloads/wasm/server.wasm");
        let component = Component::new(&engines.pooled, binary).unwrap();
        match World::new(&engines.pooled).unwrap().link_component(&component) {
            Ok(Linked::Http(pre)) => pre,
            _ => panic!("the demo server is a handler"),
        }
    }

    fn say(what: &str, mut times: Vec<std::time::Duration>) {
        times.sort();
        let at = |share: f64| times[(times.len() as f64 * share) as usize];
        let _ = writeln!(std::io::stderr(), "{what}: p50 {:?}, p99 {:?}", at(0.5), at(0.99));
    }

    /// Says that its end has begun, and waits a moment, in which others who do not wait for it would come.
    struct Slow<'a>(std::sync::mpsc::Sender<()>, &'a std::sync::atomic::AtomicBool);

    impl Drop for Slow<'_> {
        fn drop(&mut self) {
            // Nobody may be waiting to hear it.
            let _ = self.0.send(());
            std::thread::park_timeout(Duration::from_millis(50));
            self.1.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// One that grew meanwhile was ended for want of memory that was just being given back.
    #[test]
    fn who_needs_memory_that_is_being_given_back_waits_for_it() {
        let (leaving, is_gone) = (Leaving::default(), std::sync::atomic::AtomicBool::new(false));
        let (begins, begun) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| leaving.throw_away(|| (Slow(begins, &is_gone), ())));
            begun.recv().unwrap();
            let seen = leaving.throw_away(|| ((), is_gone.load(std::sync::atomic::Ordering::Relaxed)));
            assert!(seen, "nothing to spare was found while something was on its way");
        });
    }

    #[tokio::test]
    async fn an_instance_gives_its_slot_back() {
        let engines = Engines::start().unwrap();
        let pre = demo_server(&engines);
        let command = Arc::new(Command {
            args: vec!["server".into()],
            env: vec![("POD_NAME".into(), "a".into())],
            cwd: None,
        });
        let grants = Grants {
            preopens: Vec::new(),
            names: Arc::new(Names::parse("", "")),
            narrowing: Arc::default(),
            buckets: None,
            containers: None,
        };
        let budget = Budget::new(Some(64 << 20), Arc::default());
        let sinks = Sinks::open("", "").unwrap();
        let (stdout, stderr) = (Output::new(sinks.stdout, None), Output::new(sinks.stderr, None));
        let (mut whole, mut alone) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            let stdio = Stdio {
                stdin: None,
                stdout: stdout.clone(),
                stderr: stderr.clone(),
            };
            let limiter = budget.open(0).unwrap();
            let mut store = store(pre.engine(), world(&command, &grants, stdio).unwrap(), limiter);
            let made = Instant::now();
            pre.instantiate_async(&mut store).await.unwrap();
            alone.push(made.elapsed());
            drop(store);
            whole.push(begin.elapsed());
        }
        assert_eq!(budget.used(), 0);
        if let Some(pool) = engines.pooled.pooling_allocator_metrics() {
            let slots = (pool.component_instances(), pool.core_instances(), pool.memories());
            assert_eq!((slots, pool.tables(), pool.stacks()), ((0, 0, 0), 0, 0));
        }
        say("instantiate", alone);
        say("world, store, instantiate, drop", whole);
    }
}
