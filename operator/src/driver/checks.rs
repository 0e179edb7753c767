//! The groups' own health checks: HTTP, TCP and commands in a container, made while the group serves here.
//!
//! A check counts only after it has succeeded once since the group began to serve: a slow first start is the start
//! timeout's business. Every failure beyond `retries` in a row is reported; what follows is the runtime's decision.

use super::owner::Back;
use crate::docker::{self, Engine};
use crate::spec::{Check, CheckProbe, Group};
use crate::status::{ClusterStatus, GroupState};
use baton_replicator::types::{GroupName, NodeName};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Starts a task per check. They end when aborted, or with the process.
pub(super) fn start(
    group: &GroupName,
    spec: &Group,
    me: &NodeName,
    engine: &Engine,
    status: &watch::Receiver<ClusterStatus>,
    back: &mpsc::Sender<Back>,
) -> Vec<JoinHandle<()>> {
    let start = |check: &Check| {
        let task = Task {
            group: group.clone(),
            me: me.clone(),
            check: check.clone(),
            address: spec.addresses.first().map(|a| a.address),
            engine: engine.clone(),
            status: status.clone(),
            back: back.clone(),
        };
        tokio::spawn(task.run())
    };
    spec.checks.iter().map(start).collect()
}

struct Task {
    group: GroupName,
    me: NodeName,
    check: Check,
    address: Option<std::net::IpAddr>,
    engine: Engine,
    status: watch::Receiver<ClusterStatus>,
    back: mpsc::Sender<Back>,
}

impl Task {
    async fn run(self) {
        let mut every = tokio::time::interval(self.check.interval);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut succeeded = false;
        let mut failed: u32 = 0;
        loop {
            every.tick().await;
            if !self.serves_here() {
                (succeeded, failed) = (false, 0);
                crate::metrics::live().check_ended(self.group.as_str(), &self.name());
                continue;
            }
            let outcome = self.once().await;
            if !self.serves_here() {
                continue;
            }
            crate::metrics::live().check(self.group.as_str(), &self.name(), outcome.is_ok());
            match outcome {
                Ok(()) => (succeeded, failed) = (true, 0),
                Err(reason) if succeeded => {
                    failed += 1;
                    tracing::warn!(group = %self.group, failed, "check failed: {reason}");
                    if failed >= self.check.retries.max(1) {
                        let what = self.check.service.clone().unwrap_or_else(|| self.name());
                        failed = 0;
                        let _ = self.back.send(Back::CheckFailed(self.group.clone(), what)).await;
                    }
                }
                Err(reason) => tracing::debug!(group = %self.group, "check not good yet: {reason}"),
            }
        }
    }

    fn name(&self) -> String {
        match &self.check.probe {
            CheckProbe::Http { url, .. } => format!("check {url}"),
            CheckProbe::Tcp { address } => format!("check {address}"),
            CheckProbe::Exec { service, .. } => format!("check in {service}"),
        }
    }

    fn serves_here(&self) -> bool {
        let status = self.status.borrow();
        let group = status.groups.iter().find(|g| g.name == self.group);
        group.is_some_and(|g| g.leader.as_ref() == Some(&self.me) && g.state == GroupState::Serving)
    }

    async fn once(&self) -> Result<(), String> {
        let timeout = self.check.timeout;
        let check = match &self.check.probe {
            CheckProbe::Http { url, status } => {
                docker::Check::Http { url: url.clone(), status: status.clone(), timeout }
            }
            CheckProbe::Tcp { address } => docker::Check::Tcp { address: address.clone(), timeout },
            CheckProbe::Exec { service, command } => {
                let container = self.engine.owner().container_name(self.group.as_str(), service);
                let ran = self.engine.exec(&container, command, timeout).await.map_err(|e| e.to_string())?;
                let said = ran.output.trim();
                return if ran.exit_code == 0 {
                    Ok(())
                } else {
                    Err(format!("exit {}: {said}", ran.exit_code))
                };
            }
        };
        let check = self.address.map_or(check.clone(), |address| check.at(address));
        docker::run_check(&check).await.map_err(|e| e.to_string())
    }
}
