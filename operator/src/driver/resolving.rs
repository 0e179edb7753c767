//! What the API asks about split brains: checked against what this agent knows, then written to etcd, where the agent of
//! the node that it concerns finds it.

use super::commands::{DriverCommands, settled, unavailable};
use crate::api::{Accepted, CommandError, How, Resolve};
use crate::core::group::Severity;
use crate::core::resolve::{DiscardWish, GivenUp};
use crate::status::{GroupStatus, unix_seconds};
use baton_replicator::api::{Apart, Snapshot, VolumeStatus};
use baton_replicator::core::split_brain::utc;
use baton_replicator::types::{NodeName, VolumeName};
use std::time::SystemTime;

/// Whether the data of `victim` can be given up, and what follows. Pure.
fn judge(
    group: &GroupStatus,
    volume: &VolumeName,
    me: &NodeName,
    request: &Resolve,
) -> Result<Vec<String>, CommandError> {
    let victim = &request.discard;
    if group.leader.as_ref() == Some(victim) {
        return Err(CommandError::Refused(format!(
            "{victim} leads {0}: its data is in use and cannot be given up. Give up the other side's (a copy of it is \
             kept, which can be mounted), or stop {0} and see docs/runbooks/BatonSplitBrain.md",
            group.name
        )));
    }
    let here = group.volumes.iter().find(|v| v.volume == *volume);
    let apart = here.and_then(|v| known(v, me, victim));
    // Leader and victim know whether there is anything to resolve; a third node does not.
    let knows = group.leader.as_ref() == Some(me) || victim == me;
    if knows && apart.is_none() {
        return Err(CommandError::Refused(format!(
            "the replica of {volume} on {victim} is not at odds with the leader's, as far as {me} was told: see 'baton \
             volume show {volume}'"
        )));
    }
    let since = apart.and_then(|a| a.since_s).map(|at| format!(" since {}", utc(at))).unwrap_or_default();
    let blocks = apart.and_then(|a| if victim == me { a.here_blocks } else { a.there_blocks });
    let blocks = blocks.map(|n| format!(", at most {n} blocks of 4 KiB")).unwrap_or_default();
    let leader = group.leader.as_ref().map_or("the next leader", NodeName::as_str);
    Ok(vec![
        format!("what {victim} wrote to {volume} on its own{since}{blocks} is given up"),
        if request.snapshot {
            format!("{victim} keeps a copy of its data first; if it cannot, nothing is given up")
        } else {
            format!("no copy is kept: the data of {victim} is gone for good")
        },
        format!("everything is then copied from {leader}; {victim} cannot take over before that ends"),
    ])
}

/// What one of the two says about the other.
fn known<'a>(volume: &'a VolumeStatus, me: &NodeName, victim: &NodeName) -> Option<&'a Apart> {
    let between = |p: &&baton_replicator::api::PeerStatus| victim == me || p.node == *victim;
    volume.peers.iter().filter(between).find_map(|p| p.apart.as_ref().filter(|a| a.discard == *victim))
}

/// The copy that is meant.
fn meant<'a>(
    copies: &'a [Snapshot],
    name: &str,
    node: Option<&NodeName>,
) -> Result<&'a Snapshot, CommandError> {
    let mut found = copies.iter().filter(|c| c.name == name && node.is_none_or(|n| c.node == *n));
    match (found.next(), found.next()) {
        (Some(copy), None) => Ok(copy),
        (Some(a), Some(b)) => {
            let text = format!("{} and {} both hold a copy {name}: say which, with --node", a.node, b.node);
            Err(CommandError::Refused(text))
        }
        (None, _) => {
            let names: Vec<String> = copies.iter().map(|c| format!("{} on {}", c.name, c.node)).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Err(CommandError::NotFound(format!("there is no copy {name}; there is {there}")))
        }
    }
}

impl DriverCommands {
    async fn given_up(&self, volume: &VolumeName, node: &NodeName) -> Result<(GivenUp, i64), CommandError> {
        let mut all = self.etcd.given_up().await.map_err(|e| unavailable(&e))?;
        Ok(all.remove(&(volume.clone(), node.clone())).unwrap_or_default())
    }

    pub(super) async fn ask_to_resolve(
        &self,
        volume: VolumeName,
        request: Resolve,
        how: How,
    ) -> Result<Accepted, CommandError> {
        let group = self.volume(&volume)?;
        self.known_node(&request.discard)?;
        let consequences = judge(&self.group(&group)?, &volume, &self.me, &request)?;
        let victim = request.discard.clone();
        let message = format!("{victim} gives its data of {volume} up");
        let accepted = Accepted { message, dry_run: how.dry_run, consequences };
        if how.dry_run {
            return Ok(accepted);
        }
        let (record, version) = self.given_up(&volume, &victim).await?;
        let asked_at = unix_seconds(SystemTime::now());
        let wish = DiscardWish { snapshot: request.snapshot, by: self.me.clone(), asked_at };
        let record = GivenUp { wish: Some(wish), said: None, ..record };
        let what = format!("the resolution of {volume} on {victim}");
        settled(&self.etcd.put_given_up(&volume, &victim, &record, version).await, &what)?;
        let text = format!("asked for: {}: {}", accepted.message, accepted.consequences.join("; "));
        self.history.record(Some(&group), Severity::Warning, &text);
        Ok(accepted)
    }

    pub(super) async fn ask_to_release(
        &self,
        volume: VolumeName,
        snapshot: String,
        node: Option<NodeName>,
        how: How,
    ) -> Result<Accepted, CommandError> {
        let group = self.volume(&volume)?;
        let status = self.group(&group)?;
        let here = status.volumes.into_iter().find(|v| v.volume == volume);
        let copies = here.map(|v| v.snapshots).unwrap_or_default();
        let copy = meant(&copies, &snapshot, node.as_ref())?;
        let message = format!("{} removes the copy {snapshot} of {volume}", copy.node);
        let consequences =
            vec![format!("what {} gave up at {} is gone for good", copy.node, utc(copy.made_at_s))];
        let accepted = Accepted { message, dry_run: how.dry_run, consequences };
        if how.dry_run {
            return Ok(accepted);
        }
        let (mut record, version) = self.given_up(&volume, &copy.node).await?;
        if !record.release.contains(&snapshot) {
            record.release.push(snapshot);
        }
        let what = format!("the copies of {volume} on {}", copy.node);
        settled(&self.etcd.put_given_up(&volume, &copy.node, &record, version).await, &what)?;
        self.history.record(Some(&group), Severity::Info, &format!("asked for: {}", accepted.message));
        Ok(accepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;
    use baton_replicator::api::ApartReason;
    use baton_replicator::types::Generation;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn request(discard: &str, snapshot: bool) -> Resolve {
        Resolve { discard: node(discard), snapshot }
    }

    /// alpha leads; beta is its peer.
    fn torn() -> GroupStatus {
        let mut group = fixture::healthy().groups.remove(0);
        group.volumes[0].peers[0].apart = Some(Apart {
            why: ApartReason::SplitBrain,
            since_s: Some(1_795_291_500),
            here_blocks: Some(12),
            there_blocks: Some(9),
            discard: node("beta"),
            yields: false,
        });
        group
    }

    #[test]
    fn only_what_is_at_odds_and_not_in_use_is_given_up_and_what_follows_is_said() {
        let volume = VolumeName::new("webstore").unwrap();
        let (alpha, group) = (node("alpha"), torn());
        let said = judge(&group, &volume, &alpha, &request("beta", true)).expect("possible").join("; ");
        assert!(said.contains("since 2026-11-21 20:05:00 UTC, at most 9 blocks"), "{said}");
        assert!(said.contains("keeps a copy") && said.contains("copied from alpha"));
        let said = judge(&group, &volume, &alpha, &request("beta", false)).expect("possible").join("; ");
        assert!(said.contains("gone for good"));
        let leads = judge(&group, &volume, &alpha, &request("alpha", true)).expect_err("in use").to_string();
        assert!(leads.contains("alpha leads web"), "{leads}");
        let healthy = fixture::healthy().groups.remove(0);
        let nothing =
            judge(&healthy, &volume, &alpha, &request("beta", true)).expect_err("nothing").to_string();
        assert!(nothing.contains("not at odds"), "{nothing}");
        // A third node knows neither way, and the victim's own replicator has the last word.
        assert!(judge(&healthy, &volume, &node("gamma"), &request("beta", true)).is_ok());
    }

    #[test]
    fn the_copy_that_is_meant_is_found_or_asked_for() {
        let copy = |at: &str, name: &str| Snapshot {
            node: node(at),
            name: name.into(),
            made_at_s: 1,
            generation: Generation(1),
            bytes: 1,
        };
        let copies = [copy("alpha", "a"), copy("beta", "a"), copy("beta", "b")];
        assert_eq!(meant(&copies, "b", None).expect("one"), &copies[2]);
        assert_eq!(meant(&copies, "a", Some(&node("beta"))).expect("one"), &copies[1]);
        assert!(meant(&copies, "a", None).expect_err("two").to_string().contains("--node"));
        assert!(meant(&copies, "c", None).expect_err("none").to_string().contains("b on beta"));
    }
}
