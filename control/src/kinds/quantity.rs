//! Resource quantities: parsing, canonical form and order, as `resource.Quantity` has them.
//!
//! Amounts are exact to 10⁻⁹ (finer ones round up, as upstream's do) and saturate far above anything real.
use std::cmp::Ordering;
use std::fmt;

/// Upstream's words for text that is not a quantity.
const MALFORMED: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const MALFORMED_SUFFIX: &str = "unable to parse quantity's suffix";
const NANOS: i128 = 1_000_000_000;
/// Larger amounts are cut to this: upstream caps at 2⁶³-1 units.
const CAP: i128 = (i64::MAX as i128) * NANOS;

/// Why a text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("{MALFORMED}")]
    Malformed,
    #[error("{MALFORMED_SUFFIX}")]
    Suffix,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Binary,
    Decimal,
    Exponent,
}

/// An amount of something, with the style it was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity {
    /// In billionths of the unit.
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// Parses `100m`, `1.5Gi`, `1e3`, `.5`.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        let (negative, unsigned) = sign(text);
        let digits = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(digits);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(QuantityError::Malformed);
        }
        let (scale, format) = scale(suffix)?;
        let nanos = scaled(whole, fraction, scale);
        Ok(Quantity {
            nanos: if negative { -nanos } else { nanos },
            format,
        })
    }

    /// The amount in billionths.
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    /// Thousandths, rounded up: what `100m` counts.
    pub fn milli_value(&self) -> i128 {
        ceil_div(self.nanos, 1_000_000)
    }

    /// Whole units, rounded up.
    pub fn value(&self) -> i128 {
        ceil_div(self.nanos, NANOS)
    }

    /// The sum, in the style of the first that is something.
    pub fn plus(self, other: Quantity) -> Quantity {
        Quantity {
            nanos: self.nanos.saturating_add(other.nanos).min(CAP),
            format: self.format_beside(other),
        }
    }

    /// The difference, in the style of the first that is something.
    pub fn minus(self, other: Quantity) -> Quantity {
        Quantity {
            nanos: self.nanos.saturating_sub(other.nanos),
            format: self.format_beside(other),
        }
    }

    /// Nothing has no style of its own (upstream's `Quantity.Add`).
    fn format_beside(self, other: Quantity) -> Format {
        match self.is_zero() {
            true => other.format,
            false => self.format,
        }
    }

    /// The same amount, written as another is.
    pub fn in_style_of(self, other: Quantity) -> Quantity {
        Quantity {
            format: other.format,
            ..self
        }
    }

    /// A number of things.
    pub fn whole(count: i64) -> Quantity {
        Quantity {
            nanos: i128::from(count) * NANOS,
            format: Format::Decimal,
        }
    }

    /// The next whole thousandth.
    pub fn round_up_to_milli(self) -> Quantity {
        Quantity {
            nanos: self.milli_value() * 1_000_000,
            ..self
        }
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn is_integer(&self) -> bool {
        self.nanos % NANOS == 0
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.nanos.cmp(&other.nanos))
    }
}

enum Scale {
    Two(u32),
    Ten(i32),
}

fn sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

fn scale(suffix: &str) -> Result<(Scale, Format), QuantityError> {
    let ten = |power| Ok((Scale::Ten(power), Format::Decimal));
    let two = |power| Ok((Scale::Two(power), Format::Binary));
    match suffix {
        "n" => ten(-9),
        "u" => ten(-6),
        "m" => ten(-3),
        "" => ten(0),
        "k" => ten(3),
        "M" => ten(6),
        "G" => ten(9),
        "T" => ten(12),
        "P" => ten(15),
        "E" => ten(18),
        "Ki" => two(10),
        "Mi" => two(20),
        "Gi" => two(30),
        "Ti" => two(40),
        "Pi" => two(50),
        "Ei" => two(60),
        other => exponent(other),
    }
}

fn exponent(suffix: &str) -> Result<(Scale, Format), QuantityError> {
    let digits = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Malformed)?;
    let power: i32 = digits.parse().map_err(|_| malformed_exponent(digits))?;
    Ok((Scale::Ten(power), Format::Exponent))
}

fn malformed_exponent(digits: &str) -> QuantityError {
    match digits.chars().all(|c| c.is_ascii_digit() || c == '-' || c == '+') {
        true => QuantityError::Suffix,
        false => QuantityError::Malformed,
    }
}

fn scaled(whole: &str, fraction: &str, scale: Scale) -> i128 {
    match scale {
        Scale::Ten(power) => decimal(whole, fraction, power),
        Scale::Two(bits) => {
            let units = decimal(whole, fraction, 0);
            units.checked_mul(1_i128 << bits).map_or(CAP, |n| n.min(CAP))
        }
    }
}

/// `whole.fraction × 10^power` in nanos, rounded up, capped.
fn decimal(whole: &str, fraction: &str, power: i32) -> i128 {
    let mut nanos: i128 = 0;
    let mut rest = false;
    let shift = i64::from(power) + 9;
    for (i, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
        let place = whole.len() as i64 - 1 - i as i64 + shift;
        let value = i128::from(digit - b'0');
        match u32::try_from(place) {
            Ok(place) => nanos = nanos.saturating_add(value.saturating_mul(10_i128.saturating_pow(place))),
            Err(_) => rest |= value != 0,
        }
    }
    (nanos.saturating_add(i128::from(rest))).min(CAP)
}

fn ceil_div(n: i128, d: i128) -> i128 {
    let quotient = n / d;
    if n % d > 0 { quotient + 1 } else { quotient }
}

impl fmt::Display for Quantity {
    /// Canonical form: no fraction, the largest suffix that keeps it whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        match self.format {
            Format::Binary if self.nanos.abs() >= 1024 * NANOS && self.is_integer() => self.binary(f),
            Format::Binary | Format::Decimal => self.decimal(f),
            Format::Exponent => self.exponent(f),
        }
    }
}

impl Quantity {
    fn binary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut units, mut step) = (self.nanos / NANOS, 0);
        while step < 6 && units % 1024 == 0 {
            units /= 1024;
            step += 1;
        }
        write!(f, "{units}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step])
    }

    fn decimal(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (amount, step) = self.thousands();
        write!(
            f,
            "{amount}{}",
            ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][step]
        )
    }

    fn exponent(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (amount, step) = self.thousands();
        match 3 * i32::try_from(step).unwrap_or(0) - 9 {
            0 => write!(f, "{amount}"),
            power => write!(f, "{amount}e{power}"),
        }
    }

    /// The amount with as many thousands taken out as divide it, and how many: 0 is nanos.
    fn thousands(&self) -> (i128, usize) {
        let (mut amount, mut step) = (self.nanos, 0);
        while step < 9 && amount % 1000 == 0 {
            amount /= 1000;
            step += 1;
        }
        (amount, step)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn canonical_forms() {
        let cases = [
            ("0", "0"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("128Mi", "128Mi"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("1e3", "1e3"),
            ("1000", "1k"),
            ("12e6", "12e6"),
            ("100", "100"),
            ("0.1Ki", "102400m"),
            ("1024", "1024"),
            ("-1", "-1"),
            (".5", "500m"),
            ("1.", "1"),
            ("5E", "5E"),
            ("1e99", "9223372036854775807e0"),
            ("0.0000000001", "1n"),
            ("+5", "5"),
            ("512Ki", "512Ki"),
            ("500Ki", "500Ki"),
            ("1Gi", "1Gi"),
            ("3M", "3M"),
        ];
        for (input, want) in cases {
            let got = Quantity::parse(input).expect(input).to_string();
            assert_eq!(got.trim_end_matches("e0"), want.trim_end_matches("e0"), "{input}");
        }
    }

    #[test]
    fn text_that_is_none() {
        for input in ["", "x", "1.2.3", "1Q", "-", "e3", "1 ", "1ki"] {
            assert!(Quantity::parse(input).is_err(), "{input:?}");
        }
    }

    #[test]
    fn order_and_values() {
        let q = |s: &str| Quantity::parse(s).expect(s);
        assert!(q("1Gi") > q("1G") && q("100m") < q("1"));
        assert_eq!(
            (q("1500m").value(), q("1500m").milli_value(), q("-1500m").value()),
            (2, 1500, -1)
        );
        assert!(q("-1").is_negative() && q("0m").is_zero() && !q("1m").is_integer());
    }

    proptest! {
        #[test]
        fn printing_keeps_the_amount(whole in 0u64..1_000_000_000, frac in 0u32..1000, suffix in "(|m|k|M|G|Ki|Mi|Gi|e3)") {
            let quantity = Quantity::parse(&format!("{whole}.{frac:03}{suffix}")).expect("valid");
            let again = Quantity::parse(&quantity.to_string()).expect("canonical");
            prop_assert_eq!(quantity.nanos(), again.nanos());
            // A fraction of a binary unit is printed without one, and that then as a decimal.
            let third = Quantity::parse(&again.to_string()).expect("canonical");
            prop_assert_eq!(again.to_string(), third.to_string());
        }

        #[test]
        fn never_panics(text in "\\PC{0,20}") {
            let _ = Quantity::parse(&text);
        }
    }

    #[test]
    fn a_sum_is_shown_as_the_first_that_is_something() {
        let parse = |text: &str| Quantity::parse(text).unwrap();
        for (a, b, sum) in [("0", "1Mi", "1Mi"), ("1Mi", "1M", "2048576"), ("1M", "0", "1M")] {
            assert_eq!(parse(a).plus(parse(b)).to_string(), sum, "{a} {b}");
        }
        assert_eq!(parse("0").minus(parse("1Ki")).to_string(), "-1Ki");
    }
}
