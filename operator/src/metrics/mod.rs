//! Prometheus metrics, computed from the status snapshot at each scrape, so that they cannot contradict the
//! API or the CLI. Owns no state: a registry is filled and thrown away per scrape.
//!
//! [`METRICS`] is the one list of what exists; `docs/metrics.md` is checked against it.

mod fill;
mod table;

pub use table::{Kind, METRICS, Metric, markdown};

use crate::status::ClusterStatus;
use prometheus::{CounterVec, Encoder, GaugeVec, Opts, Registry, TextEncoder};
use std::collections::HashMap;

/// Content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The snapshot in Prometheus' text format.
#[must_use]
pub fn render(status: &ClusterStatus) -> String {
    let mut scrape = Scrape::new();
    fill::fill(&mut scrape, status);
    scrape.text()
}

/// One scrape: every metric of the table, to be given values.
struct Scrape {
    registry: Registry,
    gauges: HashMap<&'static str, GaugeVec>,
    counters: HashMap<&'static str, CounterVec>,
}

impl Scrape {
    fn new() -> Self {
        let mut scrape = Self { registry: Registry::new(), gauges: HashMap::new(), counters: HashMap::new() };
        // The table is constant; a test renders all of it, so none of these can fail at run time.
        for metric in METRICS {
            let opts = Opts::new(metric.name, metric.help);
            match metric.kind {
                Kind::Gauge => {
                    let vec = GaugeVec::new(opts, metric.labels).expect("metric name and labels are valid");
                    scrape.registry.register(Box::new(vec.clone())).expect("metric names are unique");
                    scrape.gauges.insert(metric.name, vec);
                }
                Kind::Counter => {
                    let vec = CounterVec::new(opts, metric.labels).expect("metric name and labels are valid");
                    scrape.registry.register(Box::new(vec.clone())).expect("metric names are unique");
                    scrape.counters.insert(metric.name, vec);
                }
            }
        }
        scrape
    }

    fn gauge(&mut self, name: &'static str, labels: &[&str], value: f64) {
        self.gauges[name].with_label_values(labels).set(value);
    }

    fn flag(&mut self, name: &'static str, labels: &[&str], value: bool) {
        self.gauge(name, labels, f64::from(u8::from(value)));
    }

    fn counter(&mut self, name: &'static str, labels: &[&str], value: u64) {
        #[allow(clippy::cast_precision_loss, reason = "Prometheus knows only doubles")]
        self.counters[name].with_label_values(labels).inc_by(value as f64);
    }

    fn text(self) -> String {
        let mut text = Vec::new();
        // Writing to a vector does not fail, and a metric without values is left out by gather().
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("metrics encode");
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
mod tests;
