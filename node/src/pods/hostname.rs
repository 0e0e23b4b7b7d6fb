//! What a Pod's host is called (core/v1 PodSpec `hostname`, `subdomain`, `setHostnameAsFQDN`, `hostnameOverride`). Owns the
//! kubelet's limits; refuses to know who answers for the names.

use std::fs;

use super::view::PodView;

/// The DNS domain of every cluster; upstream's default.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// Characters of a host name; longer ones are cut.
const SHORT_LIMIT: usize = 63;
/// Characters of a full name, which is never cut: the kernel's field (uname(2)).
const FULL_LIMIT: usize = 64;

/// A full name that the kernel has no room for.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error(
    "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long ({FULL_LIMIT} characters is \
     the max, {} characters requested)",
    name.len()
)]
pub struct HostNameError {
    name: String,
}

/// The name by itself: the first of those the Pod gives, or its own.
pub fn short(pod: PodView<'_>) -> String {
    let chosen = pod.spec.hostname.as_deref().filter(|name| !name.is_empty());
    let name = pod.spec.hostname_override.as_deref().or(chosen);
    name.unwrap_or(pod.name())
        .chars()
        .take(SHORT_LIMIT)
        .collect::<String>()
        .trim_end_matches(['-', '.'])
        .to_owned()
}

/// The full name of a Pod with a `subdomain`: `<hostname>.<subdomain>.<namespace>.svc.<cluster domain>`. A name that
/// overrides the others has none (KEP-4762).
pub fn full(pod: PodView<'_>) -> Option<String> {
    let subdomain = pod.spec.subdomain.as_deref().filter(|s| !s.is_empty())?;
    let overridden = pod.spec.hostname_override.is_some();
    (!overridden).then(|| {
        format!(
            "{}.{subdomain}.{}.svc.{CLUSTER_DOMAIN}",
            short(pod),
            pod.namespace()
        )
    })
}

/// What the kernel, `/etc/hostname` and `$HOSTNAME` say: in the host's network the host's name.
pub fn told(pod: PodView<'_>) -> Result<String, HostNameError> {
    if pod.spec.host_network == Some(true) {
        let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        return Ok(own.trim().to_owned());
    }
    let wants_full = pod.spec.set_hostname_as_fqdn == Some(true);
    match full(pod).filter(|_| wants_full) {
        Some(name) if name.len() > FULL_LIMIT => Err(HostNameError { name }),
        Some(name) => Ok(name),
        None => Ok(short(pod)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn names(spec: Value) -> (String, Option<String>, Result<String, HostNameError>) {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let metadata = json!({"name": "web-0", "namespace": "n", "uid": "u"});
        let pod: Pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
        let view = PodView::new(&pod).unwrap();
        (short(view), full(view), told(view))
    }

    #[test]
    fn names_of_a_pod() {
        let in_sub = || Some("h1.sub.n.svc.cluster.local".to_owned());
        for (spec, name, whole, kernel) in [
            (json!({}), "web-0", None, "web-0"),
            (json!({"setHostnameAsFQDN": true}), "web-0", None, "web-0"),
            (
                json!({"hostname": "h1", "subdomain": "sub"}),
                "h1",
                in_sub(),
                "h1",
            ),
            (
                json!({"hostname": "h1", "subdomain": "sub", "setHostnameAsFQDN": true}),
                "h1",
                in_sub(),
                "h1.sub.n.svc.cluster.local",
            ),
            (
                json!({"hostname": "h1", "subdomain": "sub", "hostnameOverride": "o.example"}),
                "o.example",
                None,
                "o.example",
            ),
        ] {
            let expected = (name.to_owned(), whole, Ok(kernel.to_owned()));
            assert_eq!(names(spec.clone()), expected, "{spec}");
        }
        let long = names(json!({"hostname": format!("{}-x", "h".repeat(62))}));
        assert_eq!(long.0, "h".repeat(62));
    }

    #[test]
    fn a_full_name_that_is_too_long_is_refused() {
        let spec =
            |length| json!({"hostname": "h".repeat(length), "subdomain": "sub", "setHostnameAsFQDN": true});
        assert_eq!(names(spec(40)).2.unwrap().len(), 64);
        let error = names(spec(41)).2.unwrap_err().to_string();
        let end = "is too long (64 characters is the max, 65 characters requested)";
        assert!(error.ends_with(end), "{error}");
    }

    #[test]
    fn in_the_hosts_network_the_host_names_itself() {
        let own = nix::unistd::gethostname().unwrap();
        let told = names(json!({"hostNetwork": true})).2;
        assert_eq!(told.unwrap().as_str(), own.to_str().unwrap());
    }
}
