//! Three functions of `wasi:sockets` in the place of wasmtime's: those by which somebody reaches a guest, who may be one that
//! the rules of the Pod's network keep out.
//!
//! Owns where the port is known at which somebody arrives; wasmtime-wasi's own check is told only where from. Connections
//! that may not be are closed before the guest knows of them, datagrams that may not be are dropped. Refuses to know rules.

use super::state::State;
use std::net::SocketAddr;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, Host as _, IpSocketAddress};
use wasmtime_wasi::p2::bindings::sockets::tcp::HostTcpSocket;
use wasmtime_wasi::p2::bindings::sockets::udp::{
    HostIncomingDatagramStream as _, HostUdpSocket, IncomingDatagram, IncomingDatagramStream,
    OutgoingDatagramStream,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, SocketError, SocketResult, TcpSocket, UdpSocket};
use wasmtime_wasi::sockets::WasiSocketsView as _;

/// The instances as wasmtime-wasi defines them; a guest's own 0.2.x is matched with them.
const TCP: &str = "wasi:sockets/tcp@0.2.12";
const UDP: &str = "wasi:sockets/udp@0.2.12";

/// Connections closed in one call; the guest is told that there is none, and asks again.
const MAX_CLOSED: usize = 64;

/// Defines the functions over those that are there.
///
/// # Errors
/// When they cannot be defined, which would be a defect of this program.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker
        .instance(TCP)?
        .func_wrap("[method]tcp-socket.accept", accept)?;
    let mut udp = linker.instance(UDP)?;
    udp.func_wrap_async("[method]udp-socket.stream", |store, params| {
        Box::new(stream(store, params))
    })?;
    udp.func_wrap("[method]incoming-datagram-stream.receive", receive)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// A value as an interface returns it, or a trap.
fn returned<T>(state: &mut State, result: SocketResult<T>) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(state.sockets().convert_error_code(error)?),)),
    }
}

/// The same handle, borrowed.
fn same<T: 'static>(handle: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(handle.rep())
}

type Accepted = (
    Resource<TcpSocket>,
    Resource<DynInputStream>,
    Resource<DynOutputStream>,
);

fn accept(
    mut store: StoreContextMut<'_, State>,
    (socket,): (Resource<TcpSocket>,),
) -> wasmtime::Result<(Result<Accepted, ErrorCode>,)> {
    let state = store.data_mut();
    let accepted = accept_allowed(state, &socket);
    returned(state, accepted)
}

fn accept_allowed(state: &mut State, listener: &Resource<TcpSocket>) -> SocketResult<Accepted> {
    for _ in 0..MAX_CLOSED {
        let accepted = state.sockets().accept(same(listener))?;
        if may_come(state, &accepted.0)? {
            return Ok(accepted);
        }
        let (socket, input, output) = accepted;
        state.table().delete(input)?;
        state.table().delete(output)?;
        state.table().delete(socket)?;
    }
    Err(ErrorCode::WouldBlock.into())
}

/// Whether whoever is at the other end may be; one that left meanwhile is the guest's to see.
fn may_come(state: &mut State, socket: &Resource<TcpSocket>) -> SocketResult<bool> {
    if !state.narrowing.is_narrow() {
        return Ok(true);
    }
    let mut sockets = state.sockets();
    let ends = (
        HostTcpSocket::remote_address(&mut sockets, same(socket)),
        HostTcpSocket::local_address(&mut sockets, same(socket)),
    );
    Ok(match ends {
        (Ok(from), Ok(to)) => state
            .narrowing
            .lets_in(SocketAddr::from(from), SocketAddr::from(to).port()),
        (Err(error), _) | (_, Err(error)) => is_gone(state, error)?,
    })
}

/// Nobody knows any more who it was: whoever hung up at once may have sent something before. It is closed like one that may
/// not come.
fn is_gone(state: &mut State, error: SocketError) -> SocketResult<bool> {
    let code = state.sockets().convert_error_code(error);
    code.map(|_| false).map_err(SocketError::trap)
}

type Streams = (Resource<IncomingDatagramStream>, Resource<OutgoingDatagramStream>);

/// Notes at which port the stream's datagrams arrive. The socket is bound by then, or there is no stream.
async fn stream(
    mut store: StoreContextMut<'_, State>,
    (socket, remote): (Resource<UdpSocket>, Option<IpSocketAddress>),
) -> wasmtime::Result<(Result<Streams, ErrorCode>,)> {
    let state = store.data_mut();
    let streams = match state.sockets().stream(same(&socket), remote).await {
        Ok(streams) => streams,
        Err(error) => return returned(state, Err(error)),
    };
    match HostUdpSocket::local_address(&mut state.sockets(), socket) {
        Ok(local) => {
            let port = SocketAddr::from(local).port();
            state.arrivals.insert(streams.0.rep(), port);
            Ok((Ok(streams),))
        }
        Err(error) => returned(state, Err(error)),
    }
}

fn receive(
    mut store: StoreContextMut<'_, State>,
    (stream, most): (Resource<IncomingDatagramStream>, u64),
) -> wasmtime::Result<(Result<Vec<IncomingDatagram>, ErrorCode>,)> {
    let state = store.data_mut();
    let port = state.arrivals.get(&stream.rep()).copied();
    let mut received = state.sockets().receive(stream, most);
    if let Ok(datagrams) = &mut received
        && state.narrowing.is_narrow()
    {
        let may_come = |from: IpSocketAddress| {
            port.is_some_and(|port| state.narrowing.lets_receive(SocketAddr::from(from), port))
        };
        datagrams.retain(|datagram| may_come(datagram.remote_address));
    }
    returned(state, received)
}
