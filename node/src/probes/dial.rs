//! TCP connections for probes, with errors in the words Kubernetes users know.

use std::fmt;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Why there is no connection.
#[derive(Debug)]
pub struct DialError {
    address: String,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Timeout,
    Lookup(io::Error),
    Connect(io::Error),
}

/// Connects to a host and port within a time.
pub async fn connect(host: &str, port: u16, within: Duration) -> Result<TcpStream, DialError> {
    let address = authority(host, port);
    let failed = |cause| DialError {
        address: address.clone(),
        cause,
    };
    let connecting = async {
        let found = tokio::net::lookup_host((host, port))
            .await
            .map_err(Cause::Lookup)?;
        let addresses: Vec<_> = found.collect();
        TcpStream::connect(addresses.as_slice())
            .await
            .map_err(Cause::Connect)
    };
    match timeout(within, connecting).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(failed(Cause::Timeout)),
    }
}

/// `host:port`, with the brackets IPv6 needs.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The system's words for an error, in lower case.
pub fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}

impl DialError {
    pub fn is_timeout(&self) -> bool {
        matches!(self.cause, Cause::Timeout)
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dial tcp {}: ", self.address)?;
        match &self.cause {
            Cause::Timeout => write!(f, "i/o timeout"),
            Cause::Lookup(error) => write!(f, "lookup: {}", words(error)),
            Cause::Connect(error) => write!(f, "connect: {}", words(error)),
        }
    }
}

impl std::error::Error for DialError {}
