//! How long Pods take from `create` to Ready, and what the agent costs at rest: measured from outside, by a client that
//! watches. Runs against any cluster by kubeconfig, so that clusters can be set beside each other on one machine.
//!
//!   cargo bench -p amphipod-node --bench pods -- KUBECONFIG [--agent PID] {--native IMAGE | --wasm IMAGE} [--rest N] …
//!
//! Flow: for each image one Pod, then 1, 10 and 100 at once; or, with `--rest` behind it, so many Pods, which are left alone
//! for a while as the agent of that pid is looked at (`many.sh` beside this file does that in a cluster of its own). The images must be there, and have programs that run until they are ended.
//! Figures go to standard output as Markdown. Without a KUBECONFIG it does nothing: `cargo bench` of all benches must not
//! need a cluster.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Pods at once, and how often.
const SIZES: [(usize, usize); 3] = [(1, 20), (10, 5), (100, 3)];
const LABEL: (&str, &str) = ("amphipod.dev/benchmark", "pods");
/// What is not Ready by then never will be: so much for any number of Pods, and so much for each.
const PATIENCE: Duration = Duration::from_secs(120);
const PATIENCE_EACH: Duration = Duration::from_millis(300);
/// Requests under way at once: a client with more of them would measure itself.
const AT_ONCE: usize = 64;
/// How long the agent is looked at, after as long a pause.
const REST: Duration = Duration::from_secs(60);
/// With none a Pod is gone when it is deleted, and its node takes it apart while the next one is measured.
const GRACE_SECONDS: i64 = 1;
/// Between two looks at what is still there.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Options {
    kubeconfig: String,
    images: Vec<Wanted>,
    agent: Option<String>,
}

struct Wanted {
    runtime: &'static str,
    image: String,
    /// How many Pods are to rest; none are to be measured as they start.
    rest: Option<usize>,
}

fn options() -> Result<Options> {
    let mut options = Options::default();
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--native" | "--wasm" => options.images.push(Wanted {
                runtime: if word == "--wasm" { "Wasm" } else { "native" },
                image: value()?,
                rest: None,
            }),
            "--agent" => options.agent = Some(value()?),
            "--rest" => {
                let rest = value()?.parse()?;
                let last = options.images.last_mut();
                last.ok_or("--rest comes behind an image")?.rest = Some(rest);
            }
            path => options.kubeconfig = path.to_owned(),
        }
    }
    Ok(options)
}

/// The Pods of the benchmark, in the namespace `default`.
struct Bench {
    pods: Api<Pod>,
}

/// How long Pods that were made at once took.
struct Took {
    each: Vec<Duration>,
    all: Duration,
}

impl Bench {
    async fn of(kubeconfig: &str) -> Result<Self> {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        config.read_timeout = None;
        Ok(Self {
            pods: Api::default_namespaced(Client::try_from(config)?),
        })
    }

    /// Makes Pods at once and waits until all are Ready.
    async fn start(&self, image: &str, number: usize) -> Result<Took> {
        let selector = format!("{}={}", LABEL.0, LABEL.1);
        let list = self.pods.list(&ListParams::default().labels(&selector)).await?;
        let mut version = list.metadata.resource_version.unwrap_or_default();
        let params = WatchParams::default().labels(&selector).timeout(290);
        let mut events = self.pods.watch(&params, &version).await?.boxed();
        let begun = Instant::now();
        let create = futures::stream::iter(0..number)
            .map(|n| self.create(image, n))
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<_>>();
        let watch = async {
            let mut ready: HashMap<String, Instant> = HashMap::new();
            while ready.len() < number {
                match events.try_next().await? {
                    Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => {
                        version = pod.resource_version().unwrap_or_default();
                        if is_ready(&pod) {
                            ready.entry(pod.name_any()).or_insert_with(Instant::now);
                        }
                    }
                    Some(WatchEvent::Error(status)) => return Err(format!("the watch: {status:?}").into()),
                    Some(_) => {}
                    // A watch has a limit of its own.
                    None => events = self.pods.watch(&params, &version).await?.boxed(),
                }
            }
            Ok(ready)
        };
        let patience = PATIENCE + PATIENCE_EACH * u32::try_from(number)?;
        let (asked, ready) =
            tokio::time::timeout(patience, async { tokio::try_join!(create, watch) }).await??;
        let all = begun.elapsed();
        let took = asked
            .iter()
            .filter_map(|(name, asked)| Some(ready.get(name)?.duration_since(*asked)));
        let mut each: Vec<Duration> = took.collect();
        each.sort();
        Ok(Took { each, all })
    }

    /// The Pod's name, and when it was asked for.
    async fn create(&self, image: &str, n: usize) -> Result<(String, Instant)> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("bench-{n}"), "labels": {LABEL.0: LABEL.1}},
            "spec": {"terminationGracePeriodSeconds": GRACE_SECONDS,
                "containers": [{"name": "c", "image": image, "imagePullPolicy": "IfNotPresent"}]},
        }))?;
        let asked = Instant::now();
        self.pods.create(&PostParams::default(), &pod).await?;
        Ok((pod.name_any(), asked))
    }

    /// Ends all Pods of the benchmark; how long that took.
    async fn end(&self) -> Result<Duration> {
        let selector = format!("{}={}", LABEL.0, LABEL.1);
        let params = ListParams::default().labels(&selector);
        let begun = Instant::now();
        let all = self.pods.list(&params).await?.items;
        let patience = PATIENCE + PATIENCE_EACH * u32::try_from(all.len())?;
        let delete = futures::stream::iter(all)
            .map(|pod| async move {
                let params = DeleteParams::default();
                self.pods.delete(&pod.name_any(), &params).await.map(drop)
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>();
        delete.await?;
        let gone = async {
            while !self.pods.list(&params.clone().limit(1)).await?.items.is_empty() {
                tokio::time::sleep(LOOK).await;
            }
            Ok::<_, kube::Error>(())
        };
        tokio::time::timeout(patience, gone).await??;
        Ok(begun.elapsed())
    }

    /// A table's lines for one runtime.
    async fn measure(&self, runtime: &str, image: &str) -> Result<()> {
        // Whatever is made once is made by the first.
        self.start(image, 1).await?;
        self.end().await?;
        for (number, rounds) in SIZES {
            let (mut each, mut whole) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                let took = self.start(image, number).await?;
                each.extend(took.each);
                whole.push(took.all);
                self.end().await?;
            }
            each.sort();
            whole.sort();
            let [p50, p99, all] = [share(&each, 50), share(&each, 99), share(&whole, 50)];
            println!("| {runtime} | {number} | {rounds} | {p50:.1} | {p99:.1} | {all:.0} |");
        }
        Ok(())
    }

    /// Many Pods, which nothing is asked of.
    async fn rest(&self, runtime: &str, image: &str, number: usize, agent: Option<&str>) -> Result<()> {
        let took = self.start(image, number).await?;
        let [p50, p99] = [50, 99].map(|percent| share(&took.each, percent) / 1e3);
        let all = took.all.as_secs_f64();
        println!("\n{number} {runtime} Pods: all Ready after {all:.1} s (p50 {p50:.1} s, p99 {p99:.1} s)");
        if let Some(pid) = agent {
            tokio::time::sleep(REST).await;
            let before = processor_seconds(pid)?;
            tokio::time::sleep(REST).await;
            let percent = (processor_seconds(pid)? - before) / REST.as_secs_f64() * 100.0;
            let (resident, own) = (mebibytes(pid, "Rss:")?, mebibytes(pid, "Anonymous:")?);
            println!(
                "the agent at rest: {percent:.2} % of a processor, {resident:.1} MiB resident, {own:.1} MiB of it anonymous"
            );
        }
        println!("all gone after {:.1} s", self.end().await?.as_secs_f64());
        Ok(())
    }
}

fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Milliseconds in which so many percent were done.
fn share(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
}

/// Processor time a process has had (proc_pid_stat(5), fields 14 and 15).
fn processor_seconds(pid: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(") ").ok_or("stat has another form")?;
    let fields = rest.split(' ').skip(11).take(2).map(str::parse::<u32>);
    let ticks: u32 = fields.sum::<std::result::Result<_, _>>()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(f64::from(ticks) / f64::from(i32::try_from(per_second)?))
}

/// One figure of a process's memory (proc_pid_smaps(5)).
fn mebibytes(pid: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find(|line| line.starts_with(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib.ok_or("smaps_rollup has another form")?.parse::<f64>()? / 1024.0)
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = options()?;
    if options.kubeconfig.is_empty() {
        return Ok(());
    }
    let bench = Bench::of(&options.kubeconfig).await?;
    bench.end().await?;
    if options.images.iter().any(|wanted| wanted.rest.is_none()) {
        println!(
            "| runtime | Pods at once | rounds | p50, ms | p99, ms | all Ready, ms |\n|---|---|---|---|---|---|"
        );
    }
    for Wanted { runtime, image, rest } in &options.images {
        match rest {
            None => bench.measure(runtime, image).await?,
            Some(number) => {
                bench
                    .rest(runtime, image, *number, options.agent.as_deref())
                    .await?
            }
        }
    }
    Ok(())
}
