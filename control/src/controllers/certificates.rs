//! CertificateSigningRequests: approves what nodes ask for about themselves, and signs what is approved for the
//! cluster's own signers ("Certificate Signing Requests", Kubernetes signers).
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::SignedDuration;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::context::Context;
use crate::auth::certificate_request::{Alternative, Wanted};
use crate::toolkit::patch::to_value;
use crate::toolkit::{ObjectKey, Objects, Outcome, Queue, StepError, Steps, work};

/// Requests treated at once.
const WORKERS: usize = 2;
/// Seconds a certificate is for when nothing is said (upstream's `--cluster-signing-duration`).
const LIFE: i64 = 365 * 24 * 3600;
const SHORTEST: i64 = 600;
const NODES: &str = "system:nodes";
const NODE: &str = "system:node:";

/// Signers of the cluster's authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signer {
    Client,
    Kubelet,
    Serving,
}

impl Signer {
    fn named(name: &str) -> Option<Self> {
        match name {
            "kubernetes.io/kube-apiserver-client" => Some(Signer::Client),
            "kubernetes.io/kube-apiserver-client-kubelet" => Some(Signer::Kubelet),
            "kubernetes.io/kubelet-serving" => Some(Signer::Serving),
            _ => None,
        }
    }

    /// What is wrong with a request to this signer.
    fn judge(self, wanted: &Wanted, usages: &[String]) -> Result<(), String> {
        let purpose = if self == Signer::Serving {
            "server auth"
        } else {
            "client auth"
        };
        let known = ["digital signature", "key encipherment", purpose];
        if let Some(other) = usages.iter().find(|usage| !known.contains(&usage.as_str())) {
            let what = match self {
                Signer::Client => "client certificate",
                _ => "this signer",
            };
            return Err(format!("invalid usage for {what}: {other}"));
        }
        if !usages.iter().any(|usage| usage == purpose) {
            return Err(format!("the usage {purpose:?} is missing"));
        }
        if self == Signer::Client {
            return Ok(());
        }
        if wanted.organizations != [NODES] {
            return Err(format!("subject organization is not {NODES}"));
        }
        if !wanted.name.starts_with(NODE) {
            return Err(format!("subject common name does not begin with {NODE}"));
        }
        self.judge_alternatives(&wanted.alternatives)
    }

    /// The same of the alternative names, in upstream's order (`ValidateKubeletServingCSR` and its like). What they say nothing of
    /// is not signed.
    fn judge_alternatives(self, names: &[Alternative]) -> Result<(), String> {
        let has = |kind: Alternative| names.contains(&kind);
        let serves = self == Signer::Serving;
        if serves && !has(Alternative::Dns) && !has(Alternative::Ip) {
            return Err("DNS or IP subjectAltName is required".to_owned());
        }
        let refused = [
            (!serves && has(Alternative::Dns), "DNS"),
            (has(Alternative::Email), "Email"),
            (!serves && has(Alternative::Ip), "IP"),
            (has(Alternative::Uri), "URI"),
            (has(Alternative::Other), "other"),
        ];
        match refused.iter().find(|(is, _)| *is) {
            Some((_, kind)) => Err(format!("{kind} subjectAltNames are not allowed")),
            None => Ok(()),
        }
    }
}

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let context = context.clone();
    let queue: Arc<Queue<String>> = Arc::new(Queue::new());
    let requests = queue.clone();
    context
        .watches
        .certificates
        .on_change(move |change| requests.add(change.object().name_any()));
    let shutdown = context.shutdown.clone();
    work(
        "certificates",
        queue,
        WORKERS,
        shutdown,
        context,
        |context, name| reconcile(context, name).boxed(),
    )
}

async fn reconcile(context: &Context, name: String) -> Result<Outcome, StepError> {
    let Some(request) = context.watches.certificates.get(&ObjectKey::cluster(&name)) else {
        return Ok(Outcome::Done);
    };
    let status = request.status.clone().unwrap_or_default();
    let has = |kind: &str| {
        status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == kind)
    };
    let ended = status.certificate.is_some() || has("Denied") || has("Failed");
    match Signer::named(&request.spec.signer_name) {
        Some(signer) if !ended && has("Approved") => sign(context, &request, signer).await?,
        Some(Signer::Kubelet) if !ended => approve(context, &request).await?,
        _ => {}
    }
    Ok(Outcome::Done)
}

fn usages(request: &CertificateSigningRequest) -> Vec<String> {
    request.spec.usages.clone().unwrap_or_default()
}

async fn sign(
    context: &Context,
    request: &CertificateSigningRequest,
    signer: Signer,
) -> Result<(), StepError> {
    let Some(pki) = &context.options.pki else {
        return Ok(());
    };
    let usages = usages(request);
    let made = Wanted::read(&request.spec.request.0).and_then(|wanted| {
        signer.judge(&wanted, &usages)?;
        let seconds = request.spec.expiration_seconds.map_or(LIFE, i64::from);
        let life = SignedDuration::from_secs(seconds.clamp(SHORTEST, LIFE));
        wanted.sign(pki, &usages, life).map_err(|error| error.to_string())
    });
    let status = match made {
        Ok(pem) => json!({"certificate": ByteString(pem.into_bytes())}),
        Err(why) => {
            let failed = condition("Failed", "SignerValidationFailure", &why);
            json!({"conditions": with(request, failed)})
        }
    };
    let name = request.name_any();
    let api: Objects<CertificateSigningRequest> = Objects::all(&context.client);
    let written = api.merge_status(&name, json!({"metadata": guard(request), "status": status}));
    written
        .await
        .step_opt(|| format!("sign CertificateSigningRequest {name}"))
        .map(drop)
}

/// Approves a node's request for its own client certificate, when its maker has the right to that.
async fn approve(context: &Context, request: &CertificateSigningRequest) -> Result<(), StepError> {
    let wanted = Wanted::read(&request.spec.request.0);
    let Ok(wanted) =
        wanted.and_then(|wanted| Signer::Kubelet.judge(&wanted, &usages(request)).map(|()| wanted))
    else {
        return Ok(());
    };
    let own = request.spec.username.as_deref() == Some(wanted.name.as_str());
    let right = if own { "selfnodeclient" } else { "nodeclient" };
    if !may(context, request, right).await? {
        return Ok(());
    }
    let approved = condition(
        "Approved",
        "AutoApproved",
        &format!("Auto approving kubelet client certificate after SubjectAccessReview of {right}."),
    );
    let name = request.name_any();
    let body = json!({"metadata": guard(request), "status": {"conditions": with(request, approved)}});
    let api = Objects::<CertificateSigningRequest>::all(&context.client).into_raw();
    let (params, patch) = (PatchParams::default(), Patch::Merge(body));
    let written = api.patch_subresource("approval", &name, &params, &patch).await;
    written
        .step_opt(|| format!("approve CertificateSigningRequest {name}"))
        .map(drop)
}

async fn may(context: &Context, request: &CertificateSigningRequest, right: &str) -> Result<bool, StepError> {
    let spec = &request.spec;
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
        "resourceAttributes": {"group": "certificates.k8s.io", "resource": "certificatesigningrequests",
            "verb": "create", "subresource": right}}});
    let post = http::Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews")
        .header("content-type", "application/json")
        .body(review.to_string().into_bytes());
    let step = || "ask whether a certificate may be approved".to_owned();
    let post = post.map_err(kube::Error::HttpError).step(step)?;
    let answer: Value = context.client.request(post).await.step(step)?;
    Ok(answer["status"]["allowed"] == true)
}

fn condition(kind: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": reason, "message": message})
}

/// The conditions that are there, and another.
fn with(request: &CertificateSigningRequest, condition: Value) -> Vec<Value> {
    let known = request
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    known.map(to_value).chain([condition]).collect()
}

fn guard(request: &CertificateSigningRequest) -> Value {
    json!({"uid": request.uid(), "resourceVersion": request.resource_version()})
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn wanted(name: &str, organization: &str, hosts: &[&str]) -> Wanted {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, organization);
        let key = KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        Wanted::read(pem.as_bytes()).unwrap()
    }

    #[test]
    fn signers_are_particular() {
        let usages = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let client = usages(&["client auth", "digital signature"]);
        let server = usages(&["server auth"]);
        let node = |hosts: &[&str]| wanted("system:node:a", NODES, hosts);
        assert_eq!(Signer::Client.judge(&wanted("bob", "ops", &[]), &client), Ok(()));
        assert!(Signer::Client.judge(&wanted("bob", "ops", &[]), &server).is_err());
        assert_eq!(Signer::Kubelet.judge(&node(&[]), &client), Ok(()));
        assert!(Signer::Kubelet.judge(&node(&["a"]), &client).is_err());
        assert!(
            Signer::Kubelet
                .judge(&wanted("bob", NODES, &[]), &client)
                .is_err()
        );
        assert!(
            Signer::Kubelet
                .judge(&wanted("system:node:a", "ops", &[]), &client)
                .is_err()
        );
        assert_eq!(Signer::Serving.judge(&node(&["a"]), &server), Ok(()));
        assert!(Signer::Serving.judge(&node(&[]), &server).is_err());
    }

    #[test]
    fn alternative_names_are_refused_in_upstreams_words() {
        use Alternative::{Dns, Email, Ip, Uri};
        let required = "DNS or IP subjectAltName is required";
        for (signer, names, want) in [
            (Signer::Serving, &[][..], Some(required)),
            (Signer::Serving, &[Email], Some(required)),
            (
                Signer::Serving,
                &[Ip, Email, Uri],
                Some("Email subjectAltNames are not allowed"),
            ),
            (
                Signer::Serving,
                &[Dns, Uri],
                Some("URI subjectAltNames are not allowed"),
            ),
            (Signer::Serving, &[Dns, Ip], None),
            (
                Signer::Kubelet,
                &[Ip, Email, Dns],
                Some("DNS subjectAltNames are not allowed"),
            ),
            (
                Signer::Kubelet,
                &[Ip, Email],
                Some("Email subjectAltNames are not allowed"),
            ),
            (Signer::Kubelet, &[Ip], Some("IP subjectAltNames are not allowed")),
            (Signer::Kubelet, &[], None),
        ] {
            let told = signer.judge_alternatives(names).err();
            assert_eq!(told.as_deref(), want, "{names:?}");
        }
    }

    #[test]
    fn a_signed_certificate_is_of_the_authority_and_names_the_user() {
        use crate::auth::Identity;
        use crate::auth::pki::Pki;
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open_or_create(dir.path(), &[]).unwrap();
        let usages = ["client auth".to_owned()];
        let pem = wanted("bob", "ops", &[])
            .sign(&pki, &usages, SignedDuration::from_hours(1))
            .unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let who = Identity::from_certificate(&der).unwrap();
        assert_eq!((&*who.user, who.is_in("ops")), ("bob", true));
    }
}
