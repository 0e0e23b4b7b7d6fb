//! Doubles whose digits are hexadecimal, `0x1.8p-3`, as Go's `strconv.ParseFloat` reads them.

/// Bits of a double's digits.
const PRECISION: i64 = 53;
/// The power of two of the smallest double, of the smallest with all its bits, and the largest.
const SMALLEST: i64 = -1074;
const SMALLEST_WHOLE: i64 = -1022;
const LARGEST: i64 = 1023;
/// More than any exponent that makes a difference, for whatever can be written before it.
const ENDLESS: i64 = 1 << 40;

/// None where the text is not of this form; within, none where it is wrong, or too large.
pub(super) fn number(text: &str) -> Option<Option<f64>> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let rest = unsigned
        .strip_prefix("0x")
        .or_else(|| unsigned.strip_prefix("0X"))?;
    let negates = text.starts_with('-');
    Some(magnitude(rest).map(|number| if negates { -number } else { number }))
}

fn magnitude(text: &str) -> Option<f64> {
    let (digits, exponent) = text.split_once(['p', 'P'])?;
    let digits = Digits::read(digits)?;
    let power = power(exponent)?.checked_add(digits.power)?;
    let number = digits.rounded(power)?;
    number.is_finite().then_some(number)
}

/// The decimal power of two after `p`.
fn power(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let plain = parted(digits, false)?;
    if plain.is_empty() || !plain.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let size = plain.parse().map_or(ENDLESS, |size: i64| size.min(ENDLESS));
    Some(if text.starts_with('-') { -size } else { size })
}

/// Without its underscores, each of which is to stand between digits; `begun` says whether one may come first, after `0x`.
fn parted(text: &str, begun: bool) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let fits = |at: usize| digit(at + 1) && if at == 0 { begun } else { digit(at - 1) };
    let all = bytes.iter().enumerate().all(|(at, b)| *b != b'_' || fits(at));
    all.then(|| text.replace('_', ""))
}

/// `bits` times two to the `power`; the last bit also stands for all that came after it.
struct Digits {
    bits: u64,
    power: i64,
}

impl Digits {
    /// At least one digit, and at most one point.
    fn read(text: &str) -> Option<Digits> {
        let text = parted(text, true)?;
        let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
        if whole.is_empty() && part.is_empty() {
            return None;
        }
        let mut digits = Digits { bits: 0, power: 0 };
        for digit in whole.chars() {
            digits.push(digit.to_digit(16)?, 0);
        }
        for digit in part.chars() {
            digits.push(digit.to_digit(16)?, 4);
        }
        Some(digits)
    }

    /// One more digit, `below` bits lower than the one before it.
    fn push(&mut self, digit: u32, below: i64) {
        if self.bits >> 60 == 0 {
            self.bits = (self.bits << 4) | u64::from(digit);
            self.power -= below;
        } else {
            self.bits |= u64::from(digit != 0);
            self.power += 4 - below;
        }
    }

    /// The nearest double, the even one of two, of these bits at this power; none where it is too large.
    fn rounded(&self, power: i64) -> Option<f64> {
        let length = i64::from(u64::BITS - self.bits.leading_zeros());
        let highest = power.saturating_add(length - 1);
        if self.bits == 0 || highest < SMALLEST - 1 {
            return Some(0.0);
        }
        if highest > LARGEST {
            return None;
        }
        let kept = PRECISION.min(PRECISION + highest - SMALLEST_WHOLE);
        let lost = (length - kept).max(0);
        Some(dropped(self.bits, lost) as f64 * two_to(power + lost))
    }
}

/// Without the lowest bits, of which there are at most 64.
fn dropped(bits: u64, lost: i64) -> u64 {
    let (wide, lost) = (u128::from(bits), u32::try_from(lost).unwrap_or(0));
    let (kept, rest) = (wide >> lost, wide & ((1 << lost) - 1));
    let twice = rest << 1;
    let half = 1 << lost;
    let up = twice > half || twice == half && kept & 1 == 1;
    u64::try_from(kept).unwrap_or(u64::MAX) + u64::from(up)
}

/// Exact from [`SMALLEST`] to [`LARGEST`].
fn two_to(power: i64) -> f64 {
    let bits = match power {
        SMALLEST_WHOLE.. => u64::try_from(power - SMALLEST_WHOLE + 1).unwrap_or(0) << (PRECISION - 1),
        _ => 1 << (power - SMALLEST).clamp(0, PRECISION - 2),
    };
    f64::from_bits(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_as_by_go() {
        for (text, want) in [
            ("0x1p-2", Some(0.25)),
            ("-0X1.8P+1", Some(-3.0)),
            ("+0x.8p0", Some(0.5)),
            ("0x10p0", Some(16.0)),
            ("0x1_0p0", Some(16.0)),
            ("0x_1p0", Some(1.0)),
            ("0x0p99999999999999999999", Some(0.0)),
            ("0x1p-1074", Some(f64::from_bits(1))),
            ("0x1p-1075", Some(0.0)),
            ("0x1.8p-1075", Some(f64::from_bits(1))),
            ("0x3p-1074", Some(f64::from_bits(3))),
            ("0x1p-1022", Some(f64::MIN_POSITIVE)),
            ("0x1.fffffffffffffp1023", Some(f64::MAX)),
            ("0x1.fffffffffffff7p1023", Some(f64::MAX)),
            ("0x1.fffffffffffff8p1023", None),
            ("0x1p1024", None),
            ("0x1p1023", Some(2f64.powi(1023))),
            // Halfway goes to the even one, and anything beyond it up.
            ("0x1.00000000000008p0", Some(1.0)),
            ("0x1.000000000000080000000001p0", Some(1.0 + f64::EPSILON)),
            ("0x1.00000000000018p0", Some(1.0 + 2.0 * f64::EPSILON)),
            ("0x123456789abcdef0123p0", Some(5_373_003_642_731_685_000_000_f64)),
            ("0x1", None),
            ("0x1.8", None),
            ("0xp1", None),
            ("0x.p1", None),
            ("0x1p", None),
            ("0x1p+", None),
            ("0x1p1.0", None),
            ("0x1__0p0", None),
            ("0x1_p0", None),
            ("0x1.2.3p0", None),
            ("0xgp0", None),
        ] {
            assert_eq!(number(text), Some(want), "{text}");
        }
        for text in ["1p2", "0b1", "x1p0", "", "1.5"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
