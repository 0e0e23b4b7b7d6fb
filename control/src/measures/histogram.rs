//! Amounts in buckets. Cheap to observe: two additions.
use super::{Exposition, Labels};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is counted one by one: upstream's figures are in seconds, or in bytes.
#[derive(Clone, Copy, Debug)]
pub enum Scale {
    Nanoseconds,
    Microseconds,
    /// Whole ones of what is told.
    Ones,
}

impl Scale {
    /// How many of it one of what is told has.
    fn per_one(self) -> u64 {
        match self {
            Scale::Nanoseconds => 1_000_000_000,
            Scale::Microseconds => 1_000_000,
            Scale::Ones => 1,
        }
    }

    fn of(self, time: Duration) -> u64 {
        let amount = match self {
            Scale::Nanoseconds => time.as_nanos(),
            Scale::Microseconds => time.as_micros(),
            Scale::Ones => time.as_secs().into(),
        };
        u64::try_from(amount).unwrap_or(u64::MAX)
    }

    /// An amount, exactly.
    fn told(self, amount: u64) -> String {
        let (ones, rest) = (amount / self.per_one(), amount % self.per_one());
        if rest == 0 {
            return ones.to_string();
        }
        let digits = usize::try_from(self.per_one().ilog10()).unwrap_or_default();
        let text = format!("{ones}.{rest:0digits$}");
        text.trim_end_matches('0').to_owned()
    }

    /// A limit as Prometheus' library for Go writes it, for whoever asks for a bucket by its text.
    fn limit(self, amount: u64) -> String {
        let plain = self.told(amount);
        let Ok(value) = plain.parse::<f64>() else {
            return plain;
        };
        let scientific = format!("{value:e}");
        match scientific.split_once('e') {
            Some((digits, power)) => match power.parse::<i32>() {
                Ok(power) if power >= 6 => format!("{digits}e+{power:02}"),
                Ok(power) if power < -4 => format!("{digits}e-{:02}", power.unsigned_abs()),
                _ => plain,
            },
            None => plain,
        }
    }
}

/// How many amounts are at most as large as each limit, and larger than the one before.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    scale: Scale,
    /// Rising.
    limits: &'static [u64; N],
    buckets: [AtomicU64; N],
    /// Those in no bucket.
    larger: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    pub const fn new(scale: Scale, limits: &'static [u64; N]) -> Self {
        Histogram {
            scale,
            limits,
            buckets: [const { AtomicU64::new(0) }; N],
            larger: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    pub fn observe(&self, time: Duration) {
        self.add(self.scale.of(time));
    }

    pub fn add(&self, amount: u64) {
        let bucket = self.limits.iter().position(|limit| amount <= *limit);
        let counter = bucket.and_then(|i| self.buckets.get(i)).unwrap_or(&self.larger);
        counter.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(amount, Ordering::Relaxed);
    }

    /// How many amounts there were.
    pub fn count(&self) -> u64 {
        let counts = self.buckets.iter().chain([&self.larger]);
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Its samples under that name; none while nothing has been observed.
    pub fn write(&self, name: &str, labels: &[(&'static str, String)], out: &mut Exposition) {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        let larger = self.larger.load(Ordering::Relaxed);
        if counts.iter().all(|c| *c == 0) && larger == 0 {
            return;
        }
        let bucket = |le: String, count: u64, out: &mut Exposition| {
            let mut labels: Labels = labels.to_vec();
            labels.push(("le", le));
            out.sample(&format!("{name}_bucket"), &labels, count);
        };
        let mut count = 0;
        for (limit, found) in self.limits.iter().zip(counts) {
            count += found;
            bucket(self.scale.limit(*limit), count, out);
        }
        count += larger;
        bucket("+Inf".to_owned(), count, out);
        let sum = self.scale.told(self.sum.load(Ordering::Relaxed));
        out.sample(&format!("{name}_sum"), labels, sum);
        out.sample(&format!("{name}_count"), labels, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_upstream_writes_them() {
        for (scale, amount, text) in [
            (Scale::Microseconds, 0, "0"),
            (Scale::Microseconds, 5_000, "0.005"),
            (Scale::Microseconds, 1_250_000, "1.25"),
            (Scale::Microseconds, 60_000_000, "60"),
            (Scale::Nanoseconds, 500, "5e-07"),
            (Scale::Nanoseconds, 1_000_000, "0.001"),
            (Scale::Ones, 100_000, "100000"),
            (Scale::Ones, 1_000_000, "1e+06"),
            (Scale::Ones, 1_000_000_000, "1e+09"),
            (Scale::Ones, 31_104_000, "3.1104e+07"),
        ] {
            assert_eq!(scale.limit(amount), text);
        }
    }

    #[test]
    fn amounts_fall_into_buckets_that_add_up() {
        static LIMITS: [u64; 2] = [1_000, 1_000_000];
        let sizes = Histogram::new(Scale::Ones, &LIMITS);
        let mut out = Exposition::default();
        sizes.write("s", &[], &mut out);
        for size in [1_000, 1_001, 2_000_000] {
            sizes.add(size);
        }
        sizes.write("s", &[("a", "b".to_owned())], &mut out);
        assert_eq!(
            out.finish(),
            "s_bucket{a=\"b\",le=\"1000\"} 1\ns_bucket{a=\"b\",le=\"1e+06\"} 2\ns_bucket{a=\"b\",le=\"+Inf\"} 3\n\
             s_sum{a=\"b\"} 2002001\ns_count{a=\"b\"} 3\n"
        );
    }
}
