//! Reading what a node says at `/metrics/resource` (Prometheus' text format 0.0.4; KEP-1206 has the names). Nodes of other
//! makes may say more: what is not known is passed over.
use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::rates::Point;

/// Lines of one answer; ten for each of 50,000 containers.
const LINES: usize = 500_000;

/// One look at a node.
#[derive(Debug, Default)]
pub struct Scrape {
    pub node: Option<Point>,
    /// By namespace and name, then by container.
    pub pods: HashMap<(String, String), BTreeMap<String, Point>>,
}

/// What cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ExpositionError {
    #[error("a line of metrics cannot be read: {0:?}")]
    Line(String),
    #[error("more than {LINES} lines of metrics")]
    TooLong,
}

/// One sample: a name, labels, a value, and when it was taken if that is told.
struct Sample<'a> {
    name: &'a str,
    labels: BTreeMap<&'a str, String>,
    value: f64,
    at: Option<Timestamp>,
}

/// What is known of something so far; it makes a point when it has both.
#[derive(Default)]
struct Partial {
    cpu: Option<(f64, Timestamp)>,
    memory: Option<u64>,
    started_at: Option<Timestamp>,
}

impl Partial {
    fn note(&mut self, what: &str, sample: &Sample<'_>) {
        match what {
            "cpu_usage_seconds_total" => self.cpu = sample.at.map(|at| (sample.value, at)),
            "memory_working_set_bytes" => self.memory = Some(whole(sample.value)),
            "start_time_seconds" => self.started_at = instant(sample.value),
            _ => {}
        }
    }

    fn point(self) -> Option<Point> {
        let (cpu, at) = self.cpu?;
        Some(Point {
            at,
            cpu,
            memory: self.memory?,
            started_at: self.started_at,
        })
    }
}

/// # Errors
/// The text is not in that format, or too long.
pub fn read(text: &str) -> Result<Scrape, ExpositionError> {
    let mut node = Partial::default();
    let mut containers: HashMap<(String, String, String), Partial> = HashMap::new();
    for (i, line) in text.lines().enumerate() {
        if i >= LINES {
            return Err(ExpositionError::TooLong);
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut sample = sample(line).ok_or_else(|| ExpositionError::Line(line.to_owned()))?;
        if let Some(what) = sample.name.strip_prefix("node_") {
            node.note(what, &sample);
        } else if let Some(what) = sample.name.strip_prefix("container_") {
            let mut label = |name| sample.labels.remove(name).unwrap_or_default();
            let key = (label("namespace"), label("pod"), label("container"));
            containers.entry(key).or_default().note(what, &sample);
        }
    }
    let mut scrape = Scrape {
        node: node.point(),
        ..Scrape::default()
    };
    for ((namespace, pod, container), partial) in containers {
        if let Some(point) = partial.point() {
            let pod = scrape.pods.entry((namespace, pod)).or_default();
            pod.insert(container, point);
        }
    }
    Ok(scrape)
}

/// `name{label="text",…} value [milliseconds]`.
fn sample(line: &str) -> Option<Sample<'_>> {
    let name_ends = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(name_ends);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let mut words = rest.split_whitespace();
    let value = words.next()?.parse().ok()?;
    let at = match words.next() {
        Some(millis) => Some(Timestamp::from_millisecond(millis.parse().ok()?).ok()?),
        None => None,
    };
    Some(Sample {
        name,
        labels,
        value,
        at,
    })
}

/// The labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(BTreeMap<&str, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let (text, after) = unquoted(quoted)?;
        labels.insert(name.trim(), text);
        rest = after;
    }
}

/// A label's text up to its closing quote, without its escapes, and what follows it.
fn unquoted(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut chars = quoted.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Some((text, &quoted[i + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => text.push('\n'),
                other => text.push(other),
            },
            c => text.push(c),
        }
    }
    None
}

fn instant(seconds: f64) -> Option<Timestamp> {
    let since = jiff::SignedDuration::try_from_secs_f64(seconds).ok()?;
    Timestamp::UNIX_EPOCH.checked_add(since).ok()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes are positive, and casting saturates"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_kubelet_says_is_read() {
        let text = "# HELP container_cpu_usage_seconds_total [STABLE] …\n# TYPE container_cpu_usage_seconds_total counter\n\
            container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 4.710169 1719844800123\n\
            container_memory_working_set_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 1.2537856e+07 1719844800123\n\
            container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 1.7198447e+09\n\
            container_swap_usage_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 0 1719844800123\n\
            container_cpu_usage_seconds_total{container=\"half\",namespace=\"n\",pod=\"p\"} 1 1719844800123\n\
            node_cpu_usage_seconds_total 371.5 1719844800123\n\
            node_memory_working_set_bytes 4096 1719844800123\n\
            scrape_error 0\n";
        let scrape = read(text).expect("metrics");
        let pod = &scrape.pods[&("n".to_owned(), "p".to_owned())];
        let expected = Point {
            at: Timestamp::from_millisecond(1_719_844_800_123).expect("time"),
            cpu: 4.710169,
            memory: 12_537_856,
            started_at: Some(Timestamp::from_second(1_719_844_700).expect("time")),
        };
        assert_eq!(pod.iter().collect::<Vec<_>>(), [(&"c".to_owned(), &expected)]);
        assert_eq!(scrape.node.map(|p| (p.cpu, p.memory)), Some((371.5, 4096)));
    }

    #[test]
    fn what_is_no_metrics_is_refused() {
        for text in [
            "x",
            "<html>",
            "a{b=\"c} 1",
            "a{b=\"c\"} one",
            "a 1 later",
            "a{b} 1",
        ] {
            assert_eq!(read(text).err(), Some(ExpositionError::Line(text.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn labels_come_back(text in "\\PC*") {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
            let line = format!("m{{l=\"{escaped}\"}} 1");
            let sample = sample(&line).expect("a sample");
            prop_assert_eq!(sample.labels["l"].as_str(), text.as_str());
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            let _ = read(&text);
        }
    }
}
