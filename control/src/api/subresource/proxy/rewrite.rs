//! What a backend sees of a request, and a client of the answer (`UpgradeAwareHandler` and its `Transport`). Pure.
use super::super::super::route::Target;
use super::super::super::status::{ApiError, Result};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use std::net::IpAddr;

/// Headers of one connection, not of the message (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Who the client acts as is no backend's business.
const IMPERSONATE: &str = "impersonate-";
/// What a path may hold as it is, beside letters and digits (RFC 3986, `pchar` and `/`).
const PATH_BYTES: &[u8] = b"-_.~$&+,/:;=@!'()*";

/// The way of a request: the path up to `proxy`, and what is behind it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Through {
    /// As the client wrote it.
    prefix: String,
    /// Cleaned and encoded anew; empty for the bare subresource.
    path: PathAndQuery,
    root: bool,
}

impl Through {
    pub(super) fn read(target: &Target, path: &str) -> Result<Self> {
        // /api/VERSION/[namespaces/NS/]PLURAL/NAME/proxy
        let own = if target.namespace.is_some() { 7 } else { 5 };
        let path = path.trim_start_matches('/');
        let end = path
            .match_indices('/')
            .nth(own - 1)
            .map_or(path.len(), |(at, _)| at);
        let (prefix, rest) = path.split_at(end);
        let bare = Through {
            prefix: format!("/{prefix}"),
            path: PathAndQuery::from_static("/"),
            root: true,
        };
        bare.to(rest)
    }

    /// The same backend, at this path.
    pub(super) fn to(self, path: &str) -> Result<Self> {
        let cleaned = clean(path);
        let shown = if cleaned.is_empty() { "/" } else { &cleaned };
        Ok(Through {
            path: PathAndQuery::try_from(shown).map_err(|e| ApiError::bad_request(e.to_string()))?,
            root: path.is_empty(),
            prefix: self.prefix,
        })
    }

    /// Whether nothing, not even `/`, is behind `proxy`.
    pub(super) fn is_root(&self) -> bool {
        self.root
    }

    /// The request's target at the backend.
    pub(super) fn uri(&self, query: Option<&str>) -> Uri {
        let with = query.map(|query| format!("{}?{query}", self.path));
        let whole = with.and_then(|text| PathAndQuery::try_from(text).ok());
        Uri::from(whole.unwrap_or_else(|| self.path.clone()))
    }

    pub(super) fn forwarded_uri(&self) -> HeaderValue {
        let text = format!("{}{}", self.prefix, self.path);
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("/"))
    }

    /// A redirect to the backend itself leads through here again; others are the client's to follow.
    pub(super) fn lead_back(&self, backend: &str, host: Option<&HeaderValue>, headers: &mut HeaderMap) {
        let place = headers
            .get(header::LOCATION)
            .and_then(|place| place.to_str().ok());
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        let changed = place.and_then(|place| self.led_back(place, backend, host));
        if let Some(Ok(changed)) = changed.map(HeaderValue::try_from) {
            headers.insert(header::LOCATION, changed);
        }
    }

    pub(super) fn led_back(&self, place: &str, backend: &str, host: &str) -> Option<String> {
        let (authority, path) = match place.split_once("://") {
            Some((_, rest)) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
            None => ("", place),
        };
        let same = authority.is_empty() || authority == backend || authority == host;
        if !same || !path.starts_with('/') || path.starts_with("//") {
            return None;
        }
        match path.starts_with(&self.prefix) {
            true => Some(path.to_owned()),
            false => Some(format!("{}{path}", self.prefix)),
        }
    }
}

/// The path without `.`, `..` and doubled slashes, with its last slash, encoded anew.
fn clean(rest: &str) -> String {
    let decoded = decode(rest);
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in decoded.split(|b| *b == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let mut out = String::new();
    for segment in &kept {
        out.push('/');
        segment.iter().for_each(|byte| encode(*byte, &mut out));
    }
    if decoded.ends_with(b"/") {
        out.push('/');
    }
    out
}

fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = (bytes[at] == b'%')
            .then(|| digit(at + 1).zip(digit(at + 2)))
            .flatten();
        match pair.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

fn encode(byte: u8, out: &mut String) {
    match byte {
        b if b.is_ascii_alphanumeric() || PATH_BYTES.contains(&b) => out.push(char::from(b)),
        b => out.push_str(&format!("%{b:02X}")),
    }
}

/// Whether the client wants another protocol.
pub(in crate::api) fn is_upgrade(headers: &HeaderMap) -> bool {
    let said = headers.get_all(header::CONNECTION).iter();
    let mut words = said
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    words.any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
}

/// The client's headers without what concerns its connection and its rights.
pub(in crate::api) fn headers(from: &HeaderMap) -> HeaderMap {
    let mut headers = upgrade_headers(from);
    answer(&mut headers);
    headers
}

/// As above for an upgrade, whose headers of the connection go on as they are.
pub(super) fn upgrade_headers(from: &HeaderMap) -> HeaderMap {
    let mut headers = from.clone();
    headers.remove(header::AUTHORIZATION);
    let acting: Vec<HeaderName> = headers
        .keys()
        .filter(|k| k.as_str().starts_with(IMPERSONATE))
        .cloned()
        .collect();
    for name in acting {
        headers.remove(name);
    }
    headers
}

/// Takes away what belongs to the connection that a message came by.
pub(in crate::api) fn answer(headers: &mut HeaderMap) {
    let said = headers.get_all(header::CONNECTION).iter();
    let words = said
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let listed: Vec<HeaderName> = words
        .filter_map(|word| HeaderName::try_from(word.trim()).ok())
        .collect();
    for name in listed.into_iter().chain(HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Adds the client to those that the request has passed.
pub(in crate::api) fn forwarded_for(headers: &mut HeaderMap, client: IpAddr) {
    let before = headers.get_all(&FORWARDED_FOR).iter();
    let mut all: Vec<String> = before
        .filter_map(|value| value.to_str().ok().map(str::to_owned))
        .collect();
    all.push(client.to_string());
    if let Ok(value) = HeaderValue::try_from(all.join(", ")) {
        headers.insert(FORWARDED_FOR, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use proptest::prelude::*;

    const PREFIX: &str = "/api/v1/namespaces/a/pods/p:80/proxy";

    fn through(path: &str) -> Through {
        let target = Target {
            kind: Registry::builtin().resource("", "v1", "pods").unwrap().clone(),
            namespace: Some("a".into()),
            name: Some("p:80".into()),
            subresource: Some("proxy".into()),
        };
        Through::read(&target, path).unwrap()
    }

    #[test]
    fn what_is_behind_proxy_is_the_backends_path() {
        for (rest, uri, root) in [
            ("", "/", true),
            ("/", "/", false),
            ("/a/b", "/a/b", false),
            ("/a/b/", "/a/b/", false),
            ("/a//b/../c", "/a/c", false),
            ("/../../secret", "/secret", false),
            ("/a%20b%2Fc%3Fd", "/a%20b/c%3Fd", false),
            ("/%zz", "/%25zz", false),
        ] {
            let found = through(&format!("{PREFIX}{rest}"));
            assert_eq!(found.uri(None).to_string(), uri, "{rest}");
            assert_eq!(found.is_root(), root, "{rest}");
        }
        assert_eq!(
            through(&format!("{PREFIX}/x")).uri(Some("a=b%20c")).to_string(),
            "/x?a=b%20c"
        );
    }

    #[test]
    fn redirects_to_the_backend_lead_back() {
        let way = through(&format!("{PREFIX}/x"));
        for (place, want) in [
            ("/login?a=b", Some(format!("{PREFIX}/login?a=b"))),
            ("http://10.0.0.1:80/y/", Some(format!("{PREFIX}/y/"))),
            ("http://me:8001/y", Some(format!("{PREFIX}/y"))),
            (&format!("{PREFIX}/z"), Some(format!("{PREFIX}/z"))),
            ("next", None),
            ("https://example.com/y", None),
            ("//example.com/y", None),
        ] {
            assert_eq!(way.led_back(place, "10.0.0.1:80", "me:8001"), want, "{place}");
        }
    }

    #[test]
    fn rights_and_connections_stay_here() {
        let mut from = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("impersonate-user", "me"),
            ("connection", "keep-alive, x-mine"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("x-yours", "2"),
        ] {
            from.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let kept = headers(&from);
        assert_eq!(
            kept.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-yours"]
        );
        assert!(!is_upgrade(&from));
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_backends_root(rest in "(/[a-z%./0-9\\PC]{0,10}){0,6}") {
            let cleaned = clean(&rest);
            prop_assert!(cleaned.is_empty() || cleaned.starts_with('/'));
            prop_assert!(!cleaned.split('/').any(|segment| segment == ".."));
        }
    }
}
