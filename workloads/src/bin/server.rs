//! The demo HTTP server as a native process. Listens on `$LISTEN`, by default `0.0.0.0:8080`.
//! (As a component it is the library's `wasi:http/incoming-handler` export, not this command.)

fn main() -> std::io::Result<()> {
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "0.0.0.0:8080".into());
    println!("listening on {address}");
    workloads::tcp::serve(&address)
}
