//! The control plane as its clients meet it: in-process, over HTTPS, and after being killed; and what its scheduler and
//! controllers make of what clients ask for.
mod admission;
mod applying;
mod auth;
mod cluster;
mod crash;
mod custom_resources;
mod deployments;
mod endpoints;
mod garbage;
mod hostile;
mod http2;
mod https;
mod namespaces;
mod nodes;
mod objects;
mod observing;
mod paging;
mod plane;
mod policies;
mod scheduling;
mod services;
mod streaming;
mod tls;
mod watching;
mod webhooks;
mod websockets;
