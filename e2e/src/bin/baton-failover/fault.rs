//! What strikes the host that serves: the same four things for every candidate, from outside.

use crate::candidate::Peer;
use crate::site::Site;
use anyhow::Result;
use baton_e2e::config::GROUP;
use baton_e2e::{docker, faults, shell};
use rustix::process::Signal;
use std::time::Instant;

/// A fault, or a wish.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Fault {
    /// All that runs on the host ends at once.
    Power,
    /// Its only network link is down; all runs on.
    Cable,
    /// What decides is killed, and started again by the engine's restart policy; the services run on.
    Daemon,
    /// A person has it moved, by the candidate's own command.
    Move,
}

impl Fault {
    /// In the order of the tables.
    pub const ALL: [Self; 4] = [Self::Power, Self::Cable, Self::Daemon, Self::Move];

    /// As it is called on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Power => "power",
            Self::Cable => "cable",
            Self::Daemon => "daemon",
            Self::Move => "move",
        }
    }

    /// For the tables.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Power => "power cut",
            Self::Cable => "pulled cable",
            Self::Daemon => "daemon killed",
            Self::Move => "planned move",
        }
    }

    /// The service must go to the other host.
    pub const fn moves(self) -> bool {
        !matches!(self, Self::Daemon)
    }
}

/// Strikes `victim`; says when, to be counted from. A pulled cable is put back when its guard is dropped; what else there
/// is to undo, [`Site::settle`] does.
///
/// # Errors
/// If it could not.
pub fn strike(site: &Site, fault: Fault, victim: &str) -> Result<(Instant, Option<faults::CableCut>)> {
    match fault {
        Fault::Power => Ok((power_cut(site, victim)?, None)),
        Fault::Cable => {
            let cut = faults::cut_cable(&site.cluster, victim)?;
            Ok((cut.at, Some(cut)))
        }
        Fault::Daemon => {
            let pids = docker::processes(&site.daemon(victim)?)?;
            let at = Instant::now();
            faults::signal(&pids, Signal::KILL);
            Ok((at, None))
        }
        Fault::Move => {
            let at = Instant::now();
            ask_to_move(site, victim)?;
            Ok((at, None))
        }
    }
}

/// A host without power answers no ARP. Its kernel here would, until the engine has removed its namespace some 200 ms
/// later, longer than some candidates take: so its link goes down with its processes.
fn power_cut(site: &Site, victim: &str) -> Result<Instant> {
    let link = faults::link_of(&site.cluster, victim)?;
    let mut pids = Vec::new();
    for container in docker::of_host(&site.cluster.config, victim)?.iter().filter(|c| c.running) {
        pids.extend(docker::processes(container)?);
    }
    let at = Instant::now();
    faults::signal(&pids, Signal::STOP);
    shell::run(&["ip", "link", "set", &link, "down"])?;
    faults::power_cut(&site.cluster, victim)?;
    Ok(at)
}

fn ask_to_move(site: &Site, victim: &str) -> Result<()> {
    let other = site.cluster.config.other(victim);
    match site.candidate.peer() {
        None => site.cluster.baton(&["move", GROUP, "--to", &other]).map(drop),
        // Its way is to stop the daemon, which says so to the others.
        Some(Peer::Keepalived) => shell::run(&["docker", "stop", &site.daemon(victim)?.name]).map(drop),
        Some(Peer::Pacemaker) => {
            site.within(victim, &["crm_resource", "--resource", "vip", "--move", "--node", &other]).map(drop)
        }
        Some(Peer::Heartbeat) => site.within(victim, &["/usr/share/heartbeat/hb_standby", "all"]).map(drop),
    }
}
