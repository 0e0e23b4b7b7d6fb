//! Reads Kubernetes quantities (`100m`, `1Gi`, `12e6`) into integers, and adds them up as such. Owns the grammar of
//! `resource.Quantity`; refuses to know what is measured.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Parts of one unit that are kept; the API's smallest suffix is `n`.
const NANO: i128 = 1_000_000_000;

/// The value rounded up to whole units, as upstream's `Quantity.Value()`; `None` when it is no quantity.
pub fn value(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1)
}

/// The value in thousandths, rounded up, as upstream's `Quantity.MilliValue()`.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1000)
}

/// Nothing, or no quantity.
pub fn is_zero(quantity: &Quantity) -> bool {
    nanos(&quantity.0).is_none_or(|nanos| nanos == 0)
}

/// Both together, written as the first is (as the other, where the first is nothing).
pub fn plus(one: &Quantity, other: &Quantity) -> Quantity {
    let sum = [one, other]
        .iter()
        .filter_map(|q| nanos(&q.0))
        .fold(0, i128::saturating_add);
    let style = if is_zero(one) { other } else { one };
    Quantity(written(sum, style.0.ends_with('i')))
}

/// A number of bytes with the largest binary unit of which it is a whole number.
pub fn of_bytes(bytes: u64) -> Quantity {
    Quantity(written(i128::from(bytes) * NANO, true))
}

/// A number of things with the largest unit of 1000 each of which it is a whole number.
pub fn of_count(count: u64) -> Quantity {
    Quantity(written(i128::from(count) * NANO, false))
}

/// With the largest unit of which it is a whole number: of 1024 each, if there is one and it is wanted, else of 1000.
fn written(nanos: i128, binary: bool) -> String {
    const BINARY: [&str; 6] = ["Ei", "Pi", "Ti", "Gi", "Mi", "Ki"];
    const DECIMAL: [&str; 10] = ["E", "P", "T", "G", "M", "k", "", "m", "u", "n"];
    let units: &[&str] = if binary { &BINARY } else { &[] };
    for unit in units.iter().chain(&DECIMAL) {
        let Some((multiplier, divisor)) = scale_of(unit) else {
            continue;
        };
        let size = NANO * multiplier / divisor;
        if nanos != 0 && nanos % size == 0 {
            return format!("{}{unit}", nanos / size);
        }
    }
    "0".into()
}

fn scaled(text: &str, parts: i128) -> Option<i64> {
    let nanos = nanos(text)?.checked_mul(parts)?;
    let up = nanos.div_euclid(NANO) + i128::from(nanos.rem_euclid(NANO) != 0);
    Some(i64::try_from(up).unwrap_or(if up < 0 { i64::MIN } else { i64::MAX }))
}

fn nanos(text: &str) -> Option<i128> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c)))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (multiplier, divisor) = scale_of(suffix)?;
    decimal(number)?.checked_mul(multiplier).map(|v| v / divisor)
}

/// `1.5` → 1,500,000,000 nanos.
fn decimal(number: &str) -> Option<i128> {
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let digits_only = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits_only(whole) || !digits_only(fraction) {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let padded: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos = whole.checked_mul(NANO)?.checked_add(padded.parse().ok()?)?;
    Some(if negative { -nanos } else { nanos })
}

/// Multiplier and divisor of a suffix.
fn scale_of(suffix: &str) -> Option<(i128, i128)> {
    let up = |n: i128| Some((n, 1));
    match suffix {
        "" => up(1),
        "n" => Some((1, NANO)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => up(1000),
        "M" => up(1_000_000),
        "G" => up(1_000_000_000),
        "T" => up(1_000_000_000_000),
        "P" => up(1_000_000_000_000_000),
        "E" => up(1_000_000_000_000_000_000),
        "Ki" => up(1 << 10),
        "Mi" => up(1 << 20),
        "Gi" => up(1 << 30),
        "Ti" => up(1 << 40),
        "Pi" => up(1 << 50),
        "Ei" => up(1 << 60),
        _ => exponent(suffix),
    }
}

fn exponent(suffix: &str) -> Option<(i128, i128)> {
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let factor = 10i128.checked_pow(power.unsigned_abs())?;
    Some(if power < 0 { (1, factor) } else { (factor, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_millis() {
        for (text, whole, thousandths) in [
            ("100m", 1, 100),
            ("1", 1, 1000),
            ("1.5", 2, 1500),
            ("64Mi", 64 << 20, (64 << 20) * 1000),
            ("1e3", 1000, 1_000_000),
            ("0", 0, 0),
            (".5Ki", 512, 512_000),
            ("1500u", 1, 2),
            ("-1", -1, -1000),
        ] {
            let q = Quantity(text.into());
            assert_eq!((value(&q), milli(&q)), (Some(whole), Some(thousandths)), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity() {
        for text in ["", "Mi", "1x", "e3", "1e", "--1", "1e99999"] {
            assert_eq!(value(&Quantity(text.into())), None, "{text}");
        }
    }

    #[test]
    fn sums_are_written_as_their_first_part() {
        for (one, other, sum) in [
            ("100m", "1", "1100m"),
            ("500m", "500m", "1"),
            ("64Mi", "1Gi", "1088Mi"),
            ("512Mi", "512Mi", "1Gi"),
            ("1Gi", "1", "1073741825"),
            ("0", "64Mi", "64Mi"),
            ("600", "400", "1k"),
            ("1n", "1u", "1001n"),
            ("0", "0", "0"),
        ] {
            let [one, other] = [one, other].map(|text| Quantity(text.into()));
            assert_eq!(plus(&one, &other).0, sum, "{one:?} {other:?}");
        }
    }
}
