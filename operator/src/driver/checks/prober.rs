//! Making a check: which probe it is, where it goes, and what it needs between two attempts.

use crate::core::checks::Outcome;
use crate::docker::{self, Engine, Liveness};
use crate::probe::{self, Errand, Sql, Write, short};
use crate::spec::{Check, CheckProbe};
use baton_replicator::types::GroupName;
use std::net::IpAddr;

/// What a check needs between two attempts.
pub(super) struct Prober {
    engine: Engine,
    container: String,
    key: String,
    errand: Errand,
    write: Option<Write>,
}

impl Prober {
    pub(super) fn of(check: &Check, group: &GroupName, i: usize, engine: &Engine) -> Self {
        let service = check.service.as_deref().unwrap_or_default();
        let container = engine.owner().container_name(group.as_str(), service);
        let write = match &check.probe {
            CheckProbe::Write { path, min_free, .. } => {
                Some(Write::new(container.clone(), path.display().to_string(), *min_free))
            }
            _ => None,
        };
        // A row for each: what one writes no other may overwrite before it is read back.
        let key = format!("{i} {group}");
        Self { engine: engine.clone(), container, key, errand: Errand::default(), write }
    }

    /// Makes it once, within its bound.
    pub(super) async fn once(&mut self, check: &Check, address: Option<IpAddr>) -> Outcome {
        let timeout = check.timeout;
        match &check.probe {
            CheckProbe::Http { url, status } => {
                let http = docker::Check::Http { url: url.clone(), status: status.clone(), timeout };
                from_outside(http, address).await
            }
            CheckProbe::Tcp { address: to } => {
                from_outside(docker::Check::Tcp { address: to.clone(), timeout }, address).await
            }
            CheckProbe::Exec { command, .. } => {
                match self.engine.exec(&self.container, command, timeout).await {
                    Ok(ran) if ran.exit_code == 0 => Outcome::Good,
                    Ok(ran) => Outcome::Bad(short(&format!("exit {}: {}", ran.exit_code, ran.output))),
                    Err(error) => probe::unanswered(&self.engine, error).await,
                }
            }
            CheckProbe::Sql { address: to, user, password_file, database, statement } => {
                let sql = Sql {
                    address: address.map_or(to.clone(), |a| docker::at(to, a)),
                    user: user.clone(),
                    password_file: password_file.clone(),
                    database: database.clone(),
                    statement: statement.clone(),
                    key: self.key.clone(),
                };
                let token = rand::random();
                self.errand.run(timeout, move || probe::sql(&sql, token, timeout)).await
            }
            CheckProbe::Docker { .. } => {
                let found = self.engine.inspect(&self.container).await;
                health(found.liveness, found.health, found.health_output.or(found.error))
            }
            CheckProbe::Write { .. } => match &mut self.write {
                Some(write) => probe::write(write, &self.engine, rand::random(), timeout).await,
                None => Outcome::Unknown("nothing to write".into()),
            },
            CheckProbe::Ping { address, .. } => {
                let (address, token) = (*address, rand::random());
                // The thread's own bound is the same: it is not left alone without need.
                let patience = timeout + super::LEAST;
                self.errand.run(patience, move || probe::ping(address, token, timeout)).await
            }
        }
    }
}

async fn from_outside(check: docker::Check, address: Option<IpAddr>) -> Outcome {
    let check = address.map_or(check.clone(), |address| check.at(address));
    match docker::run_check(&check).await {
        Ok(()) => Outcome::Good,
        Err(error) => Outcome::Bad(error.to_string()),
    }
}

/// The engine's word for a container's health, as the outcome of a check.
pub(super) fn health(liveness: Liveness, health: Option<docker::Health>, said: Option<String>) -> Outcome {
    let because = |what: &str| match &said {
        Some(said) if !said.trim().is_empty() => short(&format!("{what}: {said}")),
        Some(_) | None => what.to_owned(),
    };
    match (liveness, health) {
        (Liveness::Unknown, _) => Outcome::Unknown(because("the Docker engine does not answer")),
        (Liveness::Stopped, _) => Outcome::Bad(because("the container does not run")),
        (Liveness::Running, None | Some(docker::Health::Healthy)) => Outcome::Good,
        (Liveness::Running, Some(docker::Health::Starting)) => Outcome::Unknown("it is not known yet".into()),
        (Liveness::Running, Some(docker::Health::Unhealthy)) => Outcome::Bad(because("unhealthy")),
    }
}
