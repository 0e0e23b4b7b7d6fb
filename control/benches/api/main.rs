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

#[tokio::main]
async fn main() -> Result<()> {
    let Some(options) = options()? else {
        return Ok(());
    };
    let target = Target::of(&options.kubeconfig)?;
    let mut report = Report::default();
    let namespace = format!("bench-{}", std::process::id());
    load::prepare(&target, &namespace).await?;
    let measured = measure(&target, &namespace, &options, &mut report).await;
    load::clean(&target, &namespace).await?;
    report.print()?;
    measured
}

async fn measure(target: &Target, namespace: &str, options: &Options, report: &mut Report) -> Result<()> {
    report.memory(target, "before").await?;
    load::creates(target, namespace, options.pods, report).await?;
    load::gets(target, namespace, report).await?;
    load::lists(target, namespace, options.pods, report).await?;
    report
        .memory(target, &format!("with {} Pods", options.pods))
        .await?;
    for watchers in options.watchers.iter().filter(|count| **count > 0) {
        fanout::run(target, namespace, *watchers, report).await?;
    }
    Ok(())
}
