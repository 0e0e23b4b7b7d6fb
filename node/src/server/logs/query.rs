//! The options of a log request (API reference, PodLogOptions), from its query string.

use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};

/// Which of a container's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// What to show of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub since: Option<Timestamp>,
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    /// Both where None.
    pub stream: Option<Stream>,
}

/// An option that is not what it should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("{name}: {value:?} is not {expected}")]
    Syntax {
        name: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error("{0}")]
    Invalid(String),
}

impl QueryError {
    /// As HTTP: what cannot be read is 400, what is read and forbidden 422.
    pub fn into_refusal(self) -> (StatusCode, String) {
        let status = match &self {
            Self::Syntax { .. } => StatusCode::BAD_REQUEST,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        (status, self.to_string())
    }
}

impl LogQuery {
    pub fn parse(pairs: &[(String, String)], now: Timestamp) -> Result<Self, QueryError> {
        let get = |name| {
            pairs
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str())
        };
        let flag = |name| get(name).is_some_and(is_true);
        let stream = stream(get("stream"))?;
        let tail_lines = whole("tailLines", get("tailLines"), 0)?;
        if tail_lines.is_some() && stream.is_some() {
            let text = "`tailLines` and specific `stream` are mutually exclusive for now";
            return Err(QueryError::Invalid(text.to_owned()));
        }
        Ok(Self {
            follow: flag("follow"),
            previous: flag("previous"),
            timestamps: flag("timestamps"),
            since: since(get("sinceSeconds"), get("sinceTime"), now)?,
            tail_lines,
            limit_bytes: whole("limitBytes", get("limitBytes"), 1)?,
            stream,
        })
    }
}

/// As Kubernetes reads a boolean in a query: what is there is true unless it says otherwise.
fn is_true(value: &str) -> bool {
    !matches!(value.to_ascii_lowercase().as_str(), "false" | "0")
}

fn whole(name: &'static str, value: Option<&str>, least: i64) -> Result<Option<u64>, QueryError> {
    let Some(value) = value.filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    let number: i64 = value.parse().map_err(|_| syntax(name, value, "a whole number"))?;
    if number < least {
        let text = format!("{name}: Invalid value: {number}: must be greater than or equal to {least}");
        return Err(QueryError::Invalid(text));
    }
    Ok(Some(number.unsigned_abs()))
}

fn since(seconds: Option<&str>, time: Option<&str>, now: Timestamp) -> Result<Option<Timestamp>, QueryError> {
    let ago = whole("sinceSeconds", seconds, 1)?;
    let time = match time.filter(|t| !t.is_empty()) {
        Some(text) => Some(
            text.parse()
                .map_err(|_| syntax("sinceTime", text, "a time as in RFC 3339"))?,
        ),
        None => None,
    };
    match (ago, time) {
        (Some(_), Some(_)) => Err(QueryError::Invalid(
            "at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned(),
        )),
        // Longer ago than there are times is since ever.
        (Some(ago), None) => {
            let ago = SignedDuration::from_secs(i64::try_from(ago).unwrap_or(i64::MAX));
            Ok(now.checked_sub(ago).ok())
        }
        (None, time) => Ok(time),
    }
}

fn stream(name: Option<&str>) -> Result<Option<Stream>, QueryError> {
    match name {
        None | Some("" | "All") => Ok(None),
        Some("Stdout") => Ok(Some(Stream::Stdout)),
        Some("Stderr") => Ok(Some(Stream::Stderr)),
        Some(other) => {
            let text = format!(
                "stream: Unsupported value: {other:?}: supported values: \"All\", \"Stderr\", \"Stdout\""
            );
            Err(QueryError::Invalid(text))
        }
    }
}

fn syntax(name: &'static str, value: &str, expected: &'static str) -> QueryError {
    QueryError::Syntax {
        name,
        value: value.to_owned(),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<LogQuery, QueryError> {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        LogQuery::parse(&pairs, "2026-01-01T00:01:00Z".parse().unwrap())
    }

    #[test]
    fn options_are_read() {
        assert_eq!(parse(&[]).unwrap(), LogQuery::default());
        let query = parse(&[
            ("follow", "true"),
            ("tailLines", "10"),
            ("sinceSeconds", "60"),
            ("timestamps", "false"),
        ]);
        let expected = LogQuery {
            follow: true,
            tail_lines: Some(10),
            since: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            ..LogQuery::default()
        };
        assert_eq!(query.unwrap(), expected);
        let query = parse(&[
            ("sinceTime", "2025-12-31T23:00:00+01:00"),
            ("limitBytes", "5"),
            ("stream", "Stderr"),
        ])
        .unwrap();
        assert_eq!(query.since, Some("2025-12-31T22:00:00Z".parse().unwrap()));
        assert_eq!((query.limit_bytes, query.stream), (Some(5), Some(Stream::Stderr)));
        assert_eq!(
            parse(&[("sinceSeconds", "9223372036854775807")]).unwrap().since,
            None
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (pairs, status) in [
            (&[("tailLines", "x")][..], 400),
            (&[("sinceTime", "yesterday")], 400),
            (&[("tailLines", "-1")], 422),
            (&[("limitBytes", "0")], 422),
            (&[("sinceSeconds", "0")], 422),
            (
                &[("sinceSeconds", "1"), ("sinceTime", "2025-12-31T23:00:00Z")],
                422,
            ),
            (&[("stream", "stdin")], 422),
            (&[("stream", "Stdout"), ("tailLines", "1")], 422),
        ] {
            assert_eq!(
                parse(pairs).unwrap_err().into_refusal().0.as_u16(),
                status,
                "{pairs:?}"
            );
        }
    }
}
