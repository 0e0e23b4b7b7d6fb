//! Who a request comes from: the connection's certificate, an in-process client, or a bearer token in the header or, of a
//! WebSocket, among the protocols (upstream's `bearertoken.go` and `websocket/protocol.go`).
use super::Api;
use super::status::{ApiError, Result};
use super::subresource::proxy::rewrite;
use crate::auth::{Identity, RefusedCertificate};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;

const SCHEME: &str = "bearer";
/// What a protocol begins with that is a token.
const PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
/// What somebody is told whose token would be the empty word.
const EXTRA_SPACE: &str =
    "the provided Authorization header contains extra space before the bearer token, and is ignored";

/// The user, or 401. The token is taken out of the request: no backend is to see it.
pub fn identify(api: &Api, parts: &mut Parts) -> Result<Identity> {
    let found = known(api, parts);
    api.metrics.access.came(found.as_ref().map(Option::as_ref));
    let who = found?.ok_or_else(ApiError::unauthorized);
    let who = who.map_err(|error| error.after(warnings(parts)))?;
    parts.headers.remove(AUTHORIZATION);
    forget_token(&mut parts.headers);
    Ok(who)
}

/// The user where nobody need be known, who is then [`Identity::anonymous`]. Credentials that are no good are 401 there
/// too, as upstream.
pub fn anybody(api: &Api, parts: &Parts) -> Result<Identity> {
    let found = known(api, parts).map(|found| found.unwrap_or_else(Identity::anonymous));
    api.metrics.access.came(found.as_ref().map(Some));
    found
}

/// What is to be said of credentials that nobody takes for any.
pub fn warnings(parts: &Parts) -> Vec<String> {
    match shown(&parts.headers) {
        Shown::Space => vec![EXTRA_SPACE.to_owned()],
        Shown::Nothing | Shown::Token(_) => Vec::new(),
    }
}

/// Nobody, where nothing is shown. One token that is good is enough.
fn known(api: &Api, parts: &Parts) -> Result<Option<Identity>> {
    if let Some(who) = parts.extensions.get::<Identity>() {
        return Ok(Some(who.clone()));
    }
    let by_header = match shown(&parts.headers) {
        Shown::Token(token) => by_token(api, token).map(Some),
        Shown::Nothing | Shown::Space => Ok(None),
    };
    if let Ok(Some(_)) = by_header {
        return by_header;
    }
    let by_protocol = match protocol(&parts.headers) {
        Ok(Some(token)) => by_token(api, token.as_bytes()).map(Some),
        Ok(None) => Ok(None),
        Err(why) => {
            tracing::debug!(why, "a token among protocols was refused");
            Err(ApiError::unauthorized())
        }
    };
    if let Ok(Some(_)) = by_protocol {
        return by_protocol;
    }
    if let Some(refused) = parts.extensions.get::<RefusedCertificate>() {
        tracing::debug!("{refused}");
        return Err(ApiError::unauthorized());
    }
    by_header.and(by_protocol)
}

fn by_token(api: &Api, token: &[u8]) -> Result<Identity> {
    // Whatever is no text is no token.
    let token = std::str::from_utf8(token).map_err(|_| ApiError::unauthorized())?;
    let judged = api.bearers.authenticate(token, &[], Timestamp::now());
    judged.map(|bearer| bearer.who).map_err(|why| {
        tracing::debug!(%why, "a bearer token was refused");
        ApiError::unauthorized()
    })
}

/// What the header shows.
#[derive(Debug, PartialEq, Eq)]
enum Shown<'h> {
    Nothing,
    /// Nothing either, for a space too many before the token.
    Space,
    Token(&'h [u8]),
}

/// One space stands between scheme and token; what follows behind another one counts for nothing.
fn shown(headers: &HeaderMap) -> Shown<'_> {
    let header = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let mut words = header
        .unwrap_or_default()
        .trim_ascii()
        .splitn(3, |byte| *byte == b' ');
    let is_bearer = words
        .next()
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME.as_bytes()));
    match words.next().filter(|_| is_bearer) {
        None => Shown::Nothing,
        Some(b"") => Shown::Space,
        Some(token) => Shown::Token(token),
    }
}

/// The token among the protocols of a WebSocket; the error says why it is none.
fn protocol(headers: &HeaderMap) -> std::result::Result<Option<String>, &'static str> {
    let wanted = headers.get(UPGRADE).map(HeaderValue::as_bytes);
    if !wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case(b"websocket"))
        || !rewrite::is_upgrade(headers)
    {
        return Ok(None);
    }
    let mut tokens = protocols(headers).filter_map(|protocol| protocol.strip_prefix(PROTOCOL));
    let (token, more) = (tokens.next(), tokens.next());
    if more.is_some() {
        return Err("multiple base64.bearer.authorization tokens specified");
    }
    let token = URL_SAFE_NO_PAD
        .decode(token.unwrap_or_default())
        .map_err(|_| "invalid base64.bearer.authorization token encoding")?;
    let token = String::from_utf8(token).map_err(|_| "invalid base64.bearer.authorization token")?;
    if token.is_empty() {
        return Ok(None);
    }
    match protocols(headers).any(|protocol| !protocol.starts_with(PROTOCOL)) {
        true => Ok(Some(token)),
        // There would be nothing to answer with.
        false => Err("missing additional subprotocol"),
    }
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(|value| value.split(',')).map(str::trim)
}

/// Leaves the other protocols.
fn forget_token(headers: &mut HeaderMap) {
    if !protocols(headers).any(|protocol| protocol.starts_with(PROTOCOL)) {
        return;
    }
    let others = protocols(headers).filter(|protocol| !protocol.starts_with(PROTOCOL));
    let others = others.collect::<Vec<_>>().join(",");
    // They came in a header.
    match HeaderValue::try_from(others) {
        Ok(others) if !others.is_empty() => drop(headers.insert(SEC_WEBSOCKET_PROTOCOL, others)),
        _ => drop(headers.remove(SEC_WEBSOCKET_PROTOCOL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_space_stands_before_a_token() {
        let token = Shown::Token(b"T");
        for (header, want) in [
            ("Bearer T", &token),
            ("bearer T", &token),
            ("BEARER T", &token),
            ("\tBearer T\t", &token),
            ("Bearer T and more", &token),
            ("Bearer T  ", &token),
            ("Bearer  T", &Shown::Space),
            ("Bearer   T", &Shown::Space),
            ("Bearer \tT", &Shown::Token(b"\tT")),
            ("Bearer\tT", &Shown::Nothing),
            ("Bearer", &Shown::Nothing),
            ("Bearer ", &Shown::Nothing),
            ("BearerT", &Shown::Nothing),
            ("Basic T", &Shown::Nothing),
            ("", &Shown::Nothing),
        ] {
            let value = HeaderValue::from_str(header).expect("a header");
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
            assert_eq!(&shown(&headers), want, "{header:?}");
        }
        assert_eq!(shown(&HeaderMap::new()), Shown::Nothing);
    }

    #[test]
    fn a_websocket_may_carry_a_token_as_one_of_its_protocols() {
        let token = |text: &str| format!("{PROTOCOL}{}", URL_SAFE_NO_PAD.encode(text));
        let (t, u) = (token("T"), token("U"));
        for (protocols, want, left) in [
            (vec![format!("{t}, a")], Ok(Some("T")), "a"),
            (vec!["a".to_owned(), format!("b,{t}")], Ok(Some("T")), "a,b"),
            (vec!["a".to_owned()], Ok(None), "a"),
            (vec![], Ok(None), ""),
            (vec![t.clone()], Err("missing additional subprotocol"), ""),
            (
                vec![format!("{t},{u},a")],
                Err("multiple base64.bearer.authorization tokens specified"),
                "a",
            ),
            (
                vec![format!("{PROTOCOL}!,a")],
                Err("invalid base64.bearer.authorization token encoding"),
                "a",
            ),
            (
                vec![format!("{PROTOCOL}_w,a")],
                Err("invalid base64.bearer.authorization token"),
                "a",
            ),
            (vec![format!("{PROTOCOL},a")], Ok(None), "a"),
        ] {
            let mut headers = HeaderMap::new();
            for value in &protocols {
                headers.append(
                    SEC_WEBSOCKET_PROTOCOL,
                    HeaderValue::from_str(value).expect("a header"),
                );
            }
            assert_eq!(protocol(&headers), Ok(None), "no WebSocket");
            headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
            headers.insert("connection", HeaderValue::from_static("keep-alive, Upgrade"));
            let want = want.map(|token| token.map(str::to_owned));
            assert_eq!(protocol(&headers), want, "{protocols:?}");
            forget_token(&mut headers);
            let kept = headers.get(SEC_WEBSOCKET_PROTOCOL).map(HeaderValue::as_bytes);
            let kept = kept.unwrap_or_default();
            assert_eq!(kept, left.as_bytes(), "{protocols:?}");
        }
    }
}
