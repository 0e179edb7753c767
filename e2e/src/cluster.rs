//! The cluster under test: asking it, waiting for it, commanding it, and making it whole again.

use crate::config::{API_PORT, Config, GROUP, output_dir};
use crate::docker::{self, Role};
use crate::faults;
use crate::http;
use crate::identity::{Identity, handed_out};
use crate::shell::{self, Output};
use crate::status::{Status, View};
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longest wait for an agent's answer. It answers from memory, so this is reached only by one that hangs.
const ASK: Duration = Duration::from_millis(800);
/// Between two looks of a wait; a look costs two requests.
const LOOK: Duration = Duration::from_millis(50);
/// Bound of "the cluster is whole again": a power-on, initdead (10 s), a full resync of the demo volume and the
/// start of the services, several times over.
pub const WHOLE: Duration = Duration::from_secs(90);

/// The cluster under test.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its names and addresses.
    pub config: Config,
}

impl Cluster {
    /// Where a host's agent answers.
    #[must_use]
    pub fn api(&self, host: &str) -> SocketAddr {
        (self.config.host(host).address, API_PORT).into()
    }

    /// `GET` on a host's agent.
    ///
    /// # Errors
    /// If it does not answer in time.
    pub fn ask(&self, host: &str, path: &str) -> Result<http::Answer> {
        let answer = self.ask_as(self.admin()?, host, "GET", path, None, &[]);
        answer.with_context(|| format!("GET {path} at {host}"))
    }

    /// Any request to a host's agent, as whoever is given.
    ///
    /// # Errors
    /// If it does not answer in time, or the connection is refused.
    pub fn ask_as(
        &self,
        identity: &Identity,
        host: &str,
        method: &str,
        path: &str,
        json: Option<&str>,
        headers: &[&str],
    ) -> Result<http::Answer> {
        Ok(http::secure(identity, self.api(host), method, path, json, headers, (ASK, ASK))?)
    }

    /// The administrator that the cluster's script hands out; read once.
    fn admin(&self) -> Result<&'static Identity> {
        static ADMIN: OnceLock<Result<Identity, String>> = OnceLock::new();
        let load =
            || Identity::load(&handed_out(&self.config.project), Some("admin")).map_err(|e| format!("{e:#}"));
        ADMIN.get_or_init(load).as_ref().map_err(|e| anyhow::anyhow!("{e}"))
    }

    /// One agent's snapshot.
    ///
    /// # Errors
    /// If it does not answer 200 with JSON in time.
    pub fn status(&self, host: &str) -> Result<Status> {
        let answer = self.ask(host, "/v1/status")?;
        if answer.status != 200 {
            bail!("/v1/status at {host} answered {}: {}", answer.status, answer.text());
        }
        Ok(Status(serde_json::from_slice(&answer.body).with_context(|| format!("status of {host}"))?))
    }

    /// All agents' snapshots, asked at the same time.
    #[must_use]
    pub fn view(&self) -> View {
        std::thread::scope(|scope| {
            let asked: Vec<_> =
                self.config.hosts.iter().map(|h| (h, scope.spawn(|| self.status(&h.name).ok()))).collect();
            View { of: asked.into_iter().map(|(h, t)| (h.name.clone(), t.join().ok().flatten())).collect() }
        })
    }

    /// Waits until `look` is content with what the agents say and returns what it made of it.
    ///
    /// # Panics
    /// If it is not content in time: with what was missing and the last snapshots.
    pub fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&View) -> Result<T, String>,
    ) -> T {
        let end = Instant::now() + limit;
        loop {
            let view = self.view();
            match look(&view) {
                Ok(found) => return found,
                Err(missing) if Instant::now() >= end => {
                    panic!("after {limit:?} still not: {what}. {missing}\n{}", view.print())
                }
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    /// Waits until the cluster is healthy and the page and the database answer; returns the leader.
    ///
    /// # Panics
    /// As [`Cluster::wait_for`].
    #[must_use]
    pub fn wait_healthy(&self, limit: Duration) -> String {
        self.wait_for("a healthy cluster", limit, |view| {
            let leader = view.healthy()?;
            let page = http::get(self.config.at_vip(80), &self.config.probe_path, ASK, ASK);
            let page = page.map_err(|e| format!("the page at the VIP: {e}"))?;
            if page.status != 200 || page.header("x-served-by") != Some(leader) {
                return Err(format!(
                    "the page answers {} from {:?}",
                    page.status,
                    page.header("x-served-by")
                ));
            }
            let database = std::net::TcpStream::connect_timeout(&self.config.at_vip(3306), ASK);
            database.map_err(|e| format!("MariaDB at the VIP: {e}"))?;
            Ok(leader.to_owned())
        })
    }

    /// Runs the CLI beside a host's agent.
    ///
    /// # Errors
    /// If the host has no agent container or the command hangs.
    pub fn baton_at(&self, host: &str, args: &[&str]) -> Result<Output> {
        let agent = docker::part(&self.config, host, Role::Agent)?;
        let argv: Vec<_> =
            ["docker", "exec", &agent.name, "baton"].into_iter().chain(args.iter().copied()).collect();
        shell::try_run(shell::LONG, &argv)
    }

    /// Runs a CLI command that must succeed, at whichever host is up.
    ///
    /// # Errors
    /// What the last host that was tried said.
    pub fn baton(&self, args: &[&str]) -> Result<String> {
        let mut refused = String::from("no host has a running agent");
        for host in &self.config.hosts {
            match self.baton_at(&host.name, args) {
                Ok(output) if output.code == Some(0) => return Ok(output.text()),
                Ok(output) => refused = output.text(),
                Err(error) => refused = format!("{error:#}"),
            }
        }
        bail!("'baton {}': {}", args.join(" "), refused.trim())
    }

    /// Runs etcd's own tool beside a member of etcd, as an operator would.
    ///
    /// # Errors
    /// It fails, or the member is not up.
    pub fn etcdctl(&self, member: &str, args: &[&str]) -> Result<String> {
        let member = docker::part(&self.config, member, Role::Etcd)?;
        let mut command = vec!["docker", "exec", &member.name, "etcdctl", "--command-timeout=3s"];
        command.extend(args);
        shell::run(&command)
    }

    /// Sets a node's mode by the command an operator would type.
    ///
    /// # Panics
    /// If it is refused everywhere.
    pub fn mode(&self, host: &str, mode: &str) {
        self.baton(&[mode, host]).unwrap_or_else(|e| panic!("{e:#}"));
    }

    /// Asks for the group to move to `host`.
    ///
    /// # Panics
    /// If it is refused everywhere.
    pub fn move_to(&self, host: &str) {
        self.baton(&["move", GROUP, "--to", host]).unwrap_or_else(|e| panic!("{e:#}"));
    }

    /// Undoes every fault this suite knows and a person's word about nodes and the group, starts what does not run, and waits for
    /// health. Returns the leader.
    ///
    /// # Panics
    /// As [`Cluster::heal_within`], with [`WHOLE`].
    #[must_use]
    pub fn heal(&self) -> String {
        self.heal_within(WHOLE)
    }

    /// As [`Cluster::heal`], with another bound for becoming healthy.
    ///
    /// # Panics
    /// If there is no such cluster, or it does not become healthy in time.
    #[must_use]
    pub fn heal_within(&self, limit: Duration) -> String {
        self.mend().unwrap_or_else(|e| panic!("cannot undo the faults: {e:#}"));
        let asleep = |view: &View| {
            let off = |h: &&String| view.of(h).is_ok_and(|s| s.node(h)["mode"] != "online");
            view.of.keys().find(off).cloned()
        };
        while let Some(host) = asleep(&self.view()) {
            self.mode(&host, "online");
            self.wait_for("mode online", Duration::from_secs(10), |v| {
                if v.of(&host)?.node(&host)["mode"] == "online" {
                    Ok(())
                } else {
                    Err(format!("{host} is not"))
                }
            });
        }
        for (word, taken_back) in [("disabled", "enable"), ("pinned", "unpin")] {
            let view = self.view();
            if view.of.keys().any(|h| view.of(h).is_ok_and(|s| !s.group()[word].is_null())) {
                self.baton(&["group", taken_back, GROUP]).unwrap_or_else(|e| panic!("{e:#}"));
            }
        }
        self.wait_healthy(limit)
    }

    /// Undoes every fault this suite knows and starts what does not run; waits for nothing.
    ///
    /// # Errors
    /// If there is no such cluster, or the engine refuses something, perhaps because an agent changes the same.
    pub fn mend(&self) -> Result<()> {
        let all = docker::containers(&self.config)?;
        if !all.iter().any(|c| c.role == Role::Agent) {
            bail!("project {} has no agents: bring the cluster up with 'make test'", self.config.project);
        }
        faults::thaw(&all.iter().filter(|c| c.running).cloned().collect::<Vec<_>>())?;
        // Those of the hosts come with their host's power; the witness has nothing else.
        let elsewhere =
            |c: &docker::Container| !self.config.hosts.iter().any(|h| c.host.as_ref() == Some(&h.name));
        let down = all.into_iter().filter(|c| c.role == Role::Etcd && !c.running && elsewhere(c));
        docker::all(&["start"], &down.collect::<Vec<_>>())?;
        for host in &self.config.hosts {
            faults::power_on(self, &host.name)?;
            faults::mend_links(self, &host.name)?;
        }
        Ok(())
    }

    /// Leaves what is known about a failure in `target/e2e/<name>.log` and says so.
    pub fn diagnose(&self, name: &str) {
        let mut text = self.view().print();
        for c in docker::containers(&self.config).unwrap_or_default() {
            let log = docker::log_tail(&c.id, 300);
            text += &format!("--- {} ({:?}, running: {}) ---\n{log}\n", c.name, c.role, c.running);
        }
        let path = output_dir().join("e2e").join(format!("{}.log", name.replace(' ', "-")));
        let _ = std::fs::create_dir_all(output_dir().join("e2e"));
        match std::fs::write(&path, text) {
            Ok(()) => println!("    statuses and logs of all containers: {}", path.display()),
            Err(error) => println!("    could not write {}: {error}", path.display()),
        }
    }
}
