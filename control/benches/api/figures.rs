//! What was measured, as rows of a table.
use crate::Result;
use crate::connection::Target;
use std::io::Write;
use std::time::Duration;

#[derive(Default)]
pub struct Report {
    rows: Vec<(String, String)>,
}

impl Report {
    pub fn add(&mut self, what: impl Into<String>, figure: impl Into<String>) {
        self.rows.push((what.into(), figure.into()));
    }

    /// The server's resident memory, by its own account.
    pub async fn memory(&mut self, target: &Target, when: &str) -> Result<()> {
        let bytes = metric(target, "process_resident_memory_bytes").await?;
        self.add(
            format!("resident memory {when}"),
            format!("{:.0} MiB", bytes / f64::from(1 << 20)),
        );
        Ok(())
    }

    pub fn print(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "| what | figure |\n|---|---|")?;
        for (what, figure) in &self.rows {
            writeln!(out, "| {what} | {figure} |")?;
        }
        Ok(())
    }
}

/// Processor time that the server has taken; what other programs leave of the processors does not matter to it.
pub async fn server_time(target: &Target) -> Result<Duration> {
    Ok(Duration::from_secs_f64(
        metric(target, "process_cpu_seconds_total").await?,
    ))
}

async fn metric(target: &Target, name: &str) -> Result<f64> {
    let metrics = String::from_utf8(target.connect().await?.get("/metrics").await?)?;
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value
        .ok_or(format!("the server does not tell its {name}"))?
        .parse()?)
}

/// `p50 1.2 ms, p99 3.4 ms` of many.
pub fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |percent: usize| {
        times
            .get(times.len() * percent / 100)
            .copied()
            .unwrap_or_default()
    };
    format!("p50 {}, p99 {}", millis(at(50)), millis(at(99)))
}

pub fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// Things per second.
pub fn rate(count: usize, time: Duration) -> String {
    let count = u32::try_from(count).map_or(f64::INFINITY, f64::from);
    format!("{:.0}/s", count / time.as_secs_f64())
}
