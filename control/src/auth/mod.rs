//! Who a request comes from, and whether he may.
//!
//! Owns: the cluster's certificate authority, certificates, kubeconfigs, reading an identity out of a client
//! certificate or a bearer token; and the authorizers. Refuses to know HTTP and the store: objects are seen through [`Reader`].
pub mod attributes;
pub mod authorize;
pub mod certificate_request;
pub mod client_cert;
pub mod defaults;
pub mod identity;
mod kubeconfig;
pub mod node;
pub mod own_request;
pub mod pki;
pub mod rbac;
mod reader;
pub mod restrict;
pub mod tokens;

pub use attributes::Attributes;
pub use authorize::{Authorizer, Verdict};
pub use client_cert::RefusedCertificate;
pub use identity::Identity;
pub use node::{References, VolumeSecrets};
pub use reader::{GroupResource, Reader, Stored};
