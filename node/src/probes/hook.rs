//! The request of a lifecycle hook: an answer, whichever, is success. One who is asked by TLS and answers without is asked again so,
//! as upstream. Refuses to know when hooks are due.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use tokio::time::Instant;

use super::check;
use super::http::NO_TLS;

/// The minor version is the one of the API this node speaks.
const AGENT: &str = "kube-lifecycle/1.36";

/// How the request was answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answered {
    /// Who was to be asked by TLS and speaks none.
    pub without_tls: Option<String>,
}

/// Sends the request. `own` is asked where the hook names no host.
///
/// # Errors
/// Nothing answered within the time, in upstream's words.
pub async fn ask(
    get: &HTTPGetAction,
    container: &Container,
    own: Option<IpAddr>,
    within: Duration,
) -> Result<Answered, String> {
    let own = own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let deadline = Instant::now() + within;
    let check = check::http(get, container, own, AGENT)?;
    let Err(error) = check.ask(deadline).await else {
        return Ok(Answered { without_tls: None });
    };
    if !error.ends_with(NO_TLS) {
        return Err(error);
    }
    let plain = check.without_tls();
    match plain.ask(deadline).await {
        Ok(()) => Ok(Answered {
            without_tls: Some(plain.authority()),
        }),
        Err(_) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::tests::{serve, status};
    use serde_json::json;

    #[tokio::test]
    async fn who_speaks_no_tls_is_asked_without() {
        let plain = status("400 TLS, please");
        let (port, mut requests) = serve(vec![plain.clone(), plain]).await;
        let headers =
            json!([{"name": "Authorization", "value": "secret"}, {"name": "X-Own", "value": "kept"}]);
        let get = |scheme: &str| {
            serde_json::from_value(json!({"port": port, "scheme": scheme, "httpHeaders": headers})).unwrap()
        };
        let long = Duration::from_secs(10);
        let own = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let answered = ask(&get("HTTPS"), &Container::default(), own, long)
            .await
            .unwrap();
        assert_eq!(answered.without_tls, Some(format!("127.0.0.1:{port}")));
        assert!(
            !requests.recv().await.unwrap().starts_with("GET"),
            "it was asked by TLS first"
        );
        let asked = requests.recv().await.unwrap().to_lowercase();
        assert!(
            asked.contains("user-agent: kube-lifecycle/") && asked.contains("x-own: kept"),
            "{asked}"
        );
        assert!(!asked.contains("authorization"), "{asked}");

        let answered = ask(&get("HTTP"), &Container::default(), own, long).await.unwrap();
        assert_eq!(answered.without_tls, None);
        let asked = requests.recv().await.unwrap().to_lowercase();
        assert!(asked.contains("authorization: secret"), "{asked}");
    }
}
