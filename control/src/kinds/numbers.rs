//! Numbers of objects without types, as upstream's decoder has them (`UnmarshalCaseSensitivePreserveInts`): an int64 where
//! one is written, else a float64, of which the encoder writes whole ones like integers. Who reads them then finds integers.
use serde_json::{Number, Value};

/// From here on the encoder writes an exponent.
const EXPONENT: f64 = 1e21;
/// Up to here a whole float is the integer that was meant, as its neighbours are floats too: 2⁵³ - 1.
const EXACT: f64 = 9_007_199_254_740_991.0;

/// Whether there is nothing behind the point.
pub fn is_whole(n: f64) -> bool {
    n.fract() == 0.0
}

/// The integer that a float stands for beyond doubt, however it was written (upstream's `IsFloat64AJSONInteger`).
#[expect(clippy::cast_possible_truncation, reason = "a whole number below 2⁵³")]
pub fn exact(n: f64) -> Option<i64> {
    (is_whole(n) && n.abs() <= EXACT).then_some(n as i64)
}

/// A value as it comes from a body: what is beyond an int64 is a float, `-0` is zero.
pub fn read(value: &mut Value) {
    each(value, &|number| match number.as_f64() {
        Some(n) if number.is_u64() && !number.is_i64() => Number::from_f64(n),
        Some(0.0) => Some(0.into()),
        _ => None,
    });
}

/// A value as it is once it was written: whole floats are integers, where they fit.
pub fn settle(value: &mut Value) {
    each(value, &|number| {
        let n = number.as_f64().filter(|_| !number.is_i64())?;
        whole(n).map(Number::from).or_else(|| Number::from_f64(n))
    });
}

/// The integer that upstream's encoder writes for a float.
pub fn whole(n: f64) -> Option<i64> {
    // The digits are the fewest that tell it from its neighbours: those of the cast may be others.
    (is_whole(n) && n.abs() < EXPONENT).then(|| n.to_string().parse().ok())?
}

/// Whether two values are the same, or numbers that are equal.
pub fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b || a.is_number() && a.as_f64() == b.as_f64(),
    }
}

/// Replaces every number that there is another for.
fn each(value: &mut Value, other: &impl Fn(&Number) -> Option<Number>) {
    match value {
        Value::Number(number) => {
            if let Some(other) = other(number) {
                *number = other;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| each(item, other)),
        Value::Object(map) => map.values_mut().for_each(|member| each(member, other)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_integers_are_the_same() {
        for (a, b, want) in [
            ("1", "1.0", true),
            ("9007199254740993", "9007199254740992", false),
            ("\"1\"", "1", false),
        ] {
            let read = |text| serde_json::from_str::<Value>(text).unwrap();
            assert_eq!(equal(&read(a), &read(b)), want, "{a} {b}");
        }
    }

    #[test]
    fn numbers_are_those_of_gos_decoder_and_encoder() {
        for (text, read_as, served_as) in [
            ("1", "1", "1"),
            ("1.0", "1.0", "1"),
            ("1e3", "1000.0", "1000"),
            ("-0", "0", "0"),
            ("-0.0", "0", "0"),
            ("1.5", "1.5", "1.5"),
            (
                "9223372036854775807",
                "9223372036854775807",
                "9223372036854775807",
            ),
            (
                "9223372036854775808",
                "9223372036854775808.0",
                "9223372036854775808.0",
            ),
            (
                "1.2345678901234567e18",
                "1.2345678901234567e18",
                "1234567890123456800",
            ),
            ("1e20", "1e20", "1e20"),
            ("1e300", "1e300", "1e300"),
        ] {
            let value =
                |text: &str| serde_json::from_str::<Value>(&format!("{{\"a\":[{text}]}}")).expect("JSON");
            let mut found = value(text);
            read(&mut found);
            assert_eq!(found, value(read_as), "{text} read");
            settle(&mut found);
            assert_eq!(found, value(served_as), "{text} served");
        }
    }
}
