//! What the engine runs for the cluster: containers by host and role, and the few commands the faults need.
//!
//! Containers are found by label, never by a list of names, so that a container an agent made a moment ago
//! dies with its host like everything else.

use crate::config::Config;
use crate::shell;
use anyhow::{Context, Result, anyhow};
use serde_json::Value;

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Holds the host's network namespace and nothing else.
    Namespace,
    /// An etcd member.
    Etcd,
    /// `baton-replicator`.
    Replicator,
    /// `baton-agent`.
    Agent,
    /// Started by an agent.
    Service,
    /// Of the project, but no part of a host (Prometheus).
    Other,
}

/// A mount of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Path inside.
    pub inside: String,
    /// Path on the machine.
    pub outside: String,
    /// Docker volume, if it is one.
    pub volume: Option<String>,
}

/// A container of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Full id.
    pub id: String,
    /// Name without the slash.
    pub name: String,
    /// Image it runs.
    pub image: String,
    /// Label `baton.host`.
    pub host: Option<String>,
    /// Label `baton.service`.
    pub service: Option<String>,
    /// See [`Role`].
    pub role: Role,
    /// It runs.
    pub running: bool,
    /// Process id of its init on the machine, 0 if it does not run.
    pub pid: u32,
    /// What is mounted where.
    pub mounts: Vec<Mount>,
}

/// All containers of the cluster, running or not, by name.
///
/// # Errors
/// If the engine does not answer.
pub fn containers(config: &Config) -> Result<Vec<Container>> {
    let mut ids = String::new();
    for label in [
        format!("baton.cluster={}", config.cluster),
        format!("com.docker.compose.project={}", config.project),
    ] {
        ids += &shell::run(&["docker", "ps", "-aq", "--no-trunc", "--filter", &format!("label={label}")])?;
    }
    let mut ids: Vec<_> = ids.lines().collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    // A container that vanished in between makes the exit code 1; the others are still printed.
    let argv: Vec<_> = ["docker", "inspect"].into_iter().chain(ids).collect();
    let text = shell::try_run(shell::LONG, &argv)?.stdout;
    let all: Vec<Value> = serde_json::from_str(&text).context("output of docker inspect")?;
    let mut containers: Vec<_> = all.iter().filter_map(container).collect();
    containers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(containers)
}

fn container(v: &Value) -> Option<Container> {
    let text = |p: &str| v.pointer(p).and_then(Value::as_str).unwrap_or_default().to_owned();
    let label =
        |name: &str| v["Config"]["Labels"][name].as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    let name = text("/Name").trim_start_matches('/').to_owned();
    let host = label("baton.host");
    let service = label("baton.service");
    let shares_namespace = text("/HostConfig/NetworkMode").starts_with("container:");
    // The Compose service names the part; its container's name is made of it in one of several ways.
    let part = label("com.docker.compose.service").unwrap_or_else(|| name.clone());
    let role = role(&part, host.is_some(), service.is_some(), shares_namespace);
    let mounts = v["Mounts"].as_array().into_iter().flatten().map(|m| Mount {
        inside: m["Destination"].as_str().unwrap_or_default().to_owned(),
        outside: m["Source"].as_str().unwrap_or_default().to_owned(),
        volume: m["Name"].as_str().map(str::to_owned),
    });
    Some(Container {
        id: v["Id"].as_str()?.to_owned(),
        image: text("/Config/Image"),
        running: v["State"]["Running"].as_bool().unwrap_or(false),
        pid: v["State"]["Pid"].as_u64().and_then(|p| u32::try_from(p).ok()).unwrap_or(0),
        mounts: mounts.collect(),
        name,
        host,
        service,
        role,
    })
}

fn role(part: &str, on_a_host: bool, service: bool, shares_namespace: bool) -> Role {
    match () {
        () if service => Role::Service,
        () if part.contains("etcd") => Role::Etcd,
        () if !on_a_host => Role::Other,
        () if part.contains("replicator") => Role::Replicator,
        () if part.contains("agent") => Role::Agent,
        () if shares_namespace => Role::Other,
        () => Role::Namespace,
    }
}

/// The containers of one host, all of them, in the order in which power comes back: namespace, etcd,
/// replicator, agent.
///
/// # Errors
/// As [`containers`].
pub fn of_host(config: &Config, host: &str) -> Result<Vec<Container>> {
    let mut mine: Vec<_> =
        containers(config)?.into_iter().filter(|c| c.host.as_deref() == Some(host)).collect();
    mine.sort_by_key(|c| c.role);
    Ok(mine)
}

/// The one container of a host that has this role.
///
/// # Errors
/// As [`containers`], or if there is none.
pub fn part(config: &Config, host: &str, role: Role) -> Result<Container> {
    let found = of_host(config, host)?.into_iter().find(|c| c.role == role);
    found.ok_or_else(|| anyhow!("host {host} has no {role:?} container in project {}", config.project))
}

/// One engine command for several containers at once, e.g. `["kill", "-s", "KILL"]`. Nothing for none.
///
/// # Errors
/// If the engine refuses it for one of them.
pub fn all(command: &[&str], containers: &[Container]) -> Result<()> {
    if containers.is_empty() {
        return Ok(());
    }
    let mut argv = vec!["docker"];
    argv.extend(command);
    argv.extend(containers.iter().map(|c| c.id.as_str()));
    shell::run(&argv).map(drop)
}

/// The engine stops and starts a host's container with this role.
///
/// # Errors
/// As [`part`] and [`all`].
pub fn restart(config: &Config, host: &str, role: Role) -> Result<()> {
    all(&["restart"], &[part(config, host, role)?])
}

/// Process ids (as the machine sees them) of everything in a container. From the kernel where its control groups name the
/// container, for asking the engine costs a program's start each time.
///
/// # Errors
/// If the container does not run.
pub fn processes(container: &Container) -> Result<Vec<i32>> {
    let found = in_group_of(&container.id);
    if !found.is_empty() {
        return Ok(found);
    }
    let text = shell::run(&["docker", "top", &container.id, "-eo", "pid"])?;
    Ok(text.lines().filter_map(|l| l.trim().parse().ok()).collect())
}

/// Processes whose control group's name holds this id.
fn in_group_of(id: &str) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let groups = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    pids.filter(|pid| groups(pid).contains(id)).collect()
}

/// The newest log lines of a container, both streams.
#[must_use]
pub fn log_tail(container: &str, lines: u32) -> String {
    let lines = lines.to_string();
    match shell::try_run(shell::LONG, &["docker", "logs", "--tail", &lines, container]) {
        Ok(output) => output.text(),
        Err(error) => format!("(no log: {error:#})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn roles_from_what_compose_and_the_agent_call_things() {
        assert_eq!(role("alpha-etcd", true, false, false), Role::Etcd);
        assert_eq!(role("witness-etcd", false, false, false), Role::Etcd);
        assert_eq!(role("alpha", true, false, false), Role::Namespace);
        assert_eq!(role("alpha-agent", true, false, true), Role::Agent);
        assert_eq!(role("alpha-replicator", true, false, true), Role::Replicator);
        assert_eq!(role("e2e-alpha-web-mariadb", true, true, true), Role::Service);
        assert_eq!(role("prometheus", false, false, false), Role::Other);
    }

    #[test]
    fn processes_of_a_control_group() {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        // Some line that names a group: every process of it is found, this one with them.
        let line = own.lines().next().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(in_group_of(line).contains(&me), "{own}");
        assert!(in_group_of("no group is called so").is_empty());
    }

    #[test]
    fn inspect_output_is_read() {
        let v = json!({
            "Id": "abc", "Name": "/baton-e2e-alpha-agent", "State": { "Running": true, "Pid": 42 },
            "Config": { "Image": "baton", "Labels": { "baton.host": "alpha", "baton.service": "" } },
            "HostConfig": { "NetworkMode": "container:xyz" },
            "Mounts": [{ "Destination": "/var/lib/baton", "Source": "/v/_data", "Name": "state" }],
        });
        let c = container(&v).unwrap();
        assert_eq!((c.role, c.pid, c.service, c.host.as_deref()), (Role::Agent, 42, None, Some("alpha")));
        assert_eq!(c.mounts[0].volume.as_deref(), Some("state"));
    }
}
