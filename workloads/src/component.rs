//! The demo server as a component: `wasi:http/incoming-handler` in, `wasi:http/outgoing-handler` out (WASI 0.2).

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingRequest, OutgoingResponse,
    ResponseOutparam, Scheme,
};
use wasip2::io::streams::{InputStream, StreamError};

use crate::site::{Fetch, Request, Response, answer};

struct Server;

wasip2::http::proxy::export!(Server);

impl Guest for Server {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let response = match read(&request) {
            Ok(request) => answer(&request, &Outside),
            Err(why) => Response {
                status: 400,
                content_type: "text/plain",
                body: why.into_bytes(),
            },
        };
        if let Err(why) = write(response, out) {
            eprintln!("response: {why}");
        }
    }
}

fn read(request: &IncomingRequest) -> Result<Request, String> {
    let headers = request.headers().entries();
    let headers = headers
        .into_iter()
        .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
        .collect();
    let body = request.consume().map_err(|()| "the body was taken already")?;
    Ok(Request {
        method: method_name(request.method()),
        target: request.path_with_query().unwrap_or_else(|| "/".into()),
        headers,
        body: read_body(body)?,
    })
}

fn method_name(method: Method) -> String {
    match method {
        Method::Get => "GET".into(),
        Method::Head => "HEAD".into(),
        Method::Post => "POST".into(),
        Method::Put => "PUT".into(),
        Method::Delete => "DELETE".into(),
        Method::Connect => "CONNECT".into(),
        Method::Options => "OPTIONS".into(),
        Method::Trace => "TRACE".into(),
        Method::Patch => "PATCH".into(),
        Method::Other(name) => name,
    }
}

fn read_body(body: IncomingBody) -> Result<Vec<u8>, String> {
    let stream = body.stream().map_err(|()| "the body has no stream")?;
    let bytes = read_stream(&stream)?;
    drop(stream);
    drop(IncomingBody::finish(body));
    Ok(bytes)
}

fn read_stream(stream: &InputStream) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(more) => bytes.extend(more),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(why)) => return Err(why.to_debug_string()),
        }
    }
}

fn write(response: Response, out: ResponseOutparam) -> Result<(), String> {
    let headers = Fields::new();
    headers
        .append("content-type", response.content_type.as_bytes())
        .map_err(|why| why.to_string())?;
    headers
        .append("content-length", response.body.len().to_string().as_bytes())
        .map_err(|why| why.to_string())?;
    let head = OutgoingResponse::new(headers);
    head.set_status_code(response.status)
        .map_err(|()| "no such status")?;
    let body = head.body().map_err(|()| "the body was taken already")?;
    ResponseOutparam::set(out, Ok(head));
    let stream = body.write().map_err(|()| "the body has no stream")?;
    for chunk in response.body.chunks(4096) {
        stream
            .blocking_write_and_flush(chunk)
            .map_err(|why| why.to_string())?;
    }
    drop(stream);
    OutgoingBody::finish(body, None).map_err(|why| why.to_string())
}

struct Outside;

impl Fetch for Outside {
    fn fetch(&self, url: &str) -> Result<(u16, Vec<u8>), String> {
        let rest = url.strip_prefix("http://").ok_or("only http:// is spoken here")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let request = OutgoingRequest::new(Fields::new());
        let refused = |()| "the request was refused".to_owned();
        request.set_scheme(Some(&Scheme::Http)).map_err(refused)?;
        request.set_authority(Some(host)).map_err(refused)?;
        request
            .set_path_with_query(Some(&format!("/{path}")))
            .map_err(refused)?;
        let future = outgoing_handler::handle(request, None).map_err(|why| why.to_string())?;
        future.subscribe().block();
        let answer = future
            .get()
            .ok_or("no answer")?
            .map_err(|()| "the answer was taken already")?;
        let answer = answer.map_err(|why| why.to_string())?;
        let body = answer.consume().map_err(refused)?;
        Ok((answer.status(), read_body(body)?))
    }
}
