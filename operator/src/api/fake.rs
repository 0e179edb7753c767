//! A driver for tests of the API and of its client.

use super::{
    Accepted, Applied, Apply, ApplyError, CommandError, Commands, How, ModeChange, PlaceChange, Resolve,
    Restore, SpecDocument, SpecVersion, Wish,
};
use crate::cli::fixture;
use crate::core::record::ModeWish;
use crate::fence::Action;
use crate::notify::TestOutcome;
use crate::spec::{Change, Impact, Spec};
use crate::status::Event;
use baton_replicator::api::ExportStatus;
use baton_replicator::types::{GroupName, NodeName, VolumeName};
use futures::future::{BoxFuture, FutureExt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::broadcast;

/// Records calls; answers as it is told.
pub(crate) struct Fake {
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) answer: Mutex<Option<CommandError>>,
    pub(crate) hang: AtomicBool,
    pub(crate) alive: AtomicBool,
    pub(crate) live: broadcast::Sender<Event>,
    /// Entries after those of the fixture.
    pub(crate) recorded: Mutex<Vec<Event>>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            calls: Mutex::default(),
            answer: Mutex::default(),
            hang: AtomicBool::new(false),
            alive: AtomicBool::new(true),
            live: broadcast::channel(8).0,
            recorded: Mutex::default(),
        }
    }
}

impl Fake {
    fn record(&self, call: String, how: How) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        async move {
            let call = if how.dry_run { format!("dry: {call}") } else { call };
            let call = how.expected.map_or(call.clone(), |version| format!("{call} at {version}"));
            self.calls.lock().unwrap().push(call.clone());
            if self.hang.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            match self.answer.lock().unwrap().clone() {
                Some(error) => Err(error),
                None => Ok(Accepted { message: call, dry_run: how.dry_run, consequences: Vec::new() }),
            }
        }
        .boxed()
    }
}

impl Commands for Fake {
    fn set_mode(
        &self,
        node: NodeName,
        change: ModeChange,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        let ModeChange { mode, by, owner, reason, until } = change;
        let by = if by == "anybody" { String::new() } else { format!(" by {by}") };
        let owner = owner.map(|o| format!(" for {o}")).unwrap_or_default();
        let reason = reason.map(|r| format!(": {r}")).unwrap_or_default();
        let until = if until.is_some() { " with an end" } else { "" };
        self.record(format!("{node} {mode:?}{until}{by}{owner}{reason}"), how)
    }
    fn move_group(
        &self,
        group: GroupName,
        to: Option<NodeName>,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        self.record(format!("move {group} {to:?}"), how)
    }
    fn place_group(
        &self,
        group: GroupName,
        change: PlaceChange,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        let PlaceChange { what, owner, reason, .. } = change;
        let owner = owner.map(|o| format!(" for {o}")).unwrap_or_default();
        let reason = reason.map(|r| format!(": {r}")).unwrap_or_default();
        self.record(format!("{group} {what:?}{owner}{reason}"), how)
    }
    fn recover(&self, group: GroupName, how: How) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        self.record(format!("recover {group}"), how)
    }
    fn restore(
        &self,
        group: GroupName,
        request: Restore,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        let off: Vec<&str> = request.off.iter().map(|n| n.as_str()).collect();
        let loss = if request.accept_data_loss { " accepting loss" } else { "" };
        self.record(format!("restore {group} off [{}]{loss}", off.join(", ")), how)
    }
    fn write_back(&self, by: String, how: How) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        self.record(format!("write back by {by}"), how)
    }
    fn events(&self, last: usize) -> BoxFuture<'_, Result<Vec<Event>, CommandError>> {
        let mut all = fixture::history();
        all.extend(self.recorded.lock().unwrap().iter().cloned());
        async move { Ok(all[all.len().saturating_sub(last)..].to_vec()) }.boxed()
    }
    fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.live.subscribe()
    }
    fn spec(&self) -> BoxFuture<'_, Result<SpecDocument, CommandError>> {
        async { Ok(SpecDocument { text: "cluster: demo\n".into(), version: 12 }) }.boxed()
    }
    fn core_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }
    fn mode(&self, _: NodeName) -> BoxFuture<'_, Result<Wish<ModeWish>, CommandError>> {
        async { Ok(Wish { value: ModeWish::default(), version: 17 }) }.boxed()
    }
    fn target(&self, _: GroupName) -> BoxFuture<'_, Result<Wish<Option<NodeName>>, CommandError>> {
        async { Ok(Wish { value: None, version: 23 }) }.boxed()
    }
    fn cancel_move(&self, group: GroupName, how: How) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        self.record(format!("cancel {group}"), how)
    }
    fn verify(
        &self,
        volume: VolumeName,
        repair: bool,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        self.record(format!("verify {volume} {repair}"), how)
    }
    fn resolve(
        &self,
        volume: VolumeName,
        request: Resolve,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        self.record(format!("resolve {volume} {} {}", request.discard, request.snapshot), how)
    }
    fn release(
        &self,
        volume: VolumeName,
        snapshot: String,
        node: Option<NodeName>,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        self.record(format!("release {volume} {snapshot} {node:?}"), how)
    }
    fn fence(
        &self,
        node: NodeName,
        action: Action,
        who: String,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        self.record(format!("fence {node} {} for {who}", action.word()), how)
    }
    fn fence_test(&self) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        self.record("fence test".into(), How::default())
    }
    fn stop_verify(&self, volume: VolumeName, how: How) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        self.record(format!("stop verify {volume}"), how)
    }
    fn pause_resync(
        &self,
        volume: VolumeName,
        paused: bool,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        self.record(format!("pause resync of {volume} {paused}"), how)
    }
    fn export(&self, volume: VolumeName) -> BoxFuture<'_, Result<ExportStatus, CommandError>> {
        async move {
            self.record(format!("export {volume}"), How::default()).await?;
            Ok(ExportStatus { uri: format!("nbd+unix:///{volume}?socket=/run/x"), ..ExportStatus::default() })
        }
        .boxed()
    }
    fn end_export(&self, volume: VolumeName) -> BoxFuture<'_, Result<(), CommandError>> {
        async move { self.record(format!("end export {volume}"), How::default()).await.map(drop) }.boxed()
    }

    /// Version 12 is in force; a text with `refuse` in it is refused, one with `cluster: 9!` is not valid.
    fn apply_spec(&self, apply: Apply) -> BoxFuture<'_, Result<Applied, ApplyError>> {
        async move {
            self.calls
                .lock()
                .unwrap()
                .push(format!("apply {:?} {} {}", apply.expected, apply.dry_run, apply.message));
            if apply.expected.is_some_and(|v| v != 12) {
                return Err(ApplyError::Changed { expected: apply.expected.unwrap_or(0), current: 12 });
            }
            let refused = apply.text.contains("refuse");
            let change = Change {
                path: "groups.web.services.apache".into(),
                what: "environment (A changed) of service apache".into(),
                consequence: "restarts apache on alpha; moves nothing".into(),
                impact: Impact::Interrupts,
                refused,
            };
            if refused && !apply.dry_run {
                return Err(ApplyError::Refused { current: 12, changes: vec![change] });
            }
            if apply.text.contains("9!") {
                return Err(ApplyError::Invalid(
                    Spec::parse(&apply.text, |_| None).expect_err("is not valid"),
                ));
            }
            let version = if apply.dry_run { 12 } else { 13 };
            Ok(Applied { version, previous: 12, applied: !apply.dry_run, changes: vec![change] })
        }
        .boxed()
    }
    fn spec_history(&self) -> BoxFuture<'_, Result<Vec<SpecVersion>, CommandError>> {
        let entry = |version, message: &str| SpecVersion {
            version,
            at: "2026-01-02T03:04:05.000Z".into(),
            by: "anna".into(),
            from: "10.0.0.9".into(),
            message: message.into(),
            text: format!("cluster: demo # {version}\n"),
        };
        async move { Ok(vec![entry(7, "first"), entry(12, "more memory")]) }.boxed()
    }
    fn notify_test(&self, target: Option<String>) -> BoxFuture<'_, Result<Vec<TestOutcome>, CommandError>> {
        let answer = self.record(format!("notify test {target:?}"), How::default());
        async move {
            answer.await?;
            let outcome = |target: &str, error: Option<&str>| TestOutcome {
                target: target.into(),
                channel: "mail to sip@tholdi.com via smtp://mail:25".into(),
                delivered: error.is_none(),
                error: error.map(Into::into),
            };
            Ok(match target.as_deref() {
                Some("broken") => vec![outcome("broken", Some("mail:25: connection refused"))],
                _ => vec![outcome("operators", None)],
            })
        }
        .boxed()
    }
}
