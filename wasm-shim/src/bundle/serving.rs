//! How a container that answers HTTP is to serve, from its bundle's annotations.
//!
//! Owns the settings, their bounds and defaults. Refuses to know HTTP.

use amphipod_shim_api::annotations::{
    WASM_CONCURRENCY, WASM_HTTP_PORT, WASM_INSTANCE_REUSE, WASM_REQUEST_TIMEOUT,
};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Requests in the guests of one container at once; more wait. The pool of instances is shared by a whole namespace.
pub const MAX_CONCURRENCY: usize = 500;

/// Requests one instance may answer: what leaks in a guest must have an end.
const MAX_REUSE: u32 = 1_000_000;

/// Time for a guest to answer with a head, waiting for its turn included, when nothing was said.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);

/// The longest such time: an exchange as a whole is cut after an hour.
const MAX_DEADLINE_SECONDS: u64 = 3_600;

/// An annotation that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {name}: {value:?} is not a number between {least} and {most}")]
pub struct BadSetting {
    name: &'static str,
    value: String,
    least: u64,
    most: u64,
}

/// The settings of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// Where it listens, if that was said.
    pub port: Option<u16>,
    /// Requests one instance answers before it is thrown away.
    pub reuse: u32,
    /// Requests in guests at once.
    pub concurrency: usize,
    /// Time for a guest to answer with a head, waiting for its turn included.
    pub deadline: Duration,
}

impl Serving {
    /// Reads the settings.
    ///
    /// # Errors
    /// When one is not a number within its bounds.
    pub fn from_annotations(notes: &HashMap<String, String>) -> Result<Self, BadSetting> {
        let port = number(notes, WASM_HTTP_PORT, 1..=u64::from(u16::MAX))?;
        let reuse = number(notes, WASM_INSTANCE_REUSE, 1..=u64::from(MAX_REUSE))?;
        let concurrency = number(notes, WASM_CONCURRENCY, 1..=MAX_CONCURRENCY as u64)?;
        let seconds = number(notes, WASM_REQUEST_TIMEOUT, 1..=MAX_DEADLINE_SECONDS)?;
        Ok(Self {
            port: port.and_then(|port| u16::try_from(port).ok()),
            reuse: reuse.and_then(|reuse| u32::try_from(reuse).ok()).unwrap_or(1),
            concurrency: concurrency
                .and_then(|most| usize::try_from(most).ok())
                .unwrap_or(MAX_CONCURRENCY),
            deadline: seconds.map_or(DEFAULT_DEADLINE, Duration::from_secs),
        })
    }
}

fn number(
    notes: &HashMap<String, String>,
    name: &'static str,
    bounds: RangeInclusive<u64>,
) -> Result<Option<u64>, BadSetting> {
    let Some(value) = notes.get(name) else {
        return Ok(None);
    };
    let parsed = value.parse().ok().filter(|number| bounds.contains(number));
    parsed.map(Some).ok_or_else(|| BadSetting {
        name,
        value: value.clone(),
        least: *bounds.start(),
        most: *bounds.end(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Serving, String> {
        let notes = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Serving::from_annotations(&notes).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults() {
        let expected = Serving {
            port: None,
            reuse: 1,
            concurrency: MAX_CONCURRENCY,
            deadline: DEFAULT_DEADLINE,
        };
        assert_eq!(read(&[]), Ok(expected));
    }

    #[test]
    fn what_was_said() {
        let expected = Serving {
            port: Some(9000),
            reuse: 100,
            concurrency: 4,
            deadline: Duration::from_secs(2),
        };
        let given = [
            (WASM_HTTP_PORT, "9000"),
            (WASM_INSTANCE_REUSE, "100"),
            (WASM_CONCURRENCY, "4"),
            (WASM_REQUEST_TIMEOUT, "2"),
        ];
        assert_eq!(read(&given), Ok(expected));
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        for (name, value) in [
            (WASM_HTTP_PORT, "0"),
            (WASM_HTTP_PORT, "70000"),
            (WASM_INSTANCE_REUSE, "0"),
            (WASM_INSTANCE_REUSE, "many"),
            (WASM_CONCURRENCY, "501"),
            (WASM_REQUEST_TIMEOUT, "-1"),
        ] {
            let message = read(&[(name, value)]).unwrap_err();
            assert!(message.contains(name) && message.contains(value), "{message}");
        }
    }
}
