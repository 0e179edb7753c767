//! Carries out what is asked of volumes: that their resyncs stand still, and verifies: looks every second at what is asked for in etcd, does the next step for the volumes whose
//! primary is here (see [`crate::core::verify`]), and shows the rest.
//!
//! Nothing else waits for it. If it dies, verifies in etcd stay open, and the replicator ends what it has begun.

use super::history::{History, rfc3339};
use super::rounds::Rounds;
use crate::causes::chain;
use crate::core::group::Severity;
use crate::core::record::Outcome;
use crate::core::resync::{PauseRecord, to_tell};
use crate::core::verify::{Facts, Schedule, Step, VerifyRecord, step};
use crate::etcd::Etcd;
use crate::replica::ReplicaClient;
use crate::spec::Spec;
use crate::status::{ClusterStatus, unix_seconds};
use baton_replicator::api::{VerifyState, VerifyStatus, VolumeStatus};
use baton_replicator::types::{GroupName, NodeName, Role, VolumeName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// The newest verify of each volume, as etcd has it.
pub(super) type Shown = BTreeMap<VolumeName, VerifyStatus>;

/// What the task is made of.
pub(super) struct Verifier {
    pub(super) me: NodeName,
    pub(super) in_force: watch::Receiver<Arc<Spec>>,
    pub(super) etcd: Etcd,
    pub(super) replica: ReplicaClient,
    pub(super) status: watch::Receiver<ClusterStatus>,
    pub(super) history: History,
}

/// What this agent did about one volume.
#[derive(Default)]
struct Done {
    acted: u64,
    refused: Option<String>,
}

impl Verifier {
    /// Starts the task; it ends with the runtime.
    pub(super) fn start(self) -> watch::Receiver<Shown> {
        let (shown, receiver) = watch::channel(Shown::new());
        tokio::spawn(async move {
            let since = unix_seconds(SystemTime::now());
            let mut done: BTreeMap<VolumeName, Done> = BTreeMap::new();
            let mut rounds = Rounds::of(self.in_force.clone());
            loop {
                rounds.next(&shown).await;
                self.round(&shown, &mut done, since).await;
            }
        });
        receiver
    }

    async fn round(&self, shown: &watch::Sender<Shown>, done: &mut BTreeMap<VolumeName, Done>, since: u64) {
        let Ok(asked) = self.etcd.asked_of_volumes().await else { return };
        self.pause(&asked.pauses).await;
        let records = asked.verifies;
        shown.send_replace(records.iter().map(|(name, (record, _))| (name.clone(), show(record))).collect());
        let spec = Arc::clone(&self.in_force.borrow());
        let volumes = spec.groups.iter().flat_map(|(g, group)| group.volumes.iter().map(move |v| (g, v)));
        let wanted: Vec<(GroupName, VolumeName, Option<Schedule>)> = volumes
            .map(|(group, (name, volume))| (group.clone(), name.clone(), volume.verify))
            .filter(|(group, name, schedule)| {
                let open = records.get(name).is_some_and(|(record, _)| record.is_open());
                (open || schedule.is_some()) && self.leads(group)
            })
            .collect();
        if wanted.is_empty() {
            return;
        }
        let Ok(local) = self.replica.status(0, Duration::ZERO).await else { return };
        for (group, name, schedule) in wanted {
            let primary = |v: &&VolumeStatus| v.volume == name && v.role == Role::Primary;
            let Some(here) = local.volumes.iter().find(primary) else { continue };
            let found = records.get(&name);
            let done = done.entry(name.clone()).or_default();
            let facts = Facts {
                me: &self.me,
                record: found.map(|(record, _)| record),
                here: here.verify.as_ref(),
                schedule: schedule.as_ref(),
                now: unix_seconds(SystemTime::now()),
                since,
                acted: done.acted,
                refused: done.refused.as_deref(),
                // JSON readers lose more than 53 bits.
                fresh_id: rand::random::<u64>() >> 11,
            };
            let (now, next) = (facts.now, step(&facts));
            if next != Step::Wait {
                done.acted = now;
                done.refused =
                    self.carry_out(&group, &name, found.map_or(0, |(_, at)| *at), next).await.err();
            }
        }
    }

    /// Tells the replicator here which resyncs stand still, whatever its role: it may lead next.
    async fn pause(&self, wanted: &BTreeMap<VolumeName, (PauseRecord, i64)>) {
        let tell: Vec<(VolumeName, bool)> =
            self.status.borrow().groups.iter().flat_map(|g| to_tell(wanted, &g.volumes)).collect();
        for (volume, paused) in tell {
            // Repeated in the next round; a replicator that cannot do it says so in its own log.
            if let Err(error) = self.replica.pause_resync(&volume, paused).await {
                tracing::debug!(%volume, paused, error = %chain(&error), "not told");
            }
        }
    }

    fn leads(&self, group: &GroupName) -> bool {
        self.status.borrow().groups.iter().any(|g| g.name == *group && g.leader.as_ref() == Some(&self.me))
    }

    async fn carry_out(
        &self,
        group: &GroupName,
        volume: &VolumeName,
        at: i64,
        next: Step,
    ) -> Result<(), String> {
        let event = |severity, text: &str| self.history.record(Some(group), severity, text);
        match next {
            Step::Wait => {}
            Step::Begin(request) => {
                self.replica.verify(volume, &request).await.map_err(|e| chain(&e))?;
                let repair = if request.repair { ", and what differs is repaired" } else { "" };
                event(Severity::Info, &format!("verify of volume {volume} begins{repair}"));
            }
            Step::Stop => self.replica.stop_verify(volume).await.map_err(|e| chain(&e))?,
            Step::Ask(record) | Step::Report(record) => {
                let outcome = self.etcd.put_verify(volume, &record, at).await;
                if let (Outcome::Committed { .. }, false, Some(status)) =
                    (outcome, record.is_open(), &record.status)
                {
                    let (severity, text) = told(volume, &self.me, status);
                    event(severity, &text);
                }
            }
        }
        Ok(())
    }
}

/// How an ended verify is told.
fn told(volume: &VolumeName, primary: &NodeName, v: &VerifyStatus) -> (Severity, String) {
    let reason = v.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
    let (compared, took) = (v.checked_bytes, Duration::from_millis(v.took_ms / 1000 * 1000));
    let took = humantime::format_duration(took);
    let differed = match (v.mismatched_bytes, v.repaired_bytes) {
        (0, 0) => "nothing differed".to_owned(),
        (found, repaired) => format!("{found} bytes differed, {repaired} were copied from {primary}"),
    };
    let (word, severity) = match v.state {
        VerifyState::Done if unmended(v) => ("ended", Severity::Warning),
        VerifyState::Done => ("ended", Severity::Info),
        VerifyState::Stopped => ("was stopped", Severity::Info),
        VerifyState::Running | VerifyState::Waiting | VerifyState::Aborted => {
            ("was aborted", Severity::Warning)
        }
    };
    let what = format!("{compared} bytes compared in {took}, {differed}");
    (severity, format!("verify of volume {volume} {word}{reason}: {what}"))
}

/// Something differs and has not been copied.
fn unmended(v: &VerifyStatus) -> bool {
    v.mismatched_bytes > v.repaired_bytes
}

/// What people see of a record.
fn show(record: &VerifyRecord) -> VerifyStatus {
    let time = |s: u64| rfc3339(UNIX_EPOCH + Duration::from_secs(s));
    let unbegun = || VerifyStatus {
        id: record.id,
        repair: record.repair,
        state: VerifyState::Waiting,
        reason: Some("the primary has not begun yet".into()),
        ..VerifyStatus::default()
    };
    VerifyStatus {
        by: Some(record.by.clone()),
        asked_at: Some(time(record.asked_at)),
        ended_at: record.ended_at.map(time),
        ..record.status.clone().unwrap_or_else(unbegun)
    }
}

/// Puts the verifies into the snapshot, and advice for what they found. What the local replicator knows is newer.
pub(super) fn put_into(status: &mut ClusterStatus, shown: &Shown) {
    for volume in status.groups.iter_mut().flat_map(|g| &mut g.volumes) {
        if volume.resync_paused {
            status.advice.push(format!(
                "Resync of volume {0} is paused: a replica that is not in sync stays so and cannot take over. 'baton \
                 volume resume-sync {0}' lets it go on.",
                volume.volume
            ));
        }
        let Some(known) = shown.get(&volume.volume) else { continue };
        let here = volume.verify.take().filter(|here| here.id == known.id);
        let (by, asked_at, ended_at) = (known.by.clone(), known.asked_at.clone(), known.ended_at.clone());
        let newest = here.map(|here| VerifyStatus { by, asked_at, ended_at, ..here });
        let verify = newest.unwrap_or_else(|| known.clone());
        if !verify.state.is_running() && unmended(&verify) {
            let peers: Vec<&str> = verify.peers.iter().map(NodeName::as_str).collect();
            status.advice.push(format!(
                "Volume {0}: verify found {1} bytes that differ on {2}; 'baton volume verify {0} --repair' copies them \
                 from the primary. Look at the disks' health first: if the primary's is the one that errs, move the \
                 group before.",
                volume.volume,
                verify.mismatched_bytes - verify.repaired_bytes,
                peers.join(", ")
            ));
        }
        volume.verify = Some(verify);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    fn verify(id: u64, state: VerifyState, found: u64, repaired: u64) -> VerifyStatus {
        let peers = vec![NodeName::new("beta").unwrap()];
        let (mismatched_bytes, repaired_bytes) = (found, repaired);
        VerifyStatus { id, state, peers, mismatched_bytes, repaired_bytes, ..VerifyStatus::default() }
    }

    #[test]
    fn every_agent_shows_the_record_and_the_primary_what_it_knows_itself() {
        let name = VolumeName::new("webstore").unwrap();
        let record = VerifyRecord {
            id: 5,
            by: "schedule".into(),
            asked_at: 0,
            status: Some(verify(5, VerifyState::Running, 0, 0)),
            ..VerifyRecord::default()
        };
        let shown = Shown::from([(name, show(&record))]);
        let mut status = fixture::healthy();
        put_into(&mut status, &shown);
        let seen = status.groups[0].volumes[0].verify.clone().expect("shown");
        assert_eq!((seen.id, seen.by.as_deref()), (5, Some("schedule")));
        assert_eq!(seen.asked_at.as_deref(), Some("1970-01-01T00:00:00.000Z"));
        // The replicator here is further on; one of another run is old.
        for (id, found) in [(5, 4096), (4, 0)] {
            let mut status = fixture::healthy();
            status.groups[0].volumes[0].verify = Some(verify(id, VerifyState::Done, 4096, 0));
            put_into(&mut status, &shown);
            let seen = status.groups[0].volumes[0].verify.clone().expect("shown");
            assert_eq!((seen.id, seen.mismatched_bytes), (5, found));
            assert_eq!(status.advice.iter().any(|a| a.contains("verify webstore --repair")), found > 0);
        }
    }

    #[test]
    fn a_pause_is_not_forgotten() {
        let mut status = fixture::healthy();
        let before = status.advice.len();
        put_into(&mut status, &Shown::new());
        assert_eq!(status.advice.len(), before);
        status.groups[0].volumes[0].resync_paused = true;
        put_into(&mut status, &Shown::new());
        assert!(status.advice.iter().any(|a| a.contains("volume resume-sync webstore")));
    }

    #[test]
    fn an_end_is_told_with_its_weight() {
        let volume = VolumeName::new("webstore").unwrap();
        let primary = NodeName::new("alpha").unwrap();
        for (status, severity, words) in [
            (verify(1, VerifyState::Done, 0, 0), Severity::Info, "nothing differed"),
            (verify(1, VerifyState::Done, 4096, 0), Severity::Warning, "4096 bytes differed"),
            (verify(1, VerifyState::Done, 4096, 4096), Severity::Info, "4096 were copied from alpha"),
            (verify(1, VerifyState::Aborted, 0, 0), Severity::Warning, "was aborted"),
        ] {
            let (found, text) = told(&volume, &primary, &status);
            assert!(found == severity && text.contains(words), "{text}");
        }
    }
}
