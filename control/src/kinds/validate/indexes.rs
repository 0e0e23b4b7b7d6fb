//! Lists of a Job's indices as text: `0,3-5,7`.

/// How many indices below `limit` the text names, or what is wrong with it.
pub(super) fn count(text: &str, limit: i64) -> Result<i64, String> {
    let spans = spans(text, limit)?;
    Ok(spans.iter().map(|(from, to)| to - from + 1).sum())
}

/// The first index that both texts name; none when one of them cannot be read.
pub(super) fn overlap(one: &str, other: &str, limit: i64) -> Option<i64> {
    let (one, other) = (spans(one, limit).ok()?, spans(other, limit).ok()?);
    let shared = |(a, b): &(i64, i64)| {
        let met = other.iter().filter(|(c, d)| c <= b && a <= d);
        met.map(|(c, _)| *c.max(a)).min()
    };
    one.iter().filter_map(shared).min()
}

/// The first and last index of each part.
fn spans(text: &str, limit: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut spans: Vec<(i64, i64)> = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (from, to) = interval(part, limit)?;
        if let Some((_, last)) = spans.last().filter(|(_, last)| *last >= from) {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        spans.push((from, to));
    }
    Ok(spans)
}

/// The first and last index of one part.
fn interval(part: &str, limit: i64) -> Result<(i64, i64), String> {
    let ends: Vec<&str> = part.split('-').collect();
    match ends.as_slice() {
        [only] => index(only, limit).map(|i| (i, i)),
        [from, to] => {
            let (from, to) = (index(from, limit)?, index(to, limit)?);
            match from < to {
                true => Ok((from, to)),
                false => Err(format!("non-increasing order, previous: {from}, current: {to}")),
            }
        }
        _ => Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts \
             separated by '-'"
        )),
    }
}

fn index(text: &str, limit: i64) -> Result<i64, String> {
    let index: i64 = text
        .parse()
        .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
    match index < limit {
        true => Ok(index),
        false => Err(format!("too large index: {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(count("", 5), Ok(0));
        assert_eq!(count("0,2-4", 5), Ok(4));
        assert_eq!(overlap("0,2-4", "1,3", 5), Some(3));
        assert_eq!(overlap("0,2-4", "1", 5), None);
        for bad in ["5", "x", "3,1", "4-2", "1-2-3", "1,,2"] {
            assert!(count(bad, 5).is_err(), "{bad}");
        }
    }
}
