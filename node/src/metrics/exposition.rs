//! Prometheus' text format, version 0.0.4. Knows nothing of what is measured.

use std::fmt::Write;

use jiff::Timestamp;

/// What a family of metrics is.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    Counter,
    Gauge,
    Histogram,
}

/// What upstream promises of a family; cAdvisor's have no such word.
#[derive(Clone, Copy, Debug)]
pub enum Stability {
    Stable,
    Beta,
    Alpha,
    None,
}

impl Stability {
    fn word(self) -> &'static str {
        match self {
            Self::Stable => "[STABLE] ",
            Self::Beta => "[BETA] ",
            Self::Alpha => "[ALPHA] ",
            Self::None => "",
        }
    }
}

/// A text in the making: families, each followed by its samples.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    family: &'static str,
}

impl Exposition {
    pub fn family(&mut self, name: &'static str, ty: Type, help: &str) {
        self.family_as(name, ty, Stability::Stable, help);
    }

    pub fn family_as(&mut self, name: &'static str, ty: Type, stability: Stability, help: &str) {
        let ty = match ty {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
        };
        self.family = name;
        self.text.push_str(&format!(
            "# HELP {name} {}{help}\n# TYPE {name} {ty}\n",
            stability.word()
        ));
    }

    /// One sample of the family begun last. `at` is when it was read, where that is not now.
    pub fn sample(&mut self, labels: &[(&'static str, &str)], value: f64, at: Option<Timestamp>) {
        self.write("", labels, value, at);
    }

    /// The same of a histogram, whose samples have names of their own.
    pub fn sample_of(&mut self, part: &'static str, labels: &[(&str, &str)], value: f64) {
        self.write(part, labels, value, None);
    }

    fn write(&mut self, part: &str, labels: &[(&str, &str)], value: f64, at: Option<Timestamp>) {
        self.text.push_str(self.family);
        self.text.push_str(part);
        for (i, (name, text)) in labels.iter().enumerate() {
            self.text.push(if i == 0 { '{' } else { ',' });
            self.text.push_str(&format!("{name}=\"{}\"", escaped(text)));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        // Writing to a String does not fail.
        let _ = write!(self.text, " {value}");
        if let Some(at) = at {
            let _ = write!(self.text, " {}", at.as_millisecond());
        }
        self.text.push('\n');
    }

    pub fn finish(self) -> String {
        self.text
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut out = Exposition::default();
        out.family("f", Type::Gauge, "a thing");
        out.sample(&[("l", "a\"b\\c\nd")], 0.5, None);
        let expected = "# HELP f [STABLE] a thing\n# TYPE f gauge\nf{l=\"a\\\"b\\\\c\\nd\"} 0.5\n";
        assert_eq!(out.finish(), expected);
    }
}
