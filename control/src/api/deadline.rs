//! How long a request may take (upstream's `WithRequestDeadline`, and the bound that its handlers of writes have). Pure.
use super::asked::Asked;
use super::query::Query;
use super::status::Result;
use http::request::Parts;
use std::time::Duration;

/// Upstream's `--request-timeout`: nobody is given longer.
const LONGEST: Duration = Duration::from_secs(60);
/// Upstream's `requestTimeoutUpperBound`: what an object's writing may take once the request is read.
const WRITING: Duration = Duration::from_secs(34);
/// Parts of objects that are streams.
const STREAMS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

/// As long as the client says that he waits, and no longer than anybody may; none for what has no end. Looked at before who
/// he is.
pub(super) fn of_request(parts: &Parts) -> Result<Option<Duration>> {
    let asked = Asked::of(parts);
    if asked.is_some_and(|asked| is_long_running(asked.verb, asked.subresource.as_deref())) {
        return Ok(None);
    }
    // A query that cannot be read is refused by whoever reads it.
    let said = Query::of(&parts.uri).unwrap_or_default().deadline()?;
    Ok(Some(said.map_or(LONGEST, |said| said.min(LONGEST))))
}

/// Of doing what was asked for, where it has a bound of its own.
pub(super) fn of_writing(verb: &str, subresource: Option<&str>) -> Option<Duration> {
    let writes = matches!(verb, "create" | "update" | "patch" | "delete");
    (writes && !is_long_running(verb, subresource)).then_some(WRITING)
}

/// Whether it may take as long as it will (upstream's `BasicLongRunningRequestCheck`).
fn is_long_running(verb: &str, subresource: Option<&str>) -> bool {
    verb == "watch" || subresource.is_some_and(|sub| STREAMS.contains(&sub))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn every_request_has_an_end_but_what_streams() {
        let maps = "/api/v1/namespaces/n/configmaps";
        let pod = "/api/v1/namespaces/n/pods/p";
        for (method, path, whole, writing) in [
            ("GET", maps.to_owned(), Some(60), None),
            ("GET", format!("{maps}?timeout=5s"), Some(5), None),
            ("GET", format!("{maps}?timeout=2h"), Some(60), None),
            ("GET", format!("{maps}?timeout=0"), Some(60), None),
            ("GET", format!("{maps}?watch=true"), None, None),
            ("GET", format!("{maps}?watch=true&timeout=5s"), None, None),
            ("POST", maps.to_owned(), Some(60), Some(34)),
            ("POST", format!("{maps}?timeout=50s"), Some(50), Some(34)),
            ("PUT", format!("{maps}/a"), Some(60), Some(34)),
            ("PATCH", format!("{maps}/a?timeout=1s"), Some(1), Some(34)),
            ("DELETE", format!("{maps}/a"), Some(60), Some(34)),
            ("DELETE", maps.to_owned(), Some(60), None),
            ("GET", format!("{pod}/log"), None, None),
            ("POST", format!("{pod}/exec"), None, None),
            ("POST", format!("{pod}/eviction"), Some(60), Some(34)),
            ("GET", "/version".to_owned(), Some(60), None),
        ] {
            let request = Request::builder().method(method).uri(&path).body(()).unwrap();
            let (parts, ()) = request.into_parts();
            let asked = Asked::of(&parts).unwrap_or_default();
            let found = (
                of_request(&parts).unwrap(),
                of_writing(asked.verb, asked.subresource.as_deref()),
            );
            let wanted = (whole.map(Duration::from_secs), writing.map(Duration::from_secs));
            assert_eq!(found, wanted, "{method} {path}");
        }
    }
}
