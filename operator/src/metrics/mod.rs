//! Prometheus metrics. What the status snapshot says is computed from it at each scrape, so that it cannot contradict
//! the API or the CLI: a registry is filled and thrown away per scrape. What only this process can count (requests,
//! gaps, changes) lives in a registry of its own, `live`, and ends with the process.
//!
//! [`METRICS`] and [`LIVE`] are the list of what exists; `docs/metrics.md`, the rules and the dashboards are checked
//! against it.

mod beats;
mod fill;
mod http;
mod live;
mod probe;
mod table;
mod watcher;

pub use beats::Beats;
pub use http::measure;
pub use live::{LIVE, Live, live};
pub use probe::probe;
pub use table::{Kind, METRICS, Metric, markdown};

use crate::status::ClusterStatus;
use prometheus::{CounterVec, Encoder, GaugeVec, Opts, Registry, TextEncoder};
use std::collections::HashMap;

/// Content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything in Prometheus' text format: the snapshot, then what the process counted.
#[must_use]
pub fn render(status: &ClusterStatus) -> String {
    let mut scrape = Scrape::new();
    fill::fill(&mut scrape, status);
    scrape.text() + &live().text()
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
                // A snapshot has no distribution; those are in LIVE.
                Kind::Histogram => {}
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

    /// A counter of seconds.
    fn seconds(&mut self, name: &'static str, labels: &[&str], value: f64) {
        self.counters[name].with_label_values(labels).inc_by(value);
    }

    fn text(self) -> String {
        text_of(&self.registry)
    }
}

fn text_of(registry: &Registry) -> String {
    let mut text = Vec::new();
    // Writing to a vector does not fail, and a metric without values is left out by gather().
    TextEncoder::new().encode(&registry.gather(), &mut text).expect("metrics encode");
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod charts_tests;
#[cfg(test)]
mod tests;
