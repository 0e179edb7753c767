//! What goes into a support bundle, and where it comes from. Every question is bounded; one that fails is noted.

use super::archive::Texts;
use super::redact;
use crate::api::SpecDocument;
use crate::cli::client::ApiClient;
use crate::cli::{docker, format};
use crate::docker::{LABEL_CLUSTER, LABEL_HOST};
use crate::replica::ReplicaClient;
use crate::status::{ClusterStatus, Event};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder, LogsOptionsBuilder};
use futures::StreamExt;
use std::path::Path;
use std::time::Duration;

/// An agent that needs longer is named as one that did not answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The whole log of one container.
const LOG: Duration = Duration::from_secs(15);
/// Containers of one host; a host with more of ours is not one we know.
const CONTAINERS_MAX: usize = 100;
/// The history keeps fewer.
const EVENTS: usize = 1000;
/// Bytes of one container's log that are taken in; the end is what goes into the archive.
const LOG_MAX: usize = 16 << 20;

/// What the agents say: the status of every one that answers, events, specification, metrics.
/// Returns values that must not appear anywhere.
pub(super) async fn agents(client: &ApiClient, texts: &mut Texts) -> (Option<ClusterStatus>, Vec<String>) {
    let mut secrets = Vec::new();
    let first: Option<ClusterStatus> = match bounded(client.get("/v1/status")).await {
        Ok(status) => Some(status),
        Err(why) => {
            texts.add("agents", Err(why));
            None
        }
    };
    let Some(first) = first else { return (None, secrets) };
    texts.add(format!("agents/{}/status.json", first.node), Ok(format::json(&first)));
    texts.add(format!("agents/{}/metrics.txt", first.node), metrics(client).await);
    for node in first.nodes.iter().filter(|n| n.name != first.node) {
        let name = &node.name;
        let Some(other) = client.beside(&node.address) else {
            texts.add(format!("agents/{name}"), Err("its address is none".into()));
            continue;
        };
        match bounded(other.get::<ClusterStatus>("/v1/status")).await {
            Ok(status) => {
                texts.add(format!("agents/{name}/status.json"), Ok(format::json(&status)));
                texts.add(format!("agents/{name}/metrics.txt"), metrics(&other).await);
            }
            Err(why) => texts.add(format!("agents/{name}"), Err(why)),
        }
    }
    let events = bounded(client.get::<Vec<Event>>(&format!("/v1/events?n={EVENTS}"))).await;
    texts.add("events.json", events.map(|e| format::json(&e)));
    match bounded(client.get::<SpecDocument>("/v1/spec")).await {
        Ok(document) => {
            let (text, values) = redact::specification(&document.text);
            secrets.extend(values);
            texts.add("spec.yaml", Ok(format!("# version {}\n{text}", document.version)));
        }
        Err(why) => texts.add("spec.yaml", Err(why)),
    }
    (Some(first), secrets)
}

async fn bounded<T>(asked: impl Future<Output = Result<T, crate::cli::exit::CliError>>) -> Result<T, String> {
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.message),
        Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
    }
}

async fn metrics(client: &ApiClient) -> Result<String, String> {
    let asked = async {
        let answer = client.follow("/metrics").await.map_err(|e| e.message)?;
        answer.text().await.map_err(|e| e.to_string())
    };
    tokio::time::timeout(ANSWER, asked).await.unwrap_or_else(|_| Err("no answer in time".into()))
}

/// What this host's replicator says.
pub(super) async fn replicator(run_dir: &Path, texts: &mut Texts) {
    let replica = ReplicaClient::new(run_dir.join("replicator.sock"));
    let status = replica.status(0, Duration::ZERO).await;
    texts.add("host/replicator.json", status.map(|s| format::json(&s)).map_err(|e| e.to_string()));
}

/// What was found among the containers.
#[derive(Default)]
pub(super) struct Containers {
    /// Values of their environments that a name calls secret.
    pub secrets: Vec<String>,
    /// What they are called, and their images: no secrets.
    pub names: Vec<String>,
}

/// Containers of this host that are Baton's or that it started, and the ends of their logs.
pub(super) async fn containers(url: &str, lines: usize, texts: &mut Texts) -> Containers {
    let mut found = Containers::default();
    let listed = async {
        let docker = docker::connect(url).await?;
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let all = docker::bounded(docker.list_containers(Some(options))).await?;
        Ok::<_, String>((docker, all))
    };
    let (docker, all) = match listed.await {
        Ok(listed) => listed,
        Err(why) => {
            texts.add("containers", Err(format!("the Docker engine at {url} does not answer: {why}")));
            return found;
        }
    };
    let mut list = String::new();
    let mut chosen = Vec::new();
    for container in &all {
        let name =
            container.names.iter().flatten().next().map_or("", |n| n.trim_start_matches('/')).to_owned();
        let image = container.image.clone().unwrap_or_default();
        let labels = container.labels.clone().unwrap_or_default();
        let ours = labels.contains_key(LABEL_CLUSTER)
            || labels.contains_key(LABEL_HOST)
            || image.contains("baton")
            || name.contains("baton");
        if ours {
            let status = container.status.clone().unwrap_or_default();
            list.push_str(&format!("{name}  {image}  {status}\n"));
            found.names.extend([name.clone(), image]);
            chosen.push((name, container.id.clone().unwrap_or_default()));
        }
    }
    let others = all.len() - chosen.len();
    list.push_str(&format!("and {others} containers that are none of Baton's\n"));
    texts.add("containers/list.txt", Ok(list));
    for (name, id) in chosen.into_iter().take(CONTAINERS_MAX) {
        let inspected = docker::bounded(docker.inspect_container(&id, None::<InspectContainerOptions>)).await;
        let environment = inspected.ok().and_then(|c| c.config).and_then(|c| c.env).unwrap_or_default();
        found.secrets.extend(environment.iter().filter_map(|pair| secret_value(pair)));
        texts.add(format!("containers/{name}.log"), log(&docker, &id, lines).await);
    }
    found
}

/// The value of `NAME=value` if the name calls it secret and it is no path.
fn secret_value(pair: &str) -> Option<String> {
    let (name, value) = pair.split_once('=')?;
    (redact::is_secret(name) && !value.starts_with('/')).then(|| value.to_owned())
}

async fn log(docker: &bollard::Docker, id: &str, lines: usize) -> Result<String, String> {
    let options = LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .timestamps(true)
        .tail(&lines.to_string())
        .build();
    let mut stream = docker.logs(id, Some(options));
    let mut text = Vec::new();
    let read = async {
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|e| e.to_string())?;
            text.extend_from_slice(&piece.into_bytes());
            if text.len() > LOG_MAX {
                break;
            }
        }
        Ok::<_, String>(())
    };
    let ended = tokio::time::timeout(LOG, read).await;
    match ended {
        Ok(Err(why)) if text.is_empty() => Err(why),
        Err(_) if text.is_empty() => Err(format!("no answer within {} s", LOG.as_secs())),
        _ => Ok(String::from_utf8_lossy(&text).into_owned()),
    }
}

/// What this host's kernel says: addresses, mounts of loop devices and of Baton, load, memory, disks.
pub(super) fn host(texts: &mut Texts) {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|e| e.to_string());
    texts.add("host/ip-address.txt", command("ip", &["address"]));
    texts.add("host/ip-route.txt", command("ip", &["route", "show", "table", "all"]));
    texts.add("host/disks.txt", command("df", &["-h"]));
    let mounts = read("/proc/self/mountinfo").map(|text| {
        let ours =
            |line: &&str| line.contains("/dev/loop") || line.contains("baton") || line.contains("fuse");
        text.lines().filter(ours).map(|l| format!("{l}\n")).collect::<String>()
    });
    texts.add("host/mounts.txt", mounts);
    let mut loops = String::new();
    for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Ok(file) = std::fs::read_to_string(entry.path().join("loop/backing_file")) {
            loops.push_str(&format!("{name}  {}\n", file.trim_end()));
        }
    }
    texts.add("host/loop-devices.txt", Ok(loops));
    for (name, path) in [
        ("kernel", "/proc/version"),
        ("load", "/proc/loadavg"),
        ("uptime", "/proc/uptime"),
        ("memory", "/proc/meminfo"),
        ("pressure-io", "/proc/pressure/io"),
        ("pressure-cpu", "/proc/pressure/cpu"),
    ] {
        texts.add(format!("host/{name}.txt"), read(path));
    }
}

/// A command of the system; none of them waits for anything.
fn command(program: &str, arguments: &[&str]) -> Result<String, String> {
    let run = std::process::Command::new("timeout")
        .arg("5")
        .arg(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .output();
    match run {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program} cannot be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::secret_value;

    #[test]
    fn environments_give_their_secrets_and_not_their_paths() {
        assert_eq!(secret_value("MYSQL_ROOT_PASSWORD=x1").as_deref(), Some("x1"));
        assert_eq!(secret_value("SIGNING_KEY=abc").as_deref(), Some("abc"));
        assert_eq!(secret_value("BATON_SECRET_FILE=/etc/baton/secret"), None);
        assert_eq!(secret_value("PATH=/usr/bin"), None);
        assert_eq!(secret_value("BATON_LOG=info"), None);
    }
}
