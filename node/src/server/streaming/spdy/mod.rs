//! SPDY/3.1 (draft-mbelshe-httpbis-spdy), the server's side and no more of it than Kubernetes' clients speak: streams
//! the client opens, data both ways, no flow control (their library has none). `kubectl port-forward` tunnels it through
//! a WebSocket (KEP-4006), `kubectl` before 1.30 speaks it for everything.

mod connection;
mod dictionary;
mod frame;

pub use connection::{Stream, StreamOutput, serve};
