//! After etcd was emptied, restored from an older backup, or replaced: what of the cluster is written back, and from which
//! node a group starts again. Checked against what this agent knows; a person asks for it.

use super::commands::{DriverCommands, settled, unavailable};
use super::owner::Back;
use crate::api::{Accepted, CommandError, How, Restore};
use crate::core::group::{Event as CoreEvent, Severity};
use crate::core::record::{InSync, Outcome, Record};
use crate::etcd::SpecEntry;
use crate::security::tokens::Vault;
use crate::status::{ClusterStatus, GroupState, GroupStatus};
use baton_replicator::types::{Epoch, GroupName, Member, NodeName};
use std::time::SystemTime;

/// Whether `me` may be taken as the one that holds everything of a group, and as which member of what epoch. Pure.
///
/// The primary of the last epoch has every acknowledged write. That it is this node is known only if every other node is
/// heard, and so has said what it knows, or a person says that it is off and that its writes may be lost.
fn judge(
    status: &ClusterStatus,
    group: &GroupStatus,
    me: &NodeName,
    request: &Restore,
) -> Result<(Epoch, Member), CommandError> {
    let name = &group.name;
    let refuse = |why: String| Err(CommandError::Refused(why));
    let Some(memory) = &group.memory else {
        return Err(CommandError::Unavailable(format!("{me} has not read the record of {name} yet")));
    };
    if memory.leads {
        return refuse(format!(
            "{me} leads {name}: it writes its record into the etcd that answers by itself"
        ));
    }
    if !memory.lost && memory.foreign.is_none() {
        return refuse(format!("the record of {name} in etcd is trusted: there is nothing to restore"));
    }
    let others = || group.nodes.iter().filter(|n| n.node != *me);
    let heard = |node: &NodeName| status.nodes.iter().any(|n| n.name == *node && n.alive);
    let idle =
        |s: GroupState| matches!(s, GroupState::Unknown | GroupState::Standby | GroupState::Campaigning);
    if let Some(holder) = others().find(|n| heard(&n.node) && !idle(n.state)) {
        return refuse(format!("{} holds {name}: it writes its record into etcd by itself", holder.node));
    }
    let unseen: Vec<&NodeName> =
        others().map(|n| &n.node).filter(|n| !heard(n) && !request.off.contains(n)).collect();
    if let Some(node) = unseen.first() {
        return refuse(format!(
            "{node} is not heard and may hold more, or still serve: start it; or, if it is lost, say that it is off and that \
             its writes may be lost (--is-off {node} --accept-data-loss)"
        ));
    }
    let sure = request.off.is_empty() && memory.served == memory.known;
    if !sure && !request.accept_data_loss {
        return refuse(format!(
            "{me} has served {name} last in epoch {}, and epoch {} is known: another node may hold more. If none does, \
             repeat with --accept-data-loss",
            memory.served.number, memory.known.number
        ));
    }
    if !memory.complete {
        return refuse(format!("the replicas of {name} on {me} are not all UpToDate or Consistent"));
    }
    let Some(boot) = group.nodes.iter().find(|n| n.node == *me).and_then(|n| n.boot) else {
        return Err(CommandError::Unavailable(format!("the replicator on {me} does not answer")));
    };
    Ok((memory.known, Member { node: me.clone(), boot }))
}

/// Whether etcd holds the record that was judged. Pure.
fn unchanged(judged: &GroupStatus, read: &Record) -> Result<(), CommandError> {
    let epoch = read.insync.as_ref().map(|i| i.value.epoch);
    if epoch == judged.memory.as_ref().and_then(|m| m.record) {
        return Ok(());
    }
    Err(CommandError::Refused(format!(
        "the record of {} in etcd has changed just now: look again ('baton cluster recover --dry-run')",
        judged.name
    )))
}

impl DriverCommands {
    pub(super) async fn restore_here(
        &self,
        group: GroupName,
        request: Restore,
        how: How,
    ) -> Result<Accepted, CommandError> {
        let known = self.group(&group)?;
        let (epoch, member) = judge(&self.status.borrow(), &known, &self.me, &request)?;
        let me = &self.me;
        let message = format!("{group} starts again from what {me} holds, after epoch {}", epoch.number);
        let mut consequences = vec![
            format!("the record of {group} in etcd is written anew: only {me} is in sync"),
            "the other nodes are brought up to date from there before they can take over".to_owned(),
        ];
        if request.accept_data_loss {
            consequences.push(format!("writes that {me} lacks are lost for good"));
        }
        let accepted = Accepted { message, dry_run: how.dry_run, consequences };
        if how.dry_run {
            return Ok(accepted);
        }
        let nodes = self.in_force.borrow().nodes.keys().cloned().collect();
        let insync = InSync { epoch, members: vec![member], candidates: nodes, fresh: false };
        let read = self.etcd.read(&group).await.map_err(|e| unavailable(&e))?;
        unchanged(&known, &read)?;
        let outcome = self.etcd.restore_record(&group, &insync, &read).await;
        settled(&outcome, &format!("the record of {group}"))?;
        let loss = if request.accept_data_loss { ", accepting the loss of data" } else { "" };
        self.history.record(
            Some(&group),
            Severity::Warning,
            &format!("asked for{loss}: {}", accepted.message),
        );
        let gone = |_| CommandError::Internal("the owner loop has ended".into());
        self.back.send(Back::Group(group, CoreEvent::Recover)).await.map_err(gone)?;
        Ok(accepted)
    }

    /// Writes what etcd lacks and this agent remembers: the specification, and tokens if etcd had none of them.
    pub(super) async fn write_back(&self, by: String, how: How) -> Result<Accepted, CommandError> {
        let mut lacking = Vec::new();
        let spec = self.etcd.spec_version().await.map_err(|e| unavailable(&e))?;
        let held = self.etcd.tokens().await.map_err(|e| unavailable(&e))?;
        if spec.is_none() {
            lacking.push("the specification".to_owned());
        }
        // Beside a specification, tokens that are not there were revoked.
        let tokens = if spec.is_none() { self.tokens.all() } else { Vec::new() };
        let tokens: Vec<_> = tokens.into_iter().filter(|t| held.iter().all(|h| h.id != t.id)).collect();
        match tokens.len() {
            0 => {}
            1 => lacking.push("1 token".to_owned()),
            n => lacking.push(format!("{n} tokens")),
        }
        let message = match lacking.as_slice() {
            [] => "etcd holds the specification: nothing is written back".to_owned(),
            all => format!("{} writes back {}", self.me, all.join(" and ")),
        };
        let consequences = if lacking.is_empty() {
            Vec::new()
        } else {
            vec![
                "modes of nodes, moves asked for and the history are not kept anywhere else: say them again"
                    .into(),
            ]
        };
        let accepted = Accepted { message, dry_run: how.dry_run, consequences };
        if how.dry_run || lacking.is_empty() {
            return Ok(accepted);
        }
        // Tokens first: once there is a specification, agents take what is not there for revoked.
        for token in tokens {
            let id = token.id.clone();
            if let Err(error) = Vault::add(&self.etcd, token).await
                && !self.etcd.tokens().await.is_ok_and(|all| all.iter().any(|t| t.id == id))
            {
                return Err(CommandError::Unavailable(format!(
                    "token {id} is not written back: {error}; try again"
                )));
            }
        }
        let entry = SpecEntry {
            version: 0,
            at: super::history::rfc3339(SystemTime::now()),
            by,
            from: "recovery".into(),
            message: "written back after etcd had lost it".into(),
            text: self.in_force.borrow().text.clone(),
        };
        match self.etcd.put_spec(&entry, 0).await {
            // Somebody else was faster, with the same text or another: theirs counts.
            Outcome::Committed { .. } | Outcome::GuardFailed => {}
            outcome @ Outcome::Unknown => settled(&outcome, "the specification")?,
        }
        self.history.record(None, Severity::Warning, &format!("asked for: {}", accepted.message));
        Ok(accepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;
    use crate::core::record::Versioned;
    use crate::status::GroupMemory;
    use baton_replicator::types::TermId;

    fn epoch(number: u64) -> Epoch {
        Epoch { number, term: TermId(number) }
    }

    /// alpha answers, beta is heard and stands by; etcd was emptied.
    fn emptied() -> ClusterStatus {
        let mut status = fixture::healthy();
        let group = &mut status.groups[0];
        group.leader = None;
        for node in &mut group.nodes {
            node.state = GroupState::Standby;
        }
        group.memory = Some(GroupMemory {
            known: epoch(7),
            served: epoch(7),
            lost: true,
            complete: true,
            ..GroupMemory::default()
        });
        status
    }

    fn judged(status: &ClusterStatus, request: &Restore) -> Result<u64, String> {
        let me = NodeName::new("alpha").unwrap();
        judge(status, &status.groups[0], &me, request).map(|(e, _)| e.number).map_err(|e| e.to_string())
    }

    fn off(nodes: &[&str], accept_data_loss: bool) -> Restore {
        Restore { off: nodes.iter().map(|n| NodeName::new(*n).unwrap()).collect(), accept_data_loss }
    }

    #[test]
    fn only_the_node_that_served_last_is_taken_for_complete() {
        let plain = off(&[], false);
        assert_eq!(judged(&emptied(), &plain), Ok(7));
        type Case = (&'static str, fn(&mut ClusterStatus), &'static str);
        let refused: [Case; 7] = [
            ("trusted", |s| s.groups[0].memory.as_mut().unwrap().lost = false, "nothing to restore"),
            ("leads", |s| s.groups[0].memory.as_mut().unwrap().leads = true, "by itself"),
            ("another one serves", |s| s.groups[0].nodes[1].state = GroupState::Serving, "beta holds web"),
            (
                "another one led later",
                |s| s.groups[0].memory.as_mut().unwrap().served = epoch(6),
                "epoch 7 is known",
            ),
            ("another one is not heard", |s| s.nodes[1].alive = false, "beta is not heard"),
            (
                "its disk is behind",
                |s| s.groups[0].memory.as_mut().unwrap().complete = false,
                "not all UpToDate or Consistent",
            ),
            ("its replicator is silent", |s| s.groups[0].nodes[0].boot = None, "does not answer"),
        ];
        for (what, spoil, said) in refused {
            let mut status = emptied();
            spoil(&mut status);
            let why = judged(&status, &plain).unwrap_err();
            assert!(why.contains(said), "{what}: {why}");
        }
        let mut foreign = emptied();
        let memory = foreign.groups[0].memory.as_mut().unwrap();
        (memory.lost, memory.foreign) = (false, Some("etcd is at revision 5".into()));
        assert_eq!(judged(&foreign, &plain), Ok(7), "restored from a backup");
    }

    /// Somebody else led it, or wrote its record, between the last look of this agent and its own read.
    #[test]
    fn a_record_that_changed_meanwhile_is_not_overwritten() {
        let record = |number: Option<u64>| Record {
            insync: number.map(|number| Versioned {
                value: InSync { epoch: epoch(number), members: vec![], candidates: vec![], fresh: false },
                revision: 10,
                lease: 0,
            }),
            ..Record::default()
        };
        let judged = |number: Option<u64>| {
            let mut group = emptied().groups.remove(0);
            group.memory.as_mut().unwrap().record = number.map(epoch);
            group
        };
        for same in [None, Some(5)] {
            assert!(unchanged(&judged(same), &record(same)).is_ok(), "{same:?}");
        }
        for (seen, found) in [(None, Some(8)), (Some(5), Some(8)), (Some(5), None)] {
            let why = unchanged(&judged(seen), &record(found)).unwrap_err().to_string();
            assert!(why.contains("has changed just now"), "{why}");
        }
    }

    #[test]
    fn a_person_may_give_up_what_a_lost_node_held() {
        let mut status = emptied();
        status.nodes[1].alive = false;
        assert!(judged(&status, &off(&["beta"], false)).unwrap_err().contains("--accept-data-loss"));
        assert!(
            judged(&status, &off(&[], true)).unwrap_err().contains("beta is not heard"),
            "it may still serve"
        );
        assert_eq!(judged(&status, &off(&["beta"], true)), Ok(7));
        // Whatever a person says: nobody starts beside a node that serves.
        let mut serving = emptied();
        serving.groups[0].nodes[1].state = GroupState::Serving;
        assert!(judged(&serving, &off(&["beta"], true)).unwrap_err().contains("beta holds web"));
    }
}
