//! Two hosts that run a candidate. They are containers of one Compose project with the demo's labels, whoever keeps
//! them alive, so that the suite's faults strike all in the same way.

use crate::candidate::{Candidate, Peer};
use anyhow::{Context, Result, bail};
use baton_e2e::cluster::Cluster;
use baton_e2e::config::Config;
use baton_e2e::docker::{self, Container, Role};
use baton_e2e::{faults, http, shell};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// What is asked for: a static file.
pub const PATH: &str = "/healthz";
/// Bound of being whole again: a boot, Heartbeat's initdead (20 s) and a resync, several times over.
const WHOLE: Duration = Duration::from_secs(150);
/// Peers do not say when they are ready: this long nothing may have changed. Longer than VRRP's default silence.
const STEADY: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);
const ASK: Duration = Duration::from_millis(500);

/// A running candidate.
#[derive(Clone, Debug)]
pub struct Site {
    /// Names and addresses.
    pub cluster: Cluster,
    /// What runs there.
    pub candidate: Candidate,
}

impl Site {
    /// The one that the environment names.
    pub fn of(candidate: Candidate) -> Self {
        Self { cluster: Cluster { config: Config::from_env() }, candidate }
    }

    /// What decides on a host.
    ///
    /// # Errors
    /// If the host has none.
    pub fn daemon(&self, host: &str) -> Result<Container> {
        if self.candidate.peer().is_none() {
            return docker::part(&self.cluster.config, host, Role::Agent);
        }
        let of_host = docker::of_host(&self.cluster.config, host)?;
        let found = of_host.into_iter().find(|c| c.name.ends_with("-daemon"));
        found.with_context(|| format!("{host} has no daemon"))
    }

    /// Runs a command of a peer beside its daemon.
    ///
    /// # Errors
    /// If it fails.
    pub fn within(&self, host: &str, argv: &[&str]) -> Result<String> {
        let name = self.daemon(host)?.name;
        shell::run(&[&["docker", "exec", &name][..], argv].concat())
    }

    /// Undoes whatever was done, and waits until both hosts are up and one serves. Says which.
    ///
    /// # Errors
    /// What is missing after two and a half minutes.
    pub fn settle(&self) -> Result<String> {
        let end = Instant::now() + WHOLE;
        let mut mended = false;
        loop {
            // While an agent changes the same containers the engine may refuse; then again.
            mended = mended || self.mend().is_ok();
            let found =
                if self.candidate.peer().is_some() { self.peer_serves() } else { self.baton_serves() };
            match found {
                Ok(host) if mended => return Ok(host),
                Ok(_) => {}
                Err(why) if Instant::now() >= end => bail!("not whole after {WHOLE:?}: {why:#}"),
                Err(_) => {}
            }
            std::thread::sleep(LOOK);
        }
    }

    fn mend(&self) -> Result<()> {
        let config = &self.cluster.config;
        if self.candidate.peer().is_none() {
            return self.cluster.mend();
        }
        for host in &config.hosts {
            // In the order of a boot: the namespace first.
            for container in docker::of_host(config, &host.name)? {
                if !container.running {
                    docker::all(&["start"], &[container])?;
                }
            }
            faults::mend_links(&self.cluster, &host.name)?;
        }
        if self.candidate.peer() == Some(Peer::Pacemaker) {
            // What a move left behind would draw the address back. Where nothing was moved there is nothing to clear.
            let _ = self.within(&config.hosts[0].name, &["crm_resource", "--resource", "vip", "--clear"]);
        }
        Ok(())
    }

    fn baton_serves(&self) -> Result<String> {
        let view = self.cluster.view();
        let leader = view.healthy().map_err(anyhow::Error::msg)?;
        if self.answers().as_deref() != Some(leader) {
            bail!("{leader} leads and does not answer");
        }
        if self.candidate.data() {
            TcpStream::connect_timeout(&self.cluster.config.at_vip(3306), ASK).context("MariaDB")?;
        }
        Ok(leader.to_owned())
    }

    fn peer_serves(&self) -> Result<String> {
        for host in &self.cluster.config.hosts {
            self.peer_ready(&host.name).with_context(|| host.name.clone())?;
        }
        let holder = self.only_holder()?;
        let end = Instant::now() + STEADY;
        while Instant::now() < end {
            if self.answers().as_deref() != Some(holder.as_str()) {
                bail!("{holder} has the address and does not answer");
            }
            std::thread::sleep(LOOK);
        }
        if self.only_holder()? != holder {
            bail!("the address moves");
        }
        Ok(holder)
    }

    /// Its own words for "this node sees both, and nothing is on its way".
    fn peer_ready(&self, host: &str) -> Result<()> {
        let ask = |line: &str| self.within(host, &["sh", "-c", line]).map(drop);
        match self.candidate.peer() {
            None | Some(Peer::Keepalived) => ask("true"),
            Some(Peer::Pacemaker) => ask("crm_mon --one-shot | grep -q 'Online: \\[ alpha beta \\]' && \
                     crm_resource --resource vip --locate 2>&1 | grep -q 'running on'"),
            Some(Peer::Heartbeat) => ask("test \"$(cl_status nodestatus alpha)\" = active && \
                                          test \"$(cl_status nodestatus beta)\" = active && \
                                          ! cl_status rscstatus | grep -q transition"),
        }
    }

    fn only_holder(&self) -> Result<String> {
        let mut holders = Vec::new();
        for host in &self.cluster.config.hosts {
            let addresses = faults::in_namespace(&self.cluster, &host.name, &["ip", "-4", "-o", "address"])?;
            if addresses.contains(&format!(" {}/", self.cluster.config.vip)) {
                holders.push(host.name.clone());
            }
        }
        match holders.as_slice() {
            [one] => Ok(one.clone()),
            _ => bail!("the address is on {holders:?}"),
        }
    }

    /// Who answers at the address.
    fn answers(&self) -> Option<String> {
        let answer = http::get(self.cluster.config.at_vip(80), PATH, ASK, ASK).ok()?;
        (answer.status == 200).then(|| answer.header("x-served-by").map(str::to_owned)).flatten()
    }

    /// What the program calls itself.
    pub fn version(&self) -> String {
        let host = &self.cluster.config.hosts[0].name;
        let said = |argv: &[&str]| {
            let name = self.daemon(host).map(|c| c.name).unwrap_or_default();
            let output = shell::try_run(shell::LONG, &[&["docker", "exec", &name][..], argv].concat());
            let text = output.map(|o| o.text()).unwrap_or_default();
            text.lines().find(|l| !l.trim().is_empty()).unwrap_or("?").trim().to_owned()
        };
        match self.candidate.peer() {
            None => said(&["baton", "--version"]),
            Some(Peer::Keepalived) => said(&["keepalived", "--version"]),
            Some(Peer::Pacemaker) => {
                format!("{}, {}", said(&["pacemakerd", "--version"]), said(&["corosync", "-v"]))
            }
            Some(Peer::Heartbeat) => {
                format!("Heartbeat {}", said(&["/usr/libexec/heartbeat/heartbeat", "-V"]))
            }
        }
    }
}
