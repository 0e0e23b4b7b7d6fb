//! Prometheus' text exposition format, version 0.0.4.
use std::fmt::{Display, Write};

#[derive(Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins a family of samples.
    pub fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    pub fn sample(&mut self, name: &str, labels: &[(&str, String)], value: impl Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(k, v)| format!("{k}=\"{}\"", escaped(v)))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    /// A family of one sample.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.begin(name, kind, help);
        self.sample(name, &[], value);
    }

    pub fn finish(self) -> String {
        self.0
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut out = Exposition::default();
        out.single("a", "gauge", "A.", 1);
        out.sample("b", &[("x", "a\"b\\c\nd".to_owned())], 2);
        assert_eq!(
            out.finish(),
            "# HELP a A.\n# TYPE a gauge\na 1\nb{x=\"a\\\"b\\\\c\\nd\"} 2\n"
        );
    }
}
