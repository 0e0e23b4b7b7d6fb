//! The deletion that an eviction is, with the options in its body. The Pod says first why it goes, so that its owner can
//! tell a disruption from a failure (KEP-3329). Nobody is asked again: the eviction was admitted.
use super::options::{Options, read_body};
use super::{check, delete_admitted};
use crate::api::Call;
use crate::api::status::Result;
use crate::api::subresource::condition;
use crate::api::write;
use crate::kinds::time;
use crate::kinds::view::View;
use serde_json::{Value, json};

/// `seen` is the version of the Pod that the eviction rests on, where it names none itself.
pub async fn evict(call: &Call, name: &str, eviction: &Value, seen: Option<&str>) -> Result<()> {
    let mut options = Options::default();
    read_body(&eviction["deleteOptions"], &mut options)?;
    options.version = options.version.or_else(|| seen.map(str::to_owned));
    options.dry_run |= call.query.dry_run("CreateOptions")?;
    if !options.dry_run {
        condemn(call, name, &mut options).await?;
    }
    let current = call.api.read(&call.target, name).await?;
    delete_admitted(call, name, current, &options).await.map(drop)
}

/// Says on the Pod that it is about to go. A revision that was asked for becomes the one that this makes.
async fn condemn(call: &Call, name: &str, options: &mut Options) -> Result<()> {
    let write_options = write::Options {
        admitted: true,
        ..write::Options::of(&call.query, "CreateOptions")?
    };
    let change = |pod: &Value| {
        check(&call.target.kind, name, pod, options)?;
        Ok((condemned(pod), Vec::new()))
    };
    let written = write::update(call, write_options, name, &change).await?;
    if options.version.is_some() {
        let pod = written.object.value()?;
        options.version = Some(pod.text("metadata.resourceVersion").to_owned());
    }
    Ok(())
}

fn condemned(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let target = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastProbeTime": null,
        "lastTransitionTime": time::now(),
        "observedGeneration": pod["metadata"]["generation"],
    });
    condition::set(&mut pod, target);
    pod
}
