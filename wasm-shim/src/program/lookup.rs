//! `wasi:sockets/ip-name-lookup`, in the place of wasmtime's: names come from the Pod's files and resolvers.
//!
//! Owns the interface. Refuses to know how names are looked up.

use super::state::State;
use crate::names::{NameError, Names};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::task::JoinHandle;
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    self, Host, HostResolveAddressStream, ResolveAddressStream,
};
use wasmtime_wasi::p2::bindings::sockets::network::{self, ErrorCode, HostNetwork, IpAddress, Network};
use wasmtime_wasi::p2::{DynPollable, Pollable, SocketError, subscribe};
use wasmtime_wasi::sockets::WasiSocketsView as _;

/// Defines the interface over the one that is there.
///
/// # Errors
/// When it cannot be defined, which would be a defect of this program.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let added = ip_name_lookup::add_to_linker::<State, HasSelf<State>>(linker, |state| state);
    linker.allow_shadowing(false);
    added
}

type Found = Result<std::vec::IntoIter<IpAddr>, ErrorCode>;

/// A lookup under way, or what is left of its result.
enum Lookup {
    Asking(JoinHandle<Found>),
    Done(Found),
}

impl Lookup {
    fn start(names: Arc<Names>, name: String) -> Self {
        Self::Asking(tokio::spawn(async move {
            let found = names.resolve(&name).await;
            found
                .map(|addresses| {
                    let plain: Vec<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
                    plain.into_iter()
                })
                .map_err(|error| code(&error))
        }))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<&mut Found> {
        if let Self::Asking(task) = self {
            let found = std::task::ready!(Pin::new(task).poll(cx));
            *self = Self::Done(found.unwrap_or(Err(ErrorCode::Unknown)));
        }
        match self {
            Self::Done(found) => Poll::Ready(found),
            Self::Asking(_) => Poll::Pending,
        }
    }
}

/// A guest that does not want the answer any more leaves no question behind.
impl Drop for Lookup {
    fn drop(&mut self) {
        if let Self::Asking(task) = self {
            task.abort();
        }
    }
}

fn code(error: &NameError) -> ErrorCode {
    match error {
        NameError::Invalid => ErrorCode::InvalidArgument,
        NameError::NotFound => ErrorCode::NameUnresolvable,
        NameError::Denied => ErrorCode::AccessDenied,
        NameError::Timeout | NameError::Failed(_) => ErrorCode::TemporaryResolverFailure,
    }
}

/// The same handle under our type.
fn ours(stream: &Resource<ResolveAddressStream>) -> Resource<Lookup> {
    if stream.owned() {
        Resource::new_own(stream.rep())
    } else {
        Resource::new_borrow(stream.rep())
    }
}

/// Errors are as in the rest of `wasi:sockets`.
impl network::Host for State {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        self.sockets().convert_error_code(error)
    }

    fn network_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        self.sockets().network_error_code(error)
    }
}

impl HostNetwork for State {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        HostNetwork::drop(&mut self.sockets(), network)
    }
}

impl Host for State {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> Result<Resource<ResolveAddressStream>, SocketError> {
        self.table().get(&network)?;
        let lookup = Lookup::start(Arc::clone(&self.names), name);
        let handle = self.table().push(lookup)?;
        Ok(Resource::new_own(handle.rep()))
    }
}

impl HostResolveAddressStream for State {
    fn resolve_next_address(
        &mut self,
        stream: Resource<ResolveAddressStream>,
    ) -> Result<Option<IpAddress>, SocketError> {
        let lookup = self.table().get_mut(&ours(&stream))?;
        match lookup.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Err(ErrorCode::WouldBlock.into()),
            Poll::Ready(Ok(addresses)) => Ok(addresses.next().map(IpAddress::from)),
            Poll::Ready(Err(code)) => Err((*code).into()),
        }
    }

    fn subscribe(
        &mut self,
        stream: Resource<ResolveAddressStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table(), ours(&stream))
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        self.table().delete(ours(&stream))?;
        Ok(())
    }
}

#[async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll(cx).map(drop)).await;
    }
}
