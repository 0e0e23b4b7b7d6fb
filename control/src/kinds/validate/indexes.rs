//! Lists of a Job's indices as text: `0,3-5,7`.

/// How many indices below `limit` the text names, or what is wrong with it.
pub(super) fn count(text: &str, limit: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let (mut total, mut last) = (0, None);
    for part in text.split(',') {
        let (from, to) = interval(part, limit)?;
        if let Some(last) = last.filter(|last| *last >= from) {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        total += to - from + 1;
        last = Some(to);
    }
    Ok(total)
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
        for bad in ["5", "x", "3,1", "4-2", "1-2-3", "1,,2"] {
            assert!(count(bad, 5).is_err(), "{bad}");
        }
    }
}
