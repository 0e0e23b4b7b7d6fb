//! Kubernetes quantities as numbers ("500m", "1Gi", "2e3"), for arithmetic only: what is stored keeps its spelling.
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Scale of the internal number: nano, the smallest suffix.
const NANO: i128 = 1_000_000_000;
/// Digits beyond this cannot be told from overflow and are read as "more than anyone has".
const MANTISSA_DIGITS: usize = 20;

/// The quantity in thousandths, rounded up (a CPU's `m`); 0 for what is not a quantity, which the API refuses anyway.
pub fn milli(quantity: &Quantity) -> i64 {
    saturate(div_ceil(nano(&quantity.0).unwrap_or(0), NANO / 1000))
}

/// The quantity in whole units, rounded up.
pub fn units(quantity: &Quantity) -> i64 {
    saturate(div_ceil(nano(&quantity.0).unwrap_or(0), NANO))
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn div_ceil(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

fn nano(text: &str) -> Option<i128> {
    let split = text
        .find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || whole.len() > MANTISSA_DIGITS {
        return None;
    }
    let fraction = fraction.get(..fraction.len().min(18))?;
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = scale(mantissa, suffix, u32::try_from(fraction.len()).ok()?)?;
    Some(if negative { -scaled } else { scaled })
}

fn scale(mantissa: i128, suffix: &str, fraction_digits: u32) -> Option<i128> {
    let numerator = match binary(suffix) {
        Some(power) => mantissa.saturating_mul(1 << power).saturating_mul(NANO),
        None => {
            let exponent = decimal(suffix)? + 9;
            match u32::try_from(exponent) {
                Ok(exponent) => mantissa.saturating_mul(10_i128.saturating_pow(exponent)),
                Err(_) => div_ceil(mantissa, 10_i128.saturating_pow(exponent.unsigned_abs())),
            }
        }
    };
    Some(div_ceil(numerator, 10_i128.pow(fraction_digits)))
}

fn binary(suffix: &str) -> Option<u32> {
    let names = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let position = names.iter().position(|name| *name == suffix)?;
    u32::try_from(position + 1).ok().map(|power| power * 10)
}

fn decimal(suffix: &str) -> Option<i32> {
    Some(match suffix {
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "" => 0,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        "T" => 12,
        "P" => 15,
        "E" => 18,
        exponent => exponent
            .strip_prefix(['e', 'E'])?
            .parse()
            .ok()
            .filter(|power| (-30..=30).contains(power))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn suffixes_scale_and_fractions_round_up() {
        let cases = [
            ("1", 1_000, 1),
            ("500m", 500, 1),
            ("0.5", 500, 1),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("1k", 1_000_000, 1_000),
            ("2e3", 2_000_000, 2_000),
            (
                "1E",
                1_000_000_000_000_000_000_i64.saturating_mul(1000),
                1_000_000_000_000_000_000,
            ),
            ("1n", 1, 1),
            ("-1", -1_000, -1),
            ("", 0, 0),
            ("nonsense", 0, 0),
            ("99999999999999999999E", i64::MAX, i64::MAX),
        ];
        for (text, millis, whole) in cases {
            let quantity = Quantity(text.into());
            assert_eq!((milli(&quantity), units(&quantity)), (millis, whole), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            milli(&Quantity(text.clone()));
            units(&Quantity(text));
        }

        #[test]
        fn whole_numbers_are_themselves(number in 0..1_000_000_000_i64) {
            prop_assert_eq!(units(&Quantity(number.to_string())), number);
        }
    }
}
