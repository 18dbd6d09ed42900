//! Prometheus' text format, version 0.0.4 (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! The crate `prometheus-client` writes OpenMetrics only: other TYPE lines for counters, and an end mark. Those who read
//! version 0.0.4 today would have to change.

use std::fmt::{Display, Write as _};

/// What [`Text`] is served as.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    Counter,
    Gauge,
    Histogram,
}

impl Metric {
    fn word(self) -> &'static str {
        match self {
            Metric::Counter => "counter",
            Metric::Gauge => "gauge",
            Metric::Histogram => "histogram",
        }
    }
}

/// Families, each with its samples right behind it.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    pub fn with_capacity(bytes: usize) -> Self {
        Self(String::with_capacity(bytes))
    }

    /// `help` is one line.
    pub fn family(&mut self, name: &str, metric: Metric, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {}", metric.word());
    }

    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{}\"", escaped(text));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    pub fn finish(self) -> String {
        self.0
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
    fn a_family_comes_before_its_samples_and_labels_are_escaped() {
        let mut text = Text::default();
        text.family("x_total", Metric::Counter, "How many");
        text.sample("x_total", &[], 7);
        text.sample("x_total", &[("a", "b\\\"\n"), ("c", "d")], 0.5);
        assert_eq!(
            text.finish(),
            "# HELP x_total How many\n# TYPE x_total counter\nx_total 7\nx_total{a=\"b\\\\\\\"\\n\",c=\"d\"} 0.5\n"
        );
    }
}
