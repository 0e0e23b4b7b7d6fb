//! Durations in buckets. Cheap to observe: two additions.
use super::exposition::Exposition;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many durations are at most as long as each limit, and longer than the one before.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    /// Microseconds, rising.
    limits: &'static [u64; N],
    buckets: [AtomicU64; N],
    /// Those in no bucket.
    slower: AtomicU64,
    micros: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    pub const fn new(limits: &'static [u64; N]) -> Self {
        Histogram {
            limits,
            buckets: [const { AtomicU64::new(0) }; N],
            slower: AtomicU64::new(0),
            micros: AtomicU64::new(0),
        }
    }

    pub fn observe(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = self.limits.iter().position(|limit| micros <= *limit);
        let counter = bucket.and_then(|i| self.buckets.get(i)).unwrap_or(&self.slower);
        counter.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Its samples under that name; none while nothing has been observed.
    pub(super) fn write(&self, name: &str, labels: &[(&'static str, String)], out: &mut Exposition) {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        let slower = self.slower.load(Ordering::Relaxed);
        if counts.iter().all(|c| *c == 0) && slower == 0 {
            return;
        }
        let bucket = |le: String, count: u64, out: &mut Exposition| {
            let mut labels = labels.to_vec();
            labels.push(("le", le));
            out.sample(&format!("{name}_bucket"), &labels, count);
        };
        let mut count = 0;
        for (limit, found) in self.limits.iter().zip(counts) {
            count += found;
            bucket(seconds(*limit), count, out);
        }
        count += slower;
        bucket("+Inf".to_owned(), count, out);
        let sum = seconds(self.micros.load(Ordering::Relaxed));
        out.sample(&format!("{name}_sum"), labels, sum);
        out.sample(&format!("{name}_count"), labels, count);
    }
}

/// Microseconds as seconds.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
