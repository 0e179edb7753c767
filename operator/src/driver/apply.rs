//! Applying a specification: checked, compared with the one in force, refused or written to etcd, where every agent
//! finds it ([`reload`](super::reload) carries it out).

use super::commands::DriverCommands;
use super::history::rfc3339;
use crate::api::{Applied, Apply, ApplyError, CommandError, SpecVersion};
use crate::core::group::Severity;
use crate::core::record::Outcome;
use crate::etcd::SpecEntry;
use crate::spec::{Facts, GroupFacts, Spec, diff};
use crate::status::ClusterStatus;
use std::time::SystemTime;

/// Longest document. With its entry in the history it fits into one request to etcd (1.5 MiB).
pub(super) const SPEC_MAX: usize = 512 << 10;
/// Longest reason kept.
const MESSAGE_MAX: usize = 500;

fn unavailable(detail: impl Into<String>) -> ApplyError {
    ApplyError::Command(CommandError::Unavailable(detail.into()))
}

impl DriverCommands {
    pub(super) async fn apply(&self, apply: Apply) -> Result<Applied, ApplyError> {
        if apply.text.len() > SPEC_MAX {
            let detail =
                format!("The specification has {} bytes; at most {SPEC_MAX} are kept.", apply.text.len());
            return Err(ApplyError::Command(CommandError::Refused(detail)));
        }
        let new = Spec::parse(&apply.text, |_| None).map_err(ApplyError::Invalid)?;
        let found = self
            .etcd
            .spec()
            .await
            .map_err(|e| unavailable(format!("etcd did not answer: {e}; try again")))?;
        let (text, current) = found.unwrap_or_default();
        if let Some(expected) = apply.expected.filter(|v| *v != current) {
            return Err(ApplyError::Changed { expected, current });
        }
        let in_force = self.in_force.borrow().clone();
        // An unreadable one in etcd is no obstacle: it is what somebody wants to correct.
        let old = Spec::parse(&text, |_| None).unwrap_or_else(|_| (*in_force).clone());
        let mut facts = facts(&self.status.borrow());
        facts.volumes_dir = self.state_dir.join("volumes");
        let plan = diff::plan(&old, &new, &facts);
        let answer =
            |version, applied| Applied { version, previous: current, applied, changes: plan.changes.clone() };
        if apply.dry_run {
            return Ok(answer(current, false));
        }
        if plan.refused().next().is_some() {
            return Err(ApplyError::Refused { current, changes: plan.changes });
        }
        if text == apply.text {
            return Ok(answer(current, false));
        }
        let entry = SpecEntry {
            version: 0,
            at: rfc3339(SystemTime::now()),
            by: apply.by.clone(),
            from: apply.from.clone(),
            message: apply.message.chars().take(MESSAGE_MAX).collect(),
            text: apply.text,
        };
        match self.etcd.put_spec(&entry, current).await {
            Outcome::Committed { revision } => {
                let why =
                    if entry.message.is_empty() { String::new() } else { format!(" ({})", entry.message) };
                let text =
                    format!("{} applied specification version {revision}{why}: {}", apply.by, plan.summary());
                self.history.record(None, Severity::Info, &text);
                Ok(answer(revision, true))
            }
            Outcome::GuardFailed => {
                let current = self.etcd.spec_version().await.ok().flatten().unwrap_or(0);
                Err(ApplyError::Changed { expected: answer(0, false).previous, current })
            }
            Outcome::Unknown => Err(unavailable(
                "etcd did not confirm the new specification, it may be in force nevertheless: look at 'baton spec log' \
                 before you apply it again",
            )),
        }
    }

    pub(super) async fn spec_versions(&self) -> Result<Vec<SpecVersion>, CommandError> {
        let all = self.etcd.spec_history().await;
        let all =
            all.map_err(|e| CommandError::Unavailable(format!("etcd did not answer: {e}; try again")))?;
        Ok(all.into_iter().map(version_of).collect())
    }
}

fn version_of(entry: SpecEntry) -> SpecVersion {
    let SpecEntry { version, at, by, from, message, text } = entry;
    SpecVersion { version, at, by, from, message, text }
}

/// What the plan has to know about the cluster.
fn facts(status: &ClusterStatus) -> Facts {
    let group = |g: &crate::status::GroupStatus| {
        (g.name.clone(), GroupFacts { leader: g.leader.clone(), in_sync: g.in_sync.clone() })
    };
    Facts { groups: status.groups.iter().map(group).collect(), volumes_dir: "".into() }
}
