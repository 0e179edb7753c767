//! External fence agents of a node: the field `fence`, as in Pacemaker's fencing topology. Levels are tried in their order
//! until one succeeds; of a level every device must. What is done with them: [`crate::fence`].

use super::format_duration;
use super::model::{FencePolicy, Spec};
use super::read::{Reader, join};
use super::tree::{Node, Value};
use super::validate::at_least;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A management board needs some seconds to switch a host off; Pacemaker allows its agents a minute.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than this nobody waits for a switch.
const LONGEST: Duration = Duration::from_secs(300);
/// What fails so often does not need one more attempt, but a person.
const MOST_RETRIES: u32 = 10;
/// Pacemaker's own limit.
const MOST_LEVELS: usize = 9;
/// Power supplies of one host.
const MOST_DEVICES: usize = 8;

/// One power switch, management board or hypervisor that can switch a node off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FenceDevice {
    /// The agent program.
    pub agent: String,
    /// What it is told, as its own documentation names it (`ip`, `plug`, `username`, …).
    pub options: BTreeMap<String, String>,
    /// File with the device's password, on every node.
    pub password_file: Option<PathBuf>,
    /// Bound of one run of the agent; then it is killed.
    pub timeout: Duration,
    /// Further attempts after a failure.
    pub retries: u32,
    /// Waited before it is used without a person's word, so that this node wins a race.
    pub delay: Duration,
    /// After `off` the agent must say that the power is off.
    pub verify: bool,
}

impl FenceDevice {
    /// What it is called in status, logs and metrics: its agent and where it is, no secrets.
    #[must_use]
    pub fn name(&self) -> String {
        let word = |keys: [&str; 2]| keys.iter().find_map(|k| self.options.get(*k));
        let ip = word(["ip", "ipaddr"]).map(|ip| format!(" {ip}")).unwrap_or_default();
        let plug = word(["plug", "port"]).map(|plug| format!(" plug {plug}")).unwrap_or_default();
        format!("{}{ip}{plug}", self.agent)
    }
}

/// The longest that switching a node off can take.
#[must_use]
pub fn bound(levels: &[Vec<FenceDevice>]) -> Duration {
    // Switching off, each attempt followed by a question for the state.
    let one = |d: &FenceDevice| d.timeout * 2 * (d.retries + 1);
    delay(levels) + levels.iter().flatten().map(one).sum::<Duration>()
}

/// What is waited before the first device is used without a person's word.
#[must_use]
pub fn delay(levels: &[Vec<FenceDevice>]) -> Duration {
    levels.iter().flatten().map(|d| d.delay).max().unwrap_or_default()
}

impl Reader<'_> {
    pub(super) fn fence_level(&mut self, node: &Node, path: &str) -> Option<Vec<FenceDevice>> {
        match node.value {
            Value::Seq(_) => self.list(node, path, Self::fence_device),
            _ => self.fence_device(node, path).map(|device| vec![device]),
        }
    }

    fn fence_device(&mut self, node: &Node, path: &str) -> Option<FenceDevice> {
        let mut f = self.fields(node, path, "agent, options, password_file, …");
        let agent = self.get(&mut f, "agent", |r, n, p| {
            r.scalar(n, p, |text| {
                let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
                if text.starts_with('.') || !text.chars().all(good) {
                    return Err(format!(
                        "'{text}' is not the name of a program; write e.g. fence_ipmilan (the agent's --fence-agents says \
                         where programs are)"
                    ));
                }
                Ok(text.to_owned())
            })
        });
        if agent.is_none() && f.entries.iter().all(|e| e.key != "agent") {
            self.error(node.line, path, "needs agent, e.g. fence_ipmilan");
        }
        let options: BTreeMap<String, String> =
            self.get(&mut f, "options", |r, n, p| r.map(n, p, Self::text)).unwrap_or_default();
        for (key, value) in &options {
            let at = join(&join(path, "options"), key);
            if let Some(why) = misplaced(key, value) {
                self.error(node.line, &at, why);
            }
        }
        let device = FenceDevice {
            agent: agent.unwrap_or_default(),
            options,
            password_file: self.get(&mut f, "password_file", Self::absolute),
            timeout: self.get(&mut f, "timeout", Self::duration).unwrap_or(TIMEOUT),
            retries: self.get(&mut f, "retries", Self::number).unwrap_or(1),
            delay: self.get(&mut f, "delay", Self::duration).unwrap_or_default(),
            verify: self.get(&mut f, "verify", Self::boolean).unwrap_or(true),
        };
        self.finish(f);
        Some(device)
    }

    pub(super) fn fence_policy(&mut self, node: &Node, path: &str) -> Option<FencePolicy> {
        self.scalar(node, path, |text| match text {
            "auto" => Ok(FencePolicy::Auto),
            "required" => Ok(FencePolicy::Required),
            other => Err(format!("'{other}' is not known; write auto or required")),
        })
    }
}

/// Why an option does not belong where it stands.
fn misplaced(key: &str, value: &str) -> Option<String> {
    let lower = key.to_ascii_lowercase();
    if ["passw", "secret", "token"].iter().any(|w| lower.contains(w)) && !lower.ends_with("_script") {
        return Some("a password does not belong into the specification; use password_file".into());
    }
    if ["action", "option", "nodename"].contains(&lower.as_str()) {
        return Some("is said by the agent itself; leave it out".into());
    }
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if !plain || value.contains(['\n', '\r']) {
        return Some("cannot be said in a line 'key=value'".into());
    }
    None
}

pub(super) fn validate(spec: &Spec, r: &mut Reader<'_>) {
    for (name, node) in &spec.nodes {
        let at = format!("nodes.{name}.fence");
        if node.fence.len() > MOST_LEVELS {
            r.at(&at, format!("has {} levels; the most are {MOST_LEVELS}", node.fence.len()));
        }
        for (i, level) in node.fence.iter().enumerate() {
            let at = format!("{at}[{i}]");
            if level.is_empty() || level.len() > MOST_DEVICES {
                r.at(&at, format!("has {} devices; a level has one to {MOST_DEVICES}", level.len()));
            }
            for device in level {
                at_least(r, &format!("{at}.timeout"), device.timeout, Duration::from_secs(1));
                for (field, value) in [("timeout", device.timeout), ("delay", device.delay)] {
                    if value > LONGEST {
                        let most = format_duration(LONGEST);
                        r.at(&format!("{at}.{field}"), format!("is too long; the most is {most}"));
                    }
                }
                if device.retries > MOST_RETRIES {
                    r.at(&format!("{at}.retries"), format!("is too much; the most are {MOST_RETRIES}"));
                }
            }
        }
    }
    let required = spec.groups.iter().filter(|(_, g)| g.fence == FencePolicy::Required);
    for name in required.map(|(name, _)| name) {
        let bare: Vec<String> =
            spec.nodes.iter().filter(|(_, n)| n.fence.is_empty()).map(|(n, _)| n.to_string()).collect();
        if !bare.is_empty() {
            r.at(
                &format!("groups.{name}.fence"),
                format!(
                    "required, but {} cannot be fenced: nobody could take the group over from there; give it devices \
                     (nodes.{}.fence), or write auto",
                    bare.join(", "),
                    bare[0]
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::spec::{FencePolicy, Spec};
    use std::time::Duration;

    fn with(fence: &str, group: &str) -> Result<Spec, String> {
        let text = format!(
            "cluster: demo\nnodes:\n  alpha: {{ address: 10.0.0.1, fence: {fence} }}\n  beta: {{ address: 10.0.0.2 }}\n\
             groups:\n  web:\n    addresses: [10.0.0.9/24]\n{group}"
        );
        Spec::parse(&text, |_| None).map_err(|e| e.to_string())
    }

    #[test]
    fn levels_of_devices_are_read_with_their_defaults() {
        let spec = with(
            "[{ agent: fence_ipmilan, options: { ip: 10.9.0.1, lanplus: 1 }, password_file: /etc/baton/bmc, retries: 0 }, \
             [{ agent: fence_apc, options: { ip: 10.9.0.2, plug: 3 }, delay: 2s }, { agent: fence_apc, verify: false }]]",
            "",
        )
        .expect("valid");
        let fence = &spec.nodes.values().next().unwrap().fence;
        assert_eq!((fence.len(), fence[1].len()), (2, 2));
        assert_eq!(fence[0][0].options["lanplus"], "1");
        assert_eq!((fence[0][0].timeout, fence[0][0].retries), (Duration::from_secs(30), 0));
        assert!(fence[0][0].verify && !fence[1][1].verify);
        assert_eq!(fence[1][0].name(), "fence_apc 10.9.0.2 plug 3");
        assert_eq!(super::delay(fence), Duration::from_secs(2));
        // 2 s, then 60 s for the board and 2 × 120 s for the outlets.
        assert_eq!(super::bound(fence), Duration::from_secs(302));
        assert_eq!(spec.groups.values().next().unwrap().fence, FencePolicy::Auto);
    }

    #[test]
    fn what_cannot_be_right_is_refused_with_what_to_write() {
        for (fence, group, said) in [
            ("[{ options: { ip: 1 } }]", "", "needs agent"),
            ("[{ agent: /usr/sbin/fence_x }]", "", "is not the name of a program"),
            ("[{ agent: ../x }]", "", "is not the name of a program"),
            ("[{ agent: x, options: { password: hunter2 } }]", "", "use password_file"),
            ("[{ agent: x, options: { passwd: hunter2 } }]", "", "use password_file"),
            ("[{ agent: x, options: { action: \"on\" } }]", "", "leave it out"),
            ("[{ agent: x, options: { ip: \"a\\naction=on\" } }]", "", "cannot be said in a line"),
            ("[{ agent: x, timeout: 10ms }]", "", "nodes.alpha.fence[0]"),
            ("[{ agent: x, delay: 1h }]", "", "too long"),
            ("[{ agent: x, retries: 99 }]", "", "the most are 10"),
            ("[[]]", "", "a level has one to"),
            ("[{ agent: x }]", "    fence: required\n", "beta cannot be fenced"),
            ("[{ agent: x }]", "    fence: never\n", "write auto or required"),
        ] {
            let error = with(fence, group).expect_err(fence);
            assert!(error.contains(said), "{fence}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
