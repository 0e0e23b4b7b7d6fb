//! Heads of requests over HTTP/1.x that Go's server refuses before anybody looks at them, in its words: a proxy before
//! this server could see another request in them, or one for another host.
use super::text;
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};

/// The answer to a request with such a head, after which the connection ends.
pub fn refusal<B>(request: &Request<B>) -> Option<Response> {
    let (code, told) = wrong(request.version(), request.method(), request.headers())?;
    let mut response = match told {
        "" => code.into_response(),
        told => text(code, told),
    };
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    Some(response)
}

/// What is told of the first thing that is wrong, in the order of Go's `net/http`.
fn wrong(version: Version, method: &Method, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    if !matches!(version, Version::HTTP_10 | Version::HTTP_11) {
        return None;
    }
    let bad = |told| Some((StatusCode::BAD_REQUEST, told));
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return bad("400 Bad Request");
    }
    if !is_known_encoding(headers) {
        return Some((StatusCode::NOT_IMPLEMENTED, "Unsupported transfer encoding"));
    }
    match host {
        None if version == Version::HTTP_11 && method != Method::CONNECT => {
            return bad("400 Bad Request: missing required Host header");
        }
        Some(host) if !host.as_bytes().iter().all(|byte| is_of_host(*byte)) => {
            return bad("400 Bad Request: malformed Host header");
        }
        _ => {}
    }
    let expected = headers.get(EXPECT).map_or(&b""[..], HeaderValue::as_bytes);
    let met = expected.is_empty() || waits(expected);
    (!met).then_some((StatusCode::EXPECTATION_FAILED, ""))
}

/// None, or `chunked` once.
fn is_known_encoding(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    match (encodings.next(), encodings.next()) {
        (None, _) => true,
        (Some(only), None) => only.as_bytes().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    }
}

/// Whether a byte is one of a host's name or address or of its port (RFC 3986, section 3.2.2), wherever it is.
fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&()*+,-.:;=['_]~".contains(&byte)
}

/// Whether one of the words of `Expect` is `100-continue`.
fn waits(expected: &[u8]) -> bool {
    expected
        .split(|byte| matches!(byte, b' ' | b',' | b'\t'))
        .any(|word| word.eq_ignore_ascii_case(b"100-continue"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_refused_as_go_does() {
        let missing = Some((400, "400 Bad Request: missing required Host header"));
        let malformed = Some((400, "400 Bad Request: malformed Host header"));
        let encoding = Some((501, "Unsupported transfer encoding"));
        for (lines, want) in [
            (&[][..], missing),
            (&[("host", "")], None),
            (&[("host", "[fe80::1%25eth0]:6443")], None),
            (&[("host", "a b")], malformed),
            (&[("host", "a/b")], malformed),
            (&[("host", "a@b")], malformed),
            (&[("host", "a"), ("host", "a")], Some((400, "400 Bad Request"))),
            (&[("host", "a"), ("transfer-encoding", "Chunked")], None),
            (&[("host", "a"), ("transfer-encoding", "gzip, chunked")], encoding),
            (
                &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                encoding,
            ),
            (&[("host", "a"), ("expect", "100-Continue")], None),
            (&[("host", "a"), ("expect", "x, 100-continue")], None),
            (&[("host", "a"), ("expect", "")], None),
            (&[("host", "a"), ("expect", "200-ok")], Some((417, ""))),
            (&[("host", "a"), ("expect", "100-continued")], Some((417, ""))),
        ] {
            let mut request = Request::get("/");
            for (name, value) in lines {
                request = request.header(*name, *value);
            }
            let request = request.body(()).expect("a request");
            let found = wrong(Version::HTTP_11, request.method(), request.headers());
            let found = found.map(|(code, told)| (code.as_u16(), told));
            assert_eq!(found, want, "{lines:?}");
        }
    }

    #[test]
    fn only_http_1_1_must_name_its_host() {
        let none = HeaderMap::new();
        for (version, method) in [
            (Version::HTTP_10, Method::GET),
            (Version::HTTP_2, Method::GET),
            (Version::HTTP_11, Method::CONNECT),
        ] {
            assert_eq!(wrong(version, &method, &none), None, "{version:?} {method}");
        }
    }
}
