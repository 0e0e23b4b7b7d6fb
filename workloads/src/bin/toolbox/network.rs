//! What can be reached from the container: `nslookup`, `wget`. By WASI's own interfaces, so as any guest of its Pod.

use crate::{Call, Failure, Outcome, misuse};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::net::ToSocketAddrs;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
};
use wasip2::io::streams::StreamError;

/// How many answers in a row may name another address, as wget elsewhere.
const REDIRECTIONS: usize = 20;

/// Most of a body that WASI takes in one call.
const WRITE: usize = 4096;

const DEFAULT_AGENT: &str = "Wget";

pub fn nslookup(call: &mut Call<'_>) -> Outcome {
    call.needs_operands(1)?;
    call.each(|call, name| {
        let name = name.display();
        let found: BTreeSet<_> = (name.to_string(), 0)
            .to_socket_addrs()?
            .map(|found| found.ip())
            .collect();
        for address in found {
            writeln!(call.out, "Name:    {name}\nAddress: {address}")?;
        }
        Ok(())
    })
}

pub fn wget(call: &mut Call<'_>) -> Outcome {
    call.needs_operands(1)?;
    let mut status = 0;
    for url in std::mem::take(&mut call.operands) {
        if let Err(why) = fetch(call, &url)? {
            crate::complain(call.name, &format!("{url}: {why}"));
            status = 1;
        }
    }
    Ok(status)
}

/// Where something is.
#[derive(Debug, Clone)]
struct Url {
    scheme: Scheme,
    authority: String,
    path: String,
}

impl Url {
    fn read(text: &str) -> Result<Self, String> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some((other, _)) => return Err(format!("not an http or https url: {other}")),
            None => (Scheme::Http, text),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let path = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(path);
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            scheme,
            authority: authority.to_owned(),
            path: format!("{slash}{path}"),
        })
    }

    /// Where an answer says to go on.
    fn follow(&self, location: &str) -> Result<Self, String> {
        match location {
            _ if location.contains("://") => Self::read(location),
            _ if location.starts_with('/') => Ok(Self {
                path: location.to_owned(),
                ..self.clone()
            }),
            _ => {
                let directory = self.path.rfind('/').map_or("", |end| &self.path[..end]);
                Ok(Self {
                    path: format!("{directory}/{location}"),
                    ..self.clone()
                })
            }
        }
    }

    /// What a file of it is called.
    fn file_name(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        match path.rsplit('/').next() {
            None | Some("") => "index.html".to_owned(),
            Some(name) => name.to_owned(),
        }
    }
}

/// Asks, follows what it is told to, and keeps the answer. What the inner error says is about this address only.
fn fetch(call: &mut Call<'_>, text: &str) -> Result<Result<(), String>, Failure> {
    let timeout = call.number('T')?;
    let mut url = match Url::read(text) {
        Ok(url) => url,
        Err(why) => return Ok(Err(why)),
    };
    let name = call
        .options
        .value('O')
        .map_or_else(|| url.file_name(), str::to_owned);
    for _ in 0..=REDIRECTIONS {
        let response = match ask(call, &url, timeout) {
            Ok(response) => response,
            Err(why) => return Ok(Err(why)),
        };
        tell_headers(call, &response);
        let location = response.headers().get("location").into_iter().next();
        match (response.status(), location) {
            (300..=399, Some(location)) => match url.follow(&String::from_utf8_lossy(&location)) {
                Ok(next) => url = next,
                Err(why) => return Ok(Err(why)),
            },
            (200..=299, _) if call.has('s') => return Ok(Ok(())),
            (200..=299, _) => return keep(call, &response, &name),
            (status, _) => return Ok(Err(format!("server returned error: HTTP/1.1 {status}"))),
        }
    }
    Ok(Err("too many redirections".to_owned()))
}

fn tell_headers(call: &Call<'_>, response: &IncomingResponse) {
    if call.has('S') {
        eprintln!("  HTTP/1.1 {}", response.status());
        for (name, value) in response.headers().entries() {
            eprintln!("  {name}: {}", String::from_utf8_lossy(&value));
        }
    }
}

fn headers(call: &Call<'_>) -> Result<Fields, String> {
    let headers = Fields::new();
    let mut lines = vec![("user-agent", call.options.value('U').unwrap_or(DEFAULT_AGENT))];
    if call.has('P') {
        lines.push(("content-type", "application/x-www-form-urlencoded"));
    }
    for line in call.options.values('h') {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| format!("not a header: {line}"))?;
        lines.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        lines.push((name, value.trim()));
    }
    for (name, value) in lines {
        let appended = headers.append(name, value.as_bytes());
        appended.map_err(|why| format!("header {name}: {why}"))?;
    }
    Ok(headers)
}

/// Sends the request and waits for the head of its answer.
fn ask(call: &Call<'_>, url: &Url, timeout: Option<usize>) -> Result<IncomingResponse, String> {
    let refused = |()| "bad address".to_owned();
    let request = OutgoingRequest::new(headers(call)?);
    let body = call.options.value('P');
    let method = match body {
        Some(_) => Method::Post,
        None if call.has('s') => Method::Head,
        None => Method::Get,
    };
    request.set_method(&method).map_err(refused)?;
    request.set_scheme(Some(&url.scheme)).map_err(refused)?;
    request.set_authority(Some(&url.authority)).map_err(refused)?;
    request.set_path_with_query(Some(&url.path)).map_err(refused)?;
    let options = RequestOptions::new();
    if let Some(seconds) = timeout {
        let nanos = Some(seconds as u64 * 1_000_000_000);
        options.set_connect_timeout(nanos).map_err(refused)?;
        options.set_first_byte_timeout(nanos).map_err(refused)?;
        options.set_between_bytes_timeout(nanos).map_err(refused)?;
    }
    let outgoing = request.body().map_err(refused)?;
    let answer = outgoing_handler::handle(request, Some(options)).map_err(|why| why.to_string())?;
    send(outgoing, body.unwrap_or_default())?;
    answer.subscribe().block();
    let answer = answer.get().ok_or("no answer")?.map_err(|()| "no answer")?;
    answer.map_err(|why| why.to_string())
}

fn send(body: OutgoingBody, bytes: &str) -> Result<(), String> {
    let stream = body.write().map_err(|()| "no body can be sent")?;
    for chunk in bytes.as_bytes().chunks(WRITE) {
        stream
            .blocking_write_and_flush(chunk)
            .map_err(|why| why.to_string())?;
    }
    drop(stream);
    OutgoingBody::finish(body, None).map_err(|why| why.to_string())
}

/// Writes what comes to a file, or to standard output for `-`. There is no `/dev`, but many write what they do not want to
/// its `null`.
fn keep(call: &mut Call<'_>, response: &IncomingResponse, name: &str) -> Result<Result<(), String>, Failure> {
    let mut file: Option<Box<dyn Write>> = match name {
        "-" => None,
        "/dev/null" => Some(Box::new(io::sink())),
        name => match File::create(name) {
            Ok(file) => Some(Box::new(file)),
            Err(error) => return misuse(format!("can't open '{name}': {}", crate::words(&error))),
        },
    };
    let Ok(body) = response.consume() else {
        return Ok(Err("the answer has no body".to_owned()));
    };
    let Ok(stream) = body.stream() else {
        return Ok(Err("the answer has no body".to_owned()));
    };
    let done = loop {
        match stream.blocking_read(64 << 10) {
            Ok(bytes) => write(call, file.as_mut(), &bytes)?,
            Err(StreamError::Closed) => break Ok(()),
            Err(StreamError::LastOperationFailed(why)) => break Err(why.to_debug_string()),
        }
    };
    drop(stream);
    drop(IncomingBody::finish(body));
    if done.is_ok() && !call.has('q') && file.is_some() {
        eprintln!("'{name}' saved");
    }
    Ok(done)
}

fn write(call: &mut Call<'_>, file: Option<&mut Box<dyn Write>>, bytes: &[u8]) -> io::Result<()> {
    match file {
        Some(file) => file.write_all(bytes),
        None => {
            call.out.write_all(bytes)?;
            call.out.flush()
        }
    }
}
