//! The deletion that an eviction is, with the options in its body. The Pod says first why it goes, so that its owner can
//! tell a disruption from a failure (KEP-3329).
use super::options::{Options, read_body};
use super::{check, delete};
use crate::api::Call;
use crate::api::status::Result;
use crate::api::subresource::condition;
use crate::api::write;
use crate::kinds::time;
use crate::kinds::view::View;
use serde_json::{Value, json};

pub async fn evict(call: &Call, name: &str, eviction: &Value) -> Result<()> {
    let mut options = Options::default();
    read_body(&eviction["deleteOptions"], &mut options)?;
    options.dry_run |= call.query.dry_run("CreateOptions")?;
    if !options.dry_run {
        condemn(call, name, &mut options).await?;
    }
    delete(call, name, &options).await.map(drop)
}

/// Says on the Pod that it is about to go. A revision that was asked for becomes the one that this makes.
async fn condemn(call: &Call, name: &str, options: &mut Options) -> Result<()> {
    let write_options = write::Options::of(&call.query, "CreateOptions")?;
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
