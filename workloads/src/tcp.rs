//! HTTP/1.1 over TCP for the native programs: one thread a connection, kept as long as the client likes. Enough for a demo program
//! without dependencies; a real service would use a library.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::site::{Fetch, Request, Response, answer};

const MAX_BODY_BYTES: u64 = 8 << 20;
const MAX_HEAD_BYTES: u64 = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves the site on `address` (`HOST:PORT`) until the process ends.
pub fn serve(address: &str) -> std::io::Result<()> {
    serve_with(TcpListener::bind(address)?, |request| answer(request, &Outside))
}

/// Serves `respond` on a listener that is bound already.
pub fn serve_with(
    listener: TcpListener,
    respond: impl Fn(&Request) -> Response + Send + Clone + 'static,
) -> std::io::Result<()> {
    for connection in listener.incoming() {
        let connection = connection?;
        let respond = respond.clone();
        std::thread::spawn(move || {
            if let Err(why) = exchange(connection, respond) {
                eprintln!("connection: {why}");
            }
        });
    }
    Ok(())
}

fn exchange(mut stream: TcpStream, respond: impl Fn(&Request) -> Response) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some((request, is_last)) = read_request(&mut reader)? {
        let response = respond(&request);
        let connection = if is_last { "close" } else { "keep-alive" };
        let mut bytes = format!(
            "HTTP/1.1 {} -\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n",
            response.status,
            response.content_type,
            response.body.len()
        )
        .into_bytes();
        bytes.extend(&response.body);
        stream.write_all(&bytes)?;
        if is_last {
            break;
        }
    }
    Ok(())
}

/// A request, and whether the client wants no other on this connection. `None`: it closed without one, as a TCP probe does, or is
/// idle.
fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<(Request, bool)>> {
    let mut reader = reader.take(MAX_HEAD_BYTES + MAX_BODY_BYTES);
    let mut line = String::new();
    match reader.read_line(&mut line) {
        Ok(0) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::WouldBlock && line.is_empty() => return Ok(None),
        read => read?,
    };
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(Error::new(ErrorKind::InvalidData, "not a request line"));
    };
    let headers = read_headers(&mut reader)?;
    let mut body = vec![0; content_length(&headers).min(MAX_BODY_BYTES) as usize];
    reader.read_exact(&mut body)?;
    let has = |name: &str, value: &str| {
        headers
            .iter()
            .any(|(n, v)| n == name && v.eq_ignore_ascii_case(value))
    };
    let is_last = has("connection", "close")
        || words.next() != Some("HTTP/1.1")
        || content_length(&headers) > MAX_BODY_BYTES
        || headers.iter().any(|(name, _)| name == "transfer-encoding");
    let request = Request {
        method: method.into(),
        target: target.into(),
        headers,
        body,
    };
    Ok(Some((request, is_last)))
}

fn read_headers(reader: &mut impl BufRead) -> std::io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => return Ok(headers),
        }
    }
}

fn content_length(headers: &[(String, String)]) -> u64 {
    headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0)
}

/// The world as a native process reaches it.
pub struct Outside;

impl Fetch for Outside {
    fn fetch(&self, url: &str) -> Result<(u16, Vec<u8>), String> {
        let rest = url.strip_prefix("http://").ok_or("only http:// is spoken here")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        get(host, path).map_err(|why| why.to_string())
    }
}

fn get(host: &str, path: &str) -> std::io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
    )?;
    let mut reader = BufReader::new(stream.take(MAX_HEAD_BYTES + MAX_BODY_BYTES));
    let mut status = String::new();
    reader.read_line(&mut status)?;
    let code = status
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok());
    let code = code.ok_or_else(|| Error::new(ErrorKind::InvalidData, "not an HTTP answer"))?;
    let headers = read_headers(&mut reader)?;
    let mut body = Vec::new();
    match headers
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value == "chunked")
    {
        true => read_chunks(&mut reader, &mut body)?,
        false => drop(reader.take(content_length(&headers)).read_to_end(&mut body)?),
    }
    Ok((code, body))
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> std::io::Result<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size =
            u64::from_str_radix(line.trim(), 16).map_err(|why| Error::new(ErrorKind::InvalidData, why))?;
        reader.by_ref().take(size).read_to_end(body)?;
        reader.read_line(&mut line)?;
        if size == 0 {
            return Ok(());
        }
    }
}
