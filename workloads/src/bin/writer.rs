//! Writes a line into `$FILE` (default `/data/message`) every `$EVERY_MS` milliseconds (default 1000). A native writer
//! also asks its neighbour `$PEER` (`http://HOST:PORT/PATH`), writes down what it answered, and serves its last
//! line on `$LISTEN` (default `127.0.0.1:9090`).

use std::path::Path;
use std::time::Duration;

#[expect(
    clippy::disallowed_methods,
    reason = "writing once a period is what this program is for"
)]
fn main() -> std::io::Result<()> {
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.into());
    let file = setting("FILE", "/data/message");
    let every = Duration::from_millis(setting("EVERY_MS", "1000").parse().unwrap_or(1000));
    #[cfg(not(target_os = "wasi"))]
    listen(&setting("LISTEN", "127.0.0.1:9090"), &file)?;
    for round in 1_u64.. {
        replace(Path::new(&file), &line(round))?;
        std::thread::sleep(every);
    }
    Ok(())
}

fn line(round: u64) -> String {
    let runtime = if cfg!(target_family = "wasm") {
        "wasm"
    } else {
        "native"
    };
    format!("line {round} from {runtime}{}\n", neighbour())
}

#[cfg(not(target_os = "wasi"))]
fn neighbour() -> String {
    use workloads::site::Fetch;
    let Ok(peer) = std::env::var("PEER") else {
        return String::new();
    };
    match workloads::tcp::Outside.fetch(&peer) {
        Ok((status, body)) => format!(
            "; {peer} answered {status} {}",
            String::from_utf8_lossy(&body).trim_end()
        ),
        Err(why) => format!("; {peer}: {why}"),
    }
}

#[cfg(target_os = "wasi")]
fn neighbour() -> String {
    String::new()
}

/// Readers see the old line or the new one, never half of one.
fn replace(file: &Path, line: &str) -> std::io::Result<()> {
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, line)?;
    std::fs::rename(&fresh, file)
}

#[cfg(not(target_os = "wasi"))]
fn listen(address: &str, file: &str) -> std::io::Result<()> {
    use workloads::site::Response;
    let listener = std::net::TcpListener::bind(address)?;
    let file = file.to_owned();
    std::thread::spawn(move || {
        workloads::tcp::serve_with(listener, move |_| match std::fs::read(&file) {
            Ok(body) => Response {
                status: 200,
                content_type: "text/plain",
                body,
            },
            Err(why) => Response {
                status: 503,
                content_type: "text/plain",
                body: format!("{file}: {why}\n").into_bytes(),
            },
        })
    });
    Ok(())
}
