//! How fast a Kubernetes API server is, ours or any other's, and how much memory it takes.
//!
//!   cargo bench -p amphipod-control --bench api -- KUBECONFIG [--pods N] [--watchers N,N]
//!
//! `--watchers 0` leaves the fan-out out.
//!
//! Flow: a namespace of its own → creates by 1, 16 and 256 clients → gets → lists → watch fan-out → clean up. The
//! figures go to standard output as a Markdown table. The generator speaks HTTP/1.1 over TLS by hand, so that it takes
//! little of the cores that it shares with the server. Without a KUBECONFIG it does nothing: `cargo bench` of all
//! benches must not need a server.
mod connection;
mod fanout;
mod figures;
mod load;

use connection::Target;
use figures::Report;
use std::error::Error;
use tokio::runtime::Builder;

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

struct Options {
    kubeconfig: String,
    pods: usize,
    watchers: Vec<usize>,
}

fn options() -> Result<Option<Options>> {
    let mut options = Options {
        kubeconfig: String::new(),
        pods: 10_000,
        watchers: vec![200, 1000],
    };
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--pods" => options.pods = value()?.parse()?,
            "--watchers" => {
                options.watchers = value()?
                    .split(',')
                    .map(str::parse)
                    .collect::<std::result::Result<_, _>>()?
            }
            path => options.kubeconfig = path.to_owned(),
        }
    }
    Ok((!options.kubeconfig.is_empty()).then_some(options))
}

/// One thread makes the load as long as that is enough for it, so that it takes little of the server's processors; a
/// thousand watchers are read by all.
fn main() -> Result<()> {
    let Some(options) = options()? else {
        return Ok(());
    };
    let one = Builder::new_current_thread().enable_all().build()?;
    let all = Builder::new_multi_thread().enable_all().build()?;
    let target = Target::of(&options.kubeconfig)?;
    let mut report = Report::default();
    let namespace = format!("bench-{}", std::process::id());
    one.block_on(load::prepare(&target, &namespace))?;
    let mut measured = one.block_on(measure(&target, &namespace, options.pods, &mut report));
    if measured.is_ok() {
        measured = all.block_on(fan_out(&target, &namespace, &options.watchers, &mut report));
    }
    one.block_on(load::clean(&target, &namespace))?;
    report.print()?;
    measured
}

async fn measure(target: &Target, namespace: &str, pods: usize, report: &mut Report) -> Result<()> {
    report.memory(target, "before").await?;
    load::creates(target, namespace, pods, report).await?;
    load::gets(target, namespace, report).await?;
    load::lists(target, namespace, pods, report).await?;
    report.memory(target, &format!("with {pods} Pods")).await
}

async fn fan_out(target: &Target, namespace: &str, watchers: &[usize], report: &mut Report) -> Result<()> {
    for watchers in watchers.iter().filter(|count| **count > 0) {
        fanout::run(target, namespace, *watchers, report).await?;
    }
    Ok(())
}
