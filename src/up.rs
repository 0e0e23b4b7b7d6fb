//! `amphipod up`: a whole cluster in one process, then manifests applied to it, then the wait for Ctrl-C.

use amphipod_control::ControlPlane;
use amphipod_node::Node;
use anyhow::{Context, Result};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node as NodeObject, Service};
use kube::{Api, Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::apply::{self, Applied};
use crate::cli::{AgentArgs, ClusterArgs, UpArgs};
use crate::cluster::{Cluster, DataDir};
use crate::commands::{self, STOP_DEADLINE};
use crate::manifest::{self, Document};
use crate::progress::Progress;
use crate::{kubeconfig, prepare, pulls, ready, signals, text};

/// Brings the cluster up, applies the manifests, and stays until a signal.
pub async fn run(args: UpArgs) -> Result<()> {
    commands::need_root("amphipod up")?;
    let stop = signals::on_interrupt()?;
    let progress = Progress::new();
    // Everything that can be wrong with the command line is found before anything is started.
    let documents = manifest::read(&manifest::files(&args.manifests)?)?;
    let data = DataDir::open(&args.cluster.data_dir)?;
    let cluster = data.settle(&args.cluster, args.node_name.as_deref())?;
    let cluster = cluster.placed(&args.agent);
    data.check_layout(&cluster)?;
    let free = amphipod_node::check_ranges(&cluster.id, None, cluster.service_cidr).await;
    free.context("starting the node agent")?;

    let control = commands::start_control(&data, &cluster, &with_room(&args, cluster.pod_cidr)).await?;
    let outcome = match start_node(&data, &cluster, &args.agent, &control).await {
        Ok(node) => {
            let pulls = tokio::spawn(pulls::show(node.images().progress(), progress.clone()));
            let outcome = serve(&documents, &data, &cluster, &control, &stop, &progress).await;
            let grace = commands::pods_grace(&args.agent);
            if stop.is_cancelled() {
                progress.say(&farewell(&args, &data, grace.is_some()));
            }
            if let Some(grace) = grace {
                node.end_pods(grace).await;
            }
            node.shutdown(STOP_DEADLINE).await;
            pulls.abort();
            outcome
        }
        Err(why) => Err(why),
    };
    control.shutdown(STOP_DEADLINE).await;
    if args.rm {
        commands::remove(&data, &cluster, true).await?;
        progress.say(&format!("{} is gone from this host", cluster.name()));
    }
    outcome
}

/// The cluster's arguments with a slice of its range that has addresses for as many Pods as the node takes.
fn with_room(args: &UpArgs, range: IpNet) -> ClusterArgs {
    let mut cluster = args.cluster.clone();
    if range.addr().is_ipv4() && cluster.node_cidr_mask_size.is_none() {
        cluster.node_cidr_mask_size = args.agent.max_pods.and_then(larger_slice);
    }
    cluster
}

/// The prefix length of an IPv4 slice for that many Pods, where the usual 24 is too long. Three addresses are no Pod's: the
/// slice's first and last, and the gateway's.
fn larger_slice(pods: u32) -> Option<u8> {
    let addresses = u64::from(pods) + 3;
    let prefix = 32 - addresses.next_power_of_two().ilog2() as u8;
    (prefix < 24).then_some(prefix)
}

async fn start_node(
    data: &DataDir,
    cluster: &Cluster,
    agent: &AgentArgs,
    control: &ControlPlane,
) -> Result<Node> {
    let tls = kubeconfig::node_tls(control.pki(), &cluster.node_name)?;
    let client = control.client_as(&format!("system:node:{}", cluster.node_name), &["system:nodes"]);
    let options = commands::node_options(data, cluster, agent, &cluster.local_registry(), client, tls)?;
    Node::start(options).await.context("starting the node agent")
}

/// From a started cluster to a stop signal.
async fn serve(
    documents: &[Document],
    data: &DataDir,
    cluster: &Cluster,
    control: &ControlPlane,
    stop: &CancellationToken,
    progress: &Progress,
) -> Result<()> {
    let client = control.client();
    let deploy = async {
        node_ready(&client, &cluster.node_name, progress).await?;
        let late = deploy(documents, cluster, &client, progress).await?;
        tell(&client, data, cluster, documents, &late, progress).await
    };
    tokio::select! {
        outcome = deploy => outcome?,
        () = stop.cancelled() => return Ok(()),
    }
    text::keep_small();
    stop.cancelled().await;
    Ok(())
}

/// What becomes of the cluster when this process ends.
fn farewell(args: &UpArgs, data: &DataDir, pods_end: bool) -> String {
    if args.rm {
        return "stopping; Pods and everything else of the cluster go with it (--rm)".to_owned();
    }
    if pods_end {
        return "stopping; the host goes down, and the Pods end first (--shutdown-grace-period)".to_owned();
    }
    let data_dir = data.path.display();
    format!(
        "stopping; Pods keep running. `amphipod up --data-dir {data_dir}` takes them back, \
         `amphipod down --data-dir {data_dir}` ends them."
    )
}

async fn node_ready(client: &Client, name: &str, progress: &Progress) -> Result<()> {
    let mut task = progress.task(format!("node {name}"));
    task.update("starting");
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let is_ready = |node: Option<&NodeObject>| {
        let conditions = node
            .and_then(|node| node.status.as_ref())
            .and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
    };
    kube::runtime::wait::await_condition(nodes, name, is_ready)
        .await
        .context("waiting for the node")?;
    task.done("ready");
    Ok(())
}

async fn deploy(
    documents: &[Document],
    cluster: &Cluster,
    client: &Client,
    progress: &Progress,
) -> Result<Vec<String>> {
    let kinds = apply::resolve(client, documents).await?;
    prepare::images(documents, &cluster.local_registry(), progress).await?;
    let mut applied: Vec<Applied> = Vec::new();
    for (document, kind) in documents.iter().zip(&kinds) {
        let one = apply::apply(client, document, kind).await?;
        progress.say(&format!(
            "  {} {} {}",
            one.resource.kind,
            one.object.name_any(),
            one.done
        ));
        applied.push(one);
    }
    ready::wait(&applied, progress).await
}

/// What can be tried now, and how `kubectl` gets here.
async fn tell(
    client: &Client,
    data: &DataDir,
    cluster: &Cluster,
    documents: &[Document],
    late: &[String],
    progress: &Progress,
) -> Result<()> {
    let kubectl = format!("kubectl --kubeconfig {}", data.path.join("kubeconfig").display());
    progress.say(&format!("\n{} is up: {}", cluster.name(), cluster.local_server()));
    for line in urls(client, documents).await? {
        progress.say(&format!("  try   {line}"));
    }
    for name in late {
        progress.say(&format!(
            "  not ready yet: {name}; `{kubectl} describe pods` and `{kubectl} get events` say why"
        ));
    }
    progress.say(&format!("  see   {kubectl} get pods -A -o wide"));
    progress.say("Ctrl-C stops the control plane and the agent.");
    Ok(())
}

/// Every applied Service, as an address that answers on this machine.
async fn urls(client: &Client, documents: &[Document]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for document in documents
        .iter()
        .filter(|document| document.kind.group.is_empty() && document.kind.kind == "Service")
    {
        let namespace = document.object.namespace().unwrap_or_else(|| "default".into());
        let api: Api<Service> = Api::namespaced(client.clone(), &namespace);
        let service = api
            .get(&document.object.name_any())
            .await
            .with_context(|| document.place())?;
        lines.extend(url(&service).map(|url| format!("curl {url:32} # Service {}", service.name_any())));
    }
    Ok(lines)
}

fn url(service: &Service) -> Option<String> {
    let spec = service.spec.as_ref()?;
    let port = spec.ports.as_ref()?.first()?;
    match (port.node_port, spec.cluster_ip.as_deref()) {
        (Some(node_port), _) => Some(format!("http://127.0.0.1:{node_port}/")),
        (None, Some(ip)) if ip != "None" && !ip.is_empty() => Some(format!("http://{ip}:{}/", port.port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_many_pods_gets_a_larger_slice() {
        for (pods, want) in [
            (110, None),
            (253, None),
            (254, Some(23)),
            (600, Some(22)),
            (5_010, Some(19)),
        ] {
            assert_eq!(larger_slice(pods), want, "{pods}");
        }
    }
}
