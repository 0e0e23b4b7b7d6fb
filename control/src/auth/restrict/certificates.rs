//! CertificateSigningRequests: who may approve and sign for a signer, and whom nobody may be made (the admission plugins
//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction).
use super::{Operation, Refused, Write, forbidden};
use crate::auth::Authorizer;
use crate::auth::attributes::{Attributes, Resource};
use crate::auth::certificate_request::Wanted;
use crate::auth::identity::MASTERS;
use serde_json::Value;

pub(super) const GROUP: &str = "certificates.k8s.io";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signers of certificates of nodes.
const OF_NODES: [&str; 2] = [
    "kubernetes.io/kubelet-serving",
    "kubernetes.io/kube-apiserver-client-kubelet",
];

pub(super) fn check(authorizer: &Authorizer, write: &Write<'_>) -> Result<(), Refused> {
    let signer = write.old["spec"]["signerName"].as_str().unwrap_or_default();
    match (write.operation, write.subresource) {
        (Operation::Create, None) => subject(write.new),
        (Operation::Update, Some("approval")) if !may(authorizer, write, "approve", signer) => forbidden(
            format!("user not permitted to approve requests with signerName {signer:?}"),
        ),
        (Operation::Update, Some("status")) if signs(write) && !may(authorizer, write, "sign", signer) => {
            forbidden(format!(
                "user not permitted to sign requests with signerName {signer:?}"
            ))
        }
        _ => Ok(()),
    }
}

/// Whether the certificate, or that there will be none, is what changes.
fn signs(write: &Write<'_>) -> bool {
    let failed = |object: &Value| {
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        conditions
            .filter(|c| c["type"] == "Failed")
            .cloned()
            .collect::<Vec<_>>()
    };
    write.new["status"]["certificate"] != write.old["status"]["certificate"]
        || failed(write.new) != failed(write.old)
}

/// For the signer by name, or for all of its domain.
fn may(authorizer: &Authorizer, write: &Write<'_>, verb: &str, signer: &str) -> bool {
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    [signer, &domain].iter().any(|name| {
        let signers = Resource {
            group: GROUP,
            resource: "signers",
            name: Some(name),
            ..Resource::default()
        };
        authorizer.allows(write.who, &Attributes::resource(verb, signers))
    })
}

fn subject(request: &Value) -> Result<(), Refused> {
    if request["spec"]["signerName"] != CLIENT {
        return Ok(());
    }
    let wanted = Wanted::of(request);
    match wanted.is_ok_and(|wanted| wanted.organizations.iter().any(|o| o == MASTERS)) {
        true => forbidden(format!(
            "use of {CLIENT} signer with {MASTERS} group is not allowed"
        )),
        false => Ok(()),
    }
}

/// A node asks for certificates of its own name only.
pub(super) fn of_node(node: &str, request: &Value) -> Result<(), Refused> {
    let signer = request["spec"]["signerName"].as_str().unwrap_or_default();
    if !OF_NODES.contains(&signer) {
        return Ok(());
    }
    match Wanted::of(request) {
        Err(why) => forbidden(format!("unable to parse csr: {why}")),
        Ok(wanted) if wanted.name != format!("system:node:{node}") => {
            forbidden("can only create a node CSR with CN=system:node:NAME of the requesting node")
        }
        Ok(_) => Ok(()),
    }
}
