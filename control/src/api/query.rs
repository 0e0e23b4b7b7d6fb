//! The options in a request's query string, read once, with upstream's meaning of each.
use super::status::{ApiError, Result};
use crate::kinds::{FieldError, FieldErrors};
use crate::store::Revision;
use axum::extract::Query as Pairs;
use http::Uri;
use std::num::{IntErrorKind, ParseIntError};
use std::time::Duration;

/// How unknown and duplicate fields are taken (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// What `resourceVersion` means to a list (`resourceVersionMatch`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    Exact,
    NotOlderThan,
}

/// Key-value pairs of the query, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(uri: &Uri) -> Result<Self> {
        let Pairs(pairs) = Pairs::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|e| ApiError::bad_request(format!("the query cannot be read: {e}")))?;
        Ok(Query(pairs))
    }

    /// The first value of this name that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// Every value of this name, in order.
    pub fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether the name is given, with any value.
    pub fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// Present and not `false` or `0`, as Kubernetes converts query values.
    pub fn flag(&self, name: &str) -> bool {
        self.all(name)
            .next()
            .is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    pub fn tristate(&self, name: &str) -> Option<bool> {
        self.all(name).next().map(|_| self.flag(name))
    }

    pub fn number(&self, name: &str) -> Result<Option<i64>> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|why: ParseIntError| {
            let why = match why.kind() {
                IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
        })
    }

    /// `dryRun=All`; anything else is invalid. `options` names the options object in the error.
    pub fn dry_run(&self, options: &str) -> Result<bool> {
        let values: Vec<&str> = self.all("dryRun").collect();
        if values.iter().any(|v| *v != "All") {
            let error = FieldError::not_supported("dryRun", values, &["All"]);
            return Err(ApiError::invalid_options(options, &vec![error]));
        }
        Ok(!values.is_empty())
    }

    pub fn field_validation(&self, options: &str) -> Result<FieldValidation> {
        match self.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => {
                let error =
                    FieldError::not_supported("fieldValidation", other, &["", "Ignore", "Strict", "Warn"]);
                Err(ApiError::invalid_options(options, &vec![error]))
            }
        }
    }

    /// `timeout`, which must be a duration as Go reads it; none when absent, and when it is no time at all.
    pub fn deadline(&self) -> Result<Option<Duration>> {
        let Some(text) = self.all("timeout").next().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let timeout = go_values::duration::parse(text).map_err(|why| {
            ApiError::bad_request(format!(
                "invalid timeout specified in the request URL - time: {why}"
            ))
        })?;
        Ok(Duration::try_from(timeout)
            .ok()
            .filter(|timeout| !timeout.is_zero()))
    }

    /// `timeoutSeconds` of a watch.
    pub fn timeout(&self) -> Result<Option<Duration>> {
        let seconds = self.number("timeoutSeconds")?.filter(|s| *s != 0);
        // Less than no time is over at once.
        Ok(seconds.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0))))
    }

    /// `resourceVersion`: none when absent.
    pub fn revision(&self) -> Result<Option<Revision>> {
        self.get("resourceVersion").map(parse_revision).transpose()
    }

    /// `resourceVersionMatch`, with what upstream refuses about it for a list, or for a watch.
    pub fn version_match(&self, watches: bool) -> Result<Option<VersionMatch>> {
        let said = self.get(MATCH);
        let errors = match watches {
            true => self.watch_errors(said),
            false => self.list_errors(said),
        };
        if !errors.is_empty() {
            return Err(ApiError::invalid_options("ListOptions", &errors));
        }
        Ok(match said {
            Some("Exact") => Some(VersionMatch::Exact),
            Some(_) => Some(VersionMatch::NotOlderThan),
            None => None,
        })
    }

    fn list_errors(&self, said: Option<&str>) -> FieldErrors {
        let mut errors = Vec::new();
        let mut refuse = |field: &str, why: &str| errors.push(FieldError::forbidden(field, why));
        if said.is_some() && self.get("resourceVersion").is_none() {
            refuse(
                MATCH,
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            );
        }
        if said.is_some() && self.get("continue").is_some() {
            refuse(
                MATCH,
                "resourceVersionMatch is forbidden when continue is provided",
            );
        }
        if said == Some("Exact") && self.get("resourceVersion") == Some("0") {
            refuse(
                MATCH,
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            );
        }
        if self.tristate(INITIAL).is_some() {
            refuse(INITIAL, "sendInitialEvents is forbidden for list");
        }
        if let Some(other) = said.filter(|said| !["Exact", "NotOlderThan"].contains(said)) {
            errors.push(FieldError::not_supported(
                MATCH,
                other,
                &["Exact", "NotOlderThan", ""],
            ));
        }
        errors
    }

    fn watch_errors(&self, said: Option<&str>) -> FieldErrors {
        let mut errors = Vec::new();
        let initial = self.tristate(INITIAL).is_some();
        let mut refuse = |why: &str| errors.push(FieldError::forbidden(MATCH, why));
        if initial && said != Some("NotOlderThan") {
            refuse("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if said.is_some() && !initial {
            refuse("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if self.get("continue").is_some() {
            refuse("resourceVersionMatch is forbidden when continue is provided");
        }
        if let Some(other) = said.filter(|said| *said != "NotOlderThan") {
            errors.push(FieldError::not_supported(MATCH, other, &["NotOlderThan"]));
        }
        errors
    }
}

const MATCH: &str = "resourceVersionMatch";
const INITIAL: &str = "sendInitialEvents";

/// A resource version as clients send it.
pub fn parse_revision(text: &str) -> Result<Revision> {
    text.parse().map_err(|_| {
        let why = match text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
            true => "value out of range",
            false => "invalid syntax",
        };
        let why = format!("strconv.ParseUint: parsing {text:?}: {why}");
        ApiError::bad_request(format!("resourceVersion: Invalid value: {text:?}: {why}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&format!("/api/v1/pods?{text}").parse().unwrap()).unwrap()
    }

    #[test]
    fn flags_read_as_upstreams() {
        for (text, want) in [
            ("watch=1", true),
            ("watch=true", true),
            ("watch", true),
            ("watch=0", false),
            ("", false),
        ] {
            assert_eq!(query(text).flag("watch"), want, "{text}");
        }
    }

    #[test]
    fn unknown_dry_run_is_invalid() {
        assert!(query("dryRun=All").dry_run("CreateOptions").unwrap());
        assert!(query("dryRun=").dry_run("CreateOptions").is_err());
        let error = query("dryRun=Some").dry_run("CreateOptions").unwrap_err();
        assert_eq!(
            error.message(),
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\""
        );
    }

    #[test]
    fn times_are_to_be_numbers_of_something() {
        for (text, want) in [
            (
                "timeout=abc",
                "invalid timeout specified in the request URL - time: invalid duration \"abc\"",
            ),
            (
                "timeout=1",
                "invalid timeout specified in the request URL - time: missing unit in duration \"1\"",
            ),
            (
                "timeout=1x",
                "invalid timeout specified in the request URL - time: unknown unit \"x\" in duration \"1x\"",
            ),
            (
                "timeoutSeconds=1.5",
                "strconv.ParseInt: parsing \"1.5\": invalid syntax",
            ),
            (
                "timeoutSeconds=99999999999999999999",
                "strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
            ),
        ] {
            let query = query(text);
            let error = query.deadline().and_then(|_| query.timeout()).expect_err(text);
            assert_eq!(error.message(), want);
        }
        for text in [
            "timeout=1m30s",
            "timeout=-1s",
            "timeout=0",
            "timeout=",
            "timeoutSeconds=5",
        ] {
            let query = query(text);
            assert!(query.deadline().is_ok() && query.timeout().is_ok(), "{text}");
        }
    }

    #[test]
    fn a_match_needs_a_version() {
        for (text, watches, fine) in [
            ("resourceVersionMatch=Exact", false, false),
            ("resourceVersionMatch=Exact&resourceVersion=0", false, false),
            ("resourceVersionMatch=Exact&resourceVersion=5", false, true),
            (
                "resourceVersionMatch=Exact&resourceVersion=5&continue=x",
                false,
                false,
            ),
            ("resourceVersionMatch=Newest&resourceVersion=5", false, false),
            ("sendInitialEvents=true", false, false),
            ("sendInitialEvents=true", true, false),
            (
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
                true,
                true,
            ),
            ("sendInitialEvents=true&resourceVersionMatch=Exact", true, false),
            ("resourceVersionMatch=NotOlderThan", true, false),
            ("continue=abc", true, false),
            ("continue=abc", false, true),
        ] {
            assert_eq!(query(text).version_match(watches).is_ok(), fine, "{text}");
        }
        assert!(query("resourceVersion=abc").revision().is_err());
    }
}
