//! What a script takes as given before its first event: the specification and what the node remembers.

use baton_operator::core::group::{AfterPowerLoss, Fencing, GroupConfig, Placing};
use baton_operator::core::record::{Durable, LongPromise};
use baton_operator::core::timing::Timers;
use baton_replicator::types::{Epoch, GroupName, Instant, NodeName, TermId, VolumeName};
use std::time::Duration;

/// The node whose decisions are shown.
pub const ME: &str = "beta";
/// What this node's dice always show.
pub const DRAWN: u64 = 0xfeed_f00d_0000_0000;

pub fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a node name")
}

pub fn nodes(list: &str) -> Vec<NodeName> {
    list.split(',').filter(|n| !n.is_empty() && *n != "none").map(node).collect()
}

pub fn group() -> GroupName {
    GroupName::new("web").expect("a group name")
}

pub fn volume(name: &str) -> VolumeName {
    VolumeName::new(name).expect("a volume name")
}

/// `4` is an epoch of another node, `4*` one that this node drew, `4!` one of another history.
pub fn epoch(number: &str) -> Epoch {
    let (digits, term) = match (number.strip_suffix('*'), number.strip_suffix('!')) {
        (Some(digits), _) => (digits, Some(DRAWN)),
        (_, Some(digits)) => (digits, Some(0xbad_0000_0000)),
        (None, None) => (number, None),
    };
    let number: u64 = digits.parse().expect("an epoch's number");
    Epoch { number, term: TermId(term.unwrap_or(number << 32)) }
}

pub struct Scene {
    pub cfg: GroupConfig,
    pub durable: Durable,
}

impl Default for Scene {
    fn default() -> Self {
        let cfg = GroupConfig {
            group: group(),
            me: node(ME),
            nodes: nodes("alpha,beta"),
            prefer: nodes("alpha"),
            volumes: vec![volume("store")],
            placing: Placing::default(),
            failure_timeout: Duration::from_secs(600),
            stop_timeout: Duration::from_secs(60),
            hot: false,
            gateway_hold: Duration::from_secs(10),
            fencing: Fencing::default(),
            after_power_loss: AfterPowerLoss::Wait,
            timers: Timers::default().check().expect("defaults hold"),
            retire: None,
        };
        Self { cfg, durable: Durable::default() }
    }
}

impl Scene {
    /// Takes a line if it is a setting of the scene:
    ///
    /// * `nodes A,B,…`, `prefer A,…|none`, `volumes V,…|none`, `auto_failback on|MS`, `stickiness N`, `with GROUP`, `apart_from GROUP`, `after_power_loss start`,
    ///   `standby hot`, `fence auto|required`, `stop_timeout MS`: the specification, where it differs from alpha (preferred), beta and the volume store
    /// * `served N`, `released N`, `promised MS`: what the node remembers from before its start
    pub fn take(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["nodes", list] => self.cfg.nodes = nodes(list),
            ["prefer", list] => self.cfg.prefer = nodes(list),
            ["volumes", "none"] => self.cfg.volumes.clear(),
            ["volumes", list] => self.cfg.volumes = list.split(',').map(volume).collect(),
            ["fence", policy @ ("auto" | "required")] => {
                let bound = Duration::from_secs(60);
                let nodes = self.cfg.nodes.iter().map(|n| (n.clone(), bound)).collect();
                self.cfg.fencing = Fencing { required: policy == "required", nodes };
            }
            ["standby", "hot"] => self.cfg.hot = true,
            ["stop_timeout", ms] => {
                self.cfg.stop_timeout = Duration::from_millis(ms.parse().expect("milliseconds"));
            }
            ["auto_failback", "on"] => self.cfg.placing.failback = Some(Duration::from_secs(10)),
            ["auto_failback", ms] => {
                self.cfg.placing.failback = Some(Duration::from_millis(ms.parse().expect("milliseconds")));
            }
            ["with", name] => self.cfg.placing.with = Some(GroupName::new(name).expect("a group name")),
            ["apart_from", name] => {
                self.cfg.placing.apart_from = vec![GroupName::new(name).expect("a group name")];
            }
            ["stickiness", n] => self.cfg.placing.stickiness = n.parse().expect("a number"),
            ["after_power_loss", "start"] => self.cfg.after_power_loss = AfterPowerLoss::Start,
            ["given", "serving" | "alone", n] => {
                self.served(n);
                return false;
            }
            ["served", n] => self.served(n),
            ["released", n] => self.durable.released = epoch(n),
            ["promised", ms] => {
                let length_ms: u64 = ms.parse().expect("milliseconds");
                let until = Instant::ZERO.plus(Duration::from_millis(length_ms));
                self.durable.promise = Some(LongPromise { until, length_ms });
            }
            _ => return false,
        }
        true
    }

    fn served(&mut self, number: &str) {
        self.durable.served = epoch(number);
        self.durable.known = epoch(number);
    }
}
