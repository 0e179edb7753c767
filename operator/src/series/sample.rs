//! What is remembered of a snapshot. Pure.
//!
//! Values that only the primary's replicator knows (lag, what a peer lacks, write rate) are remembered while this
//! node is primary and are holes otherwise.

use super::ring::{Fold, Key, Value};
use crate::status::ClusterStatus;
use baton_replicator::types::{Instant, Role};
use std::collections::BTreeMap;

/// Remembers counters, to make rates of them.
#[derive(Debug, Default)]
pub struct Sampler {
    before: BTreeMap<Key, (f64, f64)>,
    at: Option<Instant>,
}

impl Sampler {
    /// The values of `status` at `now`. Rates are those since the call before.
    pub fn sample(&mut self, status: &ClusterStatus, now: Instant) -> Vec<Value> {
        let elapsed = self.at.replace(now).map_or(0.0, |at| now.since(at).as_secs_f64());
        let before = std::mem::take(&mut self.before);
        let mut values = Vec::new();
        for node in status.nodes.iter().filter(|n| n.name != status.node) {
            let key = key("heartbeat_gap_seconds", [("node", node.name.as_str())]);
            put(&mut values, key, Fold::Max, seconds_of_ms(node.longest_gap_ms));
        }
        for group in &status.groups {
            let name = group.name.as_str();
            let seen = &group.availability;
            let down = key("unavailable_ratio", [("group", name)]);
            // Seconds without service per second watched: what the two totals grew by.
            if let Some((unavailable, observed)) = before.get(&down) {
                let watched = seen.observed_seconds - observed;
                if watched > 0.0 {
                    let share = ((seen.unavailable_seconds - unavailable) / watched).clamp(0.0, 1.0);
                    put(&mut values, down.clone(), Fold::Mean, share);
                }
            }
            self.before.insert(down, (seen.unavailable_seconds, seen.observed_seconds));
            for volume in group.volumes.iter().filter(|v| v.role == Role::Primary) {
                let volume_name = volume.volume.as_str();
                let own = |metric| key(metric, [("group", name), ("volume", volume_name)]);
                let written = double(volume.counters.written_bytes);
                let rate = own("written_bytes_per_second");
                if let Some((earlier, _)) = before.get(&rate).filter(|(e, _)| *e <= written && elapsed > 0.0)
                {
                    put(&mut values, rate.clone(), Fold::Mean, (written - earlier) / elapsed);
                }
                self.before.insert(rate, (written, 0.0));
                for peer in &volume.peers {
                    let of = |metric| {
                        let labels = [("group", name), ("volume", volume_name), ("peer", peer.node.as_str())];
                        key(metric, labels)
                    };
                    put(&mut values, of("dirty_bytes"), Fold::Mean, double(peer.dirty_bytes));
                    if peer.lag_us > 0 {
                        let lag = double(peer.lag_us) / 1e6;
                        put(&mut values, of("replication_lag_seconds"), Fold::Max, lag);
                    }
                }
            }
        }
        values
    }
}

fn key<const N: usize>(name: &'static str, labels: [(&'static str, &str); N]) -> Key {
    Key { name, labels: labels.map(|(label, value)| (label, value.to_owned())).to_vec() }
}

#[expect(clippy::cast_possible_truncation, reason = "a chart needs no more than single precision")]
fn put(values: &mut Vec<Value>, key: Key, fold: Fold, value: f64) {
    values.push(Value { key, fold, value: value as f32 });
}

#[expect(clippy::cast_precision_loss, reason = "a chart needs no more than single precision")]
fn double(n: u64) -> f64 {
    n as f64
}

fn seconds_of_ms(ms: u64) -> f64 {
    double(ms) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;
    use std::time::Duration;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO.plus(Duration::from_secs(seconds))
    }

    fn shown(values: &[Value]) -> Vec<String> {
        values
            .iter()
            .map(|v| {
                let labels: Vec<&str> = v.key.labels.iter().map(|(_, value)| value.as_str()).collect();
                format!("{}({}) {}", v.key.name, labels.join(" "), v.value)
            })
            .collect()
    }

    #[test]
    fn rates_are_differences_and_the_first_sample_has_none() {
        let mut sampler = Sampler::default();
        let mut status = fixture::healthy();
        let gap = "heartbeat_gap_seconds(beta) 0.113";
        let steady =
            ["dirty_bytes(web webstore beta) 0", "replication_lag_seconds(web webstore beta) 0.000412"];
        assert_eq!(shown(&sampler.sample(&status, at(5))), [&[gap][..], &steady].concat());

        let web = &mut status.groups[0];
        web.volumes[0].counters.written_bytes += 5 << 20;
        web.availability.observed_seconds += 5.0;
        web.availability.unavailable_seconds += 2.0;
        let down = "unavailable_ratio(web) 0.4";
        let rate = "written_bytes_per_second(web webstore) 1048576";
        assert_eq!(shown(&sampler.sample(&status, at(10))), [&[gap, down, rate][..], &steady].concat());

        // A restarted replicator counts from 0 again, and no time was watched.
        status.groups[0].volumes[0].counters.written_bytes = 0;
        assert_eq!(shown(&sampler.sample(&status, at(15))), [&[gap][..], &steady].concat());
    }

    #[test]
    fn a_secondary_knows_neither_lag_nor_what_the_primary_lacks() {
        let mut status = fixture::healthy();
        status.groups[0].volumes[0].role = Role::Secondary;
        let shown = shown(&Sampler::default().sample(&status, at(5)));
        assert_eq!(shown, ["heartbeat_gap_seconds(beta) 0.113"]);
    }
}
