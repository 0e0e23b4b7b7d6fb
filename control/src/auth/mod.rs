//! Who a request comes from.
//!
//! Owns: the cluster's certificate authority, certificates, kubeconfigs, and reading an identity out of a client
//! certificate. Refuses to know: what the identity asks for.
pub mod authorize;
pub mod client_cert;
pub mod identity;
mod kubeconfig;
pub mod pki;

pub use identity::Identity;
