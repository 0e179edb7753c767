//! The cluster under test: asking it, waiting for it, commanding it, and making it whole again.

use crate::config::{API_PORT, Config, GROUP, output_dir};
use crate::docker::{self, Role};
use crate::faults;
use crate::http;
use crate::identity::{Identity, handed_out};
use crate::retry;
use crate::shell::{self, Output};
use crate::status::{Status, View};
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longest wait for an agent's answer. It answers from memory, so this is reached only by one that hangs.
const ASK: Duration = Duration::from_millis(800);
/// What must answer is asked again for so long: a shared machine stands still for a second or two now and then.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the CLI says if etcd did not answer an agent in time: whoever typed the command would do so.
const AGAIN: &str = "then try again";
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

    /// `GET` on the agent of a host that is up: asked until it answers, whatever it is.
    ///
    /// # Errors
    /// If it does not answer within ten seconds.
    pub fn ask(&self, host: &str, path: &str) -> Result<http::Answer> {
        retry::until_ok(PATIENCE, LOOK, || self.ask_once(host, path))
    }

    fn ask_once(&self, host: &str, path: &str) -> Result<http::Answer> {
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

    /// One agent's snapshot, of one that is there: asked for until it answers.
    ///
    /// # Errors
    /// If it does not answer 200 with JSON within ten seconds.
    pub fn status(&self, host: &str) -> Result<Status> {
        retry::until_ok(PATIENCE, LOOK, || self.look(host))
    }

    /// One agent's snapshot, asked for once.
    ///
    /// # Errors
    /// If it does not answer 200 with JSON in time.
    pub fn look(&self, host: &str) -> Result<Status> {
        let answer = self.ask_once(host, "/v1/status")?;
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
                self.config.hosts.iter().map(|h| (h, scope.spawn(|| self.look(&h.name).ok()))).collect();
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

    /// Runs the CLI beside a host's agent; again, as it says, if etcd did not answer in time.
    ///
    /// # Errors
    /// If the host has no agent container or the command hangs.
    pub fn baton_at(&self, host: &str, args: &[&str]) -> Result<Output> {
        let end = Instant::now() + PATIENCE;
        let agent = docker::part(&self.config, host, Role::Agent)?;
        let argv: Vec<_> =
            ["docker", "exec", &agent.name, "baton"].into_iter().chain(args.iter().copied()).collect();
        loop {
            let output = shell::try_run(shell::LONG, &argv)?;
            let repeat = output.code == Some(1) && output.stderr.contains(AGAIN);
            if !repeat || Instant::now() >= end {
                return Ok(output);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
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
        let mut command = vec!["docker", "exec", &member.name, "etcdctl", "--command-timeout=15s"];
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
        let end = Instant::now() + limit;
        // An agent that does not answer at once may still be the one that knows.
        self.wait_for("nobody's word about nodes and the group", limit, |view| {
            for host in view.of.keys() {
                if view.of(host)?.node(host)["mode"] != "online" {
                    self.mode(host, "online");
                    return Err(format!("{host} was not online"));
                }
            }
            for (word, taken_back) in [("disabled", "enable"), ("pinned", "unpin")] {
                if view.of.keys().any(|h| view.of(h).is_ok_and(|s| !s.group()[word].is_null())) {
                    self.baton(&["group", taken_back, GROUP]).unwrap_or_else(|e| panic!("{e:#}"));
                    return Err(format!("the group was {word}"));
                }
            }
            Ok(())
        });
        self.wait_healthy(end.saturating_duration_since(Instant::now()))
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
        faults::thaw(&all.iter().filter(|c| c.running).cloned().collect::<Vec<_>>());
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
