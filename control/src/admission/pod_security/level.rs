//! Levels, versions of levels, and the labels that name them.
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "pod-security.kubernetes.io/";
pub(super) const BAD_VERSION: &str = "must be \"latest\" or \"v1.x\"";
/// The minor version whose rules are the latest.
const LATEST: u32 = 36;

/// How much a Pod may do to its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// A text that names no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no Pod Security level; use privileged, baseline or restricted")]
pub struct UnknownLevel(String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        match text {
            "privileged" => Ok(Level::Privileged),
            "baseline" => Ok(Level::Baseline),
            "restricted" => Ok(Level::Restricted),
            other => Err(UnknownLevel(other.to_owned())),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })
    }
}

/// A level by the rules of one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LevelVersion {
    pub level: Level,
    /// The minor version; none is the latest.
    pub minor: Option<u32>,
}

impl LevelVersion {
    /// Whether the rules of this minor version apply.
    pub fn since(&self, minor: u32) -> bool {
        self.minor.unwrap_or(LATEST) >= minor
    }

    pub fn is_stricter_than(&self, old: &LevelVersion) -> bool {
        self != old
            && self.level != Level::Privileged
            && !(self.minor == old.minor && self.level <= old.level)
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            None => write!(f, "{}:latest", self.level),
            Some(minor) => write!(f, "{}:v1.{minor}", self.level),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

/// A label whose value says nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLabel {
    pub label: String,
    pub value: String,
    pub is_level: bool,
}

/// What a namespace's labels ask for. What cannot be read counts as the strictest, and is told.
pub(super) fn of(labels: &Value, default: Level) -> (Policy, Vec<BadLabel>) {
    let mut errors = Vec::new();
    let mut read = |mode: &str, default: Level| {
        let label = format!("{PREFIX}{mode}");
        let level = match labels.get(&label).and_then(Value::as_str) {
            None => default,
            Some(text) => text.parse().unwrap_or_else(|_| {
                errors.push(bad(&label, text, true));
                Level::Restricted
            }),
        };
        let label = format!("{PREFIX}{mode}-version");
        let minor = match labels.get(&label).and_then(Value::as_str) {
            None | Some("latest") => None,
            Some(text) => version(text).map_or_else(
                || {
                    errors.push(bad(&label, text, false));
                    None
                },
                Some,
            ),
        };
        LevelVersion { level, minor }
    };
    let policy = Policy {
        enforce: read("enforce", default),
        audit: read("audit", default),
        warn: read("warn", default),
    };
    (policy, errors)
}

fn bad(label: &str, value: &str, is_level: bool) -> BadLabel {
    BadLabel {
        label: label.to_owned(),
        value: value.to_owned(),
        is_level,
    }
}

/// The minor version in `v1.N`.
fn version(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("v1.")?;
    let plain = digits == "0" || !digits.starts_with('0');
    digits
        .parse()
        .ok()
        .filter(|_| plain && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels() {
        let (policy, errors) = of(
            &json!({"pod-security.kubernetes.io/enforce": "baseline",
                "pod-security.kubernetes.io/enforce-version": "v1.24",
                "pod-security.kubernetes.io/warn-version": "v2"}),
            Level::Privileged,
        );
        assert_eq!(policy.enforce.to_string(), "baseline:v1.24");
        assert_eq!(policy.warn.to_string(), "privileged:latest");
        assert_eq!(errors.len(), 1);
        assert!(policy.enforce.since(24) && !policy.enforce.since(25));
    }
}
