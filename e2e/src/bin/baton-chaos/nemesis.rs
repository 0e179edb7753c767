//! Carries the faults out, and undoes them. What it cannot undo, `Cluster::mend` does.

use crate::plan::{Kind, On, Strike};
use anyhow::{Context, Result, bail};
use baton_e2e::cluster::Cluster;
use baton_e2e::config::GROUP;
use baton_e2e::docker::{self, Container, Role};
use baton_e2e::{faults, shell};
use rustix::process::Signal;
use std::any::Any;
use std::time::{Duration, Instant};

/// An engine that is stopped gives its containers this long, in seconds.
const ENGINE_STOPS: &str = "5";
/// What fills a volume.
const FILLING: &str = "/var/lib/mysql/chaos-filling";
/// Parts are looked for this long: an earlier fault may have them started again just now.
const FOUND: Duration = Duration::from_secs(10);

/// How a fault is undone.
pub enum Undo {
    /// It was over at once.
    Over,
    /// By its guard.
    Dropped(Box<dyn Any>),
    /// These hosts are switched on.
    PowerOn(Vec<String>),
    /// These containers are started.
    Start(Vec<Container>),
    /// What fills the volume of this container is removed.
    Remove(String),
}

/// Who is who at the moment.
#[derive(Clone, Debug)]
pub struct Roles {
    /// Who serves, or did so last.
    pub leader: String,
    /// The other one.
    pub standby: String,
}

impl Roles {
    /// The hosts that a fault strikes.
    pub fn hosts(&self, on: On) -> Vec<&str> {
        match on {
            On::Leader => vec![self.leader.as_str()],
            On::Standby => vec![self.standby.as_str()],
            On::Cluster => vec![self.leader.as_str(), self.standby.as_str()],
        }
    }
}

/// Strikes; says what is to be done to undo it.
///
/// # Errors
/// If it could not: the host is off, a part does not run.
pub fn strike(cluster: &Cluster, strike: &Strike, roles: &Roles) -> Result<Undo> {
    let host = if strike.on == On::Standby { &roles.standby } else { &roles.leader };
    let peer = cluster.config.host(&cluster.config.other(host)).address;
    let guard = |g: Box<dyn Any>| Undo::Dropped(g);
    Ok(match strike.kind {
        Kind::AgentKilled => kill(cluster, host, Role::Agent)?,
        Kind::ReplicatorKilled => kill(cluster, host, Role::Replicator)?,
        Kind::WorkerKilled => {
            faults::signal(&[worker(cluster, host)?], Signal::KILL);
            Undo::Over
        }
        Kind::AgentRestarted => restart(cluster, host, Role::Agent)?,
        Kind::ReplicatorRestarted => restart(cluster, host, Role::Replicator)?,
        Kind::AgentFrozen => guard(Box::new(faults::freeze(&[part(cluster, host, Role::Agent)?])?)),
        Kind::ReplicatorFrozen => guard(Box::new(faults::freeze(&[part(cluster, host, Role::Replicator)?])?)),
        Kind::HostFrozen => guard(Box::new(faults::freeze(&running(cluster, host)?)?)),
        Kind::PowerCut => {
            faults::power_cut(cluster, host)?;
            Undo::PowerOn(vec![host.clone()])
        }
        Kind::SitePowerCut => {
            let hosts: Vec<String> = roles.hosts(On::Cluster).into_iter().map(str::to_owned).collect();
            for each in &hosts {
                faults::power_cut(cluster, each)?;
            }
            Undo::PowerOn(hosts)
        }
        Kind::CablePulled => guard(Box::new(faults::cut_cable(cluster, host)?)),
        Kind::Partition => guard(Box::new(faults::block_address(cluster, host, peer)?)),
        Kind::OneWay => guard(Box::new(faults::deaf_to(cluster, host, peer)?)),
        Kind::HeartbeatsCut => guard(Box::new(faults::block_heartbeats(cluster, host)?)),
        Kind::HeartbeatsOneWay => guard(Box::new(faults::deaf_to_heartbeats(cluster, host)?)),
        Kind::ReplicationCut => guard(Box::new(faults::block_replication(cluster, host)?)),
        Kind::EtcdUnreachable => guard(Box::new(faults::block_etcd(cluster, host)?)),
        Kind::EtcdMemberDown => {
            let member = member(cluster, strike.pick)?;
            docker::all(&["kill", "-s", "KILL"], std::slice::from_ref(&member))?;
            Undo::Start(vec![member])
        }
        Kind::EtcdMemberFrozen => guard(Box::new(faults::freeze(&[member(cluster, strike.pick)?])?)),
        Kind::EtcdDown => guard(Box::new(faults::etcd_down(cluster)?)),
        Kind::DiskFull => fill(cluster, host)?,
        Kind::EngineRestarted => {
            let all = running(cluster, host)?;
            docker::all(&["stop", "-t", ENGINE_STOPS], &all)?;
            Undo::PowerOn(vec![host.clone()])
        }
        Kind::Moved => {
            cluster.baton(&["move", GROUP, "--to", &cluster.config.other(host)])?;
            Undo::Over
        }
    })
}

impl Undo {
    /// Undoes it.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn now(self, cluster: &Cluster) -> Result<()> {
        match self {
            Self::Over => {}
            Self::Dropped(guard) => drop(guard),
            Self::PowerOn(hosts) => {
                for host in hosts {
                    faults::power_on(cluster, &host)?;
                }
            }
            Self::Start(containers) => docker::all(&["start"], &containers)?,
            Self::Remove(id) => empty(&id)?,
        }
        Ok(())
    }
}

/// A running container of a host.
fn part(cluster: &Cluster, host: &str, role: Role) -> Result<Container> {
    let end = Instant::now() + FOUND;
    loop {
        let found = docker::part(&cluster.config, host, role)?;
        if found.running && found.pid > 0 {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("the {role:?} of {host} does not run");
        }
    }
}

fn running(cluster: &Cluster, host: &str) -> Result<Vec<Container>> {
    Ok(docker::of_host(&cluster.config, host)?.into_iter().filter(|c| c.running).collect())
}

/// The container's first process dies, and all of it; the engine's restart policy starts it again.
fn kill(cluster: &Cluster, host: &str, role: Role) -> Result<Undo> {
    let pid = part(cluster, host, role)?.pid;
    faults::signal(&[i32::try_from(pid)?], Signal::KILL);
    Ok(Undo::Over)
}

fn restart(cluster: &Cluster, host: &str, role: Role) -> Result<Undo> {
    docker::restart(&cluster.config, host, role)?;
    Ok(Undo::Over)
}

/// The only child of the replicator's holder.
fn worker(cluster: &Cluster, host: &str) -> Result<i32> {
    let holder = part(cluster, host, Role::Replicator)?.pid;
    let children = std::fs::read_to_string(format!("/proc/{holder}/task/{holder}/children"))?;
    let worker = children.split_whitespace().next().context("the replicator has no worker")?;
    Ok(worker.parse()?)
}

/// One of the members of etcd that run.
fn member(cluster: &Cluster, pick: usize) -> Result<Container> {
    let all = docker::containers(&cluster.config)?;
    let mut up: Vec<_> = all.into_iter().filter(|c| c.role == Role::Etcd && c.running).collect();
    if up.is_empty() {
        bail!("no member of etcd runs");
    }
    Ok(up.swap_remove(pick % up.len()))
}

/// Takes all that ordinary users may still take; the space is reserved, and nothing is written.
fn fill(cluster: &Cluster, host: &str) -> Result<Undo> {
    let all = running(cluster, host)?;
    let holds_data = |c: &&Container| c.mounts.iter().any(|m| FILLING.starts_with(&m.inside));
    let database = all.iter().filter(|c| c.role == Role::Service).find(holds_data);
    let database = database.with_context(|| format!("no service of {host} has the volume"))?.clone();
    let script = format!(
        "fallocate -l $(df -B1 --output=avail /var/lib/mysql | tail -n 1) {FILLING} && sync -f {FILLING}"
    );
    shell::run(&["docker", "exec", "-u", "root", &database.id, "sh", "-c", &script])?;
    Ok(Undo::Remove(database.id))
}

fn empty(id: &str) -> Result<()> {
    shell::run(&["docker", "exec", "-u", "root", id, "rm", "-f", FILLING]).map(drop)
}

/// Removes a filling that another fault kept from being removed, on whichever host serves now.
///
/// # Errors
/// If its database does not run.
pub fn empty_volume(cluster: &Cluster, leader: &str) -> Result<()> {
    let all = running(cluster, leader)?;
    let with_volume =
        |c: &&Container| c.role == Role::Service && c.mounts.iter().any(|m| FILLING.starts_with(&m.inside));
    empty(&all.iter().find(with_volume).context("the database does not run")?.id)
}
