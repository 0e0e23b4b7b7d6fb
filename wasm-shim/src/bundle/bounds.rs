//! What a Pod may use as a whole, from the annotations of a bundle or of an Update.
//!
//! Owns their reading. Refuses to know who shares. Of each amount zero or less is no limit, as in `resources` of a container.

use super::quota;
use crate::engine::commons::Bounds;
use amphipod_shim_api::annotations::{SANDBOX_CPU_PERIOD, SANDBOX_CPU_QUOTA, SANDBOX_MEMORY};
use std::collections::HashMap;

/// An amount that cannot be read: nobody may guess what a Pod may use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {name}: {value:?} is not a number")]
pub struct BadBound {
    name: &'static str,
    value: String,
}

/// What annotations say of the Pod; `None` when they say nothing.
///
/// # Errors
/// When one of them is not a number.
pub fn bounds(notes: &HashMap<String, String>) -> Result<Option<Bounds>, BadBound> {
    let memory = amount(notes, SANDBOX_MEMORY)?;
    let (time, period) = (
        amount(notes, SANDBOX_CPU_QUOTA)?,
        amount(notes, SANDBOX_CPU_PERIOD)?,
    );
    if memory.is_none() && time.is_none() {
        return Ok(None);
    }
    let positive = |amount: i64| u64::try_from(amount).ok().filter(|amount| *amount > 0);
    Ok(Some(Bounds {
        memory: memory.and_then(positive),
        quota: quota(time, period.and_then(positive)),
    }))
}

fn amount(notes: &HashMap<String, String>, name: &'static str) -> Result<Option<i64>, BadBound> {
    let read = |value: &String| {
        value.parse().map_err(|_| BadBound {
            name,
            value: value.clone(),
        })
    };
    notes.get(name).map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::meter::Quota;
    use std::time::Duration;

    #[test]
    fn amounts_are_limits_when_they_are_any() {
        let quota = |millis, period| Quota {
            time: Duration::from_millis(millis),
            period: Duration::from_millis(period),
        };
        for (given, expected) in [
            (&[][..], Ok(None)),
            (&[(SANDBOX_CPU_PERIOD, "100000")], Ok(None)),
            (&[(SANDBOX_MEMORY, "0")], Ok(Some((None, None)))),
            (
                &[(SANDBOX_MEMORY, "7"), (SANDBOX_CPU_QUOTA, "-1")],
                Ok(Some((Some(7), None))),
            ),
            (
                &[(SANDBOX_CPU_QUOTA, "5000"), (SANDBOX_CPU_PERIOD, "50000")],
                Ok(Some((None, Some(quota(5, 50))))),
            ),
            (
                &[(SANDBOX_CPU_QUOTA, "5000")],
                Ok(Some((None, Some(quota(5, 100))))),
            ),
            (&[(SANDBOX_MEMORY, "48Mi")], Err(SANDBOX_MEMORY)),
            (
                &[(SANDBOX_CPU_QUOTA, "1"), (SANDBOX_CPU_PERIOD, "")],
                Err(SANDBOX_CPU_PERIOD),
            ),
        ] {
            let notes = given
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let read = bounds(&notes.collect());
            let read = read.map(|read| read.map(|bounds| (bounds.memory, bounds.quota)));
            assert_eq!(read.map_err(|error| error.name), expected, "{given:?}");
        }
    }
}
