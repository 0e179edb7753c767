//! The command line `baton`: a client of the agents' API.
//!
//! Rendering is pure (`status_page`, `volume_page`, `events_page`, held by golden files); this file runs the
//! commands. It keeps no state: all it shows comes from one agent's snapshot, all it does is a call to the API.

pub mod args;
mod client;
mod events_page;
mod exit;
#[cfg(test)]
pub(crate) mod fixture;
mod moving;
mod output;
pub mod paint;
mod status_page;
mod volume_page;
mod watch;
pub mod words;

pub use client::ApiClient;
pub use events_page::render_event;
pub use exit::{CliError, EXIT_HELP, Exit};
pub use moving::{Handover, Progress};
pub use status_page::{render as render_status, render_group};
pub use volume_page::{render_list, render_show, sync_bar};

use crate::api::{Accepted, SpecDocument};
use crate::spec::Spec;
use crate::status::{ClusterStatus, Event, GroupStatus, Health, NodeMode};
use args::{Cli, Command, MoveArgs, SpecCommand, VolumeCommand};
use baton_replicator::api::VolumeStatus;
use baton_replicator::types::{BadName, GroupName, NodeName, VolumeName};
use clap::CommandFactory;
use events_page::SseReader;
use paint::Paint;
use reqwest::Method;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use tokio::time::Instant;

/// Port of the agents' API (DESIGN: processes and ports of a host).
const AGENT_PORT: u16 = 7480;
/// Step of looking again while waiting for a handover: ten looks in the 1.5 s that it may take.
const LOOK: Duration = Duration::from_millis(150);
/// Pause before a broken event stream is opened again.
const RECONNECT: Duration = Duration::from_secs(1);

/// Runs one command.
///
/// # Errors
/// [`CliError`] with the exit code, what happened and what to do next.
pub async fn run(cli: Cli) -> Result<Exit, CliError> {
    let paint = Paint::for_stdout();
    let client = || ApiClient::new(&cli.api);
    match cli.command {
        Command::Status { json } => {
            let status: ClusterStatus = client()?.get("/v1/status").await?;
            print(&if json { as_json(&status) } else { status_page::render(&status, paint) })?;
            Ok(match status.health {
                Health::Ok => Exit::Ok,
                Health::Degraded => Exit::Degraded,
                Health::Down => Exit::Down,
            })
        }
        Command::Watch { interval, count } => watch::run(&client()?, interval, count, paint).await,
        Command::Move(args) => move_group(&client()?, args).await,
        Command::Standby { node } => set_mode(&client()?, &node, NodeMode::Standby).await,
        Command::Online { node } => set_mode(&client()?, &node, NodeMode::Online).await,
        Command::Maintenance { node } => set_mode(&client()?, &node, NodeMode::Maintenance).await,
        Command::Recover { group } => recover(&client()?, &group).await,
        Command::Volume(VolumeCommand::List { json }) => {
            let volumes: Vec<VolumeStatus> = client()?.get("/v1/volumes").await?;
            print(&if json { as_json(&volumes) } else { volume_page::render_list(&volumes, paint) })
        }
        Command::Volume(VolumeCommand::Show { name, json }) => {
            let name = VolumeName::new(name).map_err(bad_name)?;
            let volume: VolumeStatus = client()?.get(&format!("/v1/volumes/{name}")).await?;
            print(&if json { as_json(&volume) } else { volume_page::render_show(&volume, paint) })
        }
        Command::Events { n, follow, json } => events(&client()?, n, follow, json, paint).await,
        Command::Spec(SpecCommand::Show { json }) => {
            let document: SpecDocument = client()?.get("/v1/spec").await?;
            print(&if json { as_json(&document) } else { document.text })
        }
        Command::Check { file } => check(&file),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "baton", &mut text);
            print(&String::from_utf8_lossy(&text))
        }
        Command::Man { dir: Some(dir) } => {
            let written =
                std::fs::create_dir_all(&dir).and_then(|()| clap_mangen::generate_to(Cli::command(), &dir));
            let shown = dir.display();
            written.map_err(|e| CliError::new(Exit::Failed, format!("cannot write to {shown}: {e}"), ""))?;
            Ok(Exit::Ok)
        }
        Command::Man { dir: None } => {
            let mut text = Vec::new();
            let rendered = clap_mangen::Man::new(Cli::command()).render(&mut text);
            rendered
                .map_err(|e| CliError::new(Exit::Failed, format!("cannot render the manual: {e}"), ""))?;
            print(&String::from_utf8_lossy(&text))
        }
    }
}

async fn set_mode(client: &ApiClient, node: &str, mode: NodeMode) -> Result<Exit, CliError> {
    let node = NodeName::new(node).map_err(bad_name)?;
    let body = serde_json::json!({ "mode": mode });
    let accepted: Accepted = client.command(Method::PUT, &format!("/v1/nodes/{node}/mode"), &body).await?;
    print(&format!("{}\n", accepted.message))
}

/// Tells every agent: each judges etcd for itself.
async fn recover(client: &ApiClient, group: &str) -> Result<Exit, CliError> {
    let group = GroupName::new(group).map_err(bad_name)?;
    let status: ClusterStatus = client.get("/v1/status").await?;
    let path = format!("/v1/groups/{group}/recover");
    let mut exit = Exit::Ok;
    for node in &status.nodes {
        let agent = ApiClient::new(&[format!("http://{}:{AGENT_PORT}", node.address)])?;
        match agent.command::<_, Accepted>(Method::POST, &path, &serde_json::json!({})).await {
            Ok(accepted) => {
                print(&format!("{}\n", accepted.message))?;
            }
            Err(error) => {
                eprintln!("{}: {error}", node.name);
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}

async fn move_group(client: &ApiClient, args: MoveArgs) -> Result<Exit, CliError> {
    let group = GroupName::new(args.group).map_err(bad_name)?;
    let to = args.to.map(NodeName::new).transpose().map_err(bad_name)?;
    let path = format!("/v1/groups/{group}");
    let mut handover = Handover::new(client.get(&path).await?, to.clone());
    if let Some(node) = handover.needless() {
        return print(&format!("Group {group} already serves on {node}.\n"));
    }
    let began = Instant::now();
    let body = match to {
        Some(to) => serde_json::json!({ "to": to }),
        None => serde_json::json!({}),
    };
    let accepted: Accepted = client.command(Method::POST, &format!("{path}/move"), &body).await?;
    if args.no_wait {
        return print(&format!("{}\n", accepted.message));
    }
    let mut shown = Steps::new();
    let mut last = accepted.message;
    while began.elapsed() < args.timeout {
        // An agent that stops answering is no end: another one may, and the handover goes on without us.
        match client.get::<GroupStatus>(&path).await {
            Ok(now) => match handover.look(&now) {
                Progress::Going(text) => last = text,
                Progress::Done(node) => {
                    shown.end();
                    let took =
                        paint::duration_ms(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
                    return print(&format!("Group {group} serves on {node} after {took}.\n"));
                }
                Progress::Failed(why) => {
                    shown.end();
                    return Err(CliError::new(Exit::Failed, why, "See 'baton status' and 'baton events'."));
                }
            },
            Err(error) => last = error.message,
        }
        shown.show(&last, began.elapsed());
        tokio::time::sleep(LOOK).await;
    }
    shown.end();
    Err(CliError::new(
        Exit::Timeout,
        format!("group {group} does not serve after {}: {last}", humantime::format_duration(args.timeout)),
        "The handover may still happen: see 'baton watch'.",
    ))
}

/// Progress for people on standard error: a spinner on a terminal, a line per change elsewhere.
struct Steps {
    spinner: Option<indicatif::ProgressBar>,
    last: String,
}

impl Steps {
    fn new() -> Self {
        let spinner = io::stderr().is_terminal().then(indicatif::ProgressBar::new_spinner);
        Self { spinner, last: String::new() }
    }

    fn show(&mut self, text: &str, elapsed: Duration) {
        let line = format!("{:>5.1} s  {text}", elapsed.as_secs_f64());
        match &self.spinner {
            Some(spinner) => {
                spinner.set_message(line);
                spinner.tick();
            }
            None if text != self.last => eprintln!("{line}"),
            None => {}
        }
        self.last = text.to_owned();
    }

    fn end(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

async fn events(
    client: &ApiClient,
    n: usize,
    follow: bool,
    json: bool,
    paint: Paint,
) -> Result<Exit, CliError> {
    let show = |event: &Event| {
        print(&match json {
            // Events hold text keys only: they serialise.
            true => format!("{}\n", serde_json::to_string(event).unwrap_or_default()),
            false => render_event(event, paint),
        })
    };
    if !follow {
        let history: Vec<Event> = client.get(&format!("/v1/events?n={n}")).await?;
        for event in &history {
            show(event)?;
        }
        return Ok(Exit::Ok);
    }
    let mut seen = None;
    loop {
        // The first connection must succeed; a later break (the agent restarts, its host dies) is waited out.
        let mut response = match client.stream(n, seen).await {
            Ok(response) => response,
            Err(error) if seen.is_none() => return Err(error),
            Err(_) => {
                tokio::time::sleep(RECONNECT).await;
                continue;
            }
        };
        let mut reader = SseReader::default();
        seen = seen.or(Some(0));
        while let Ok(Some(piece)) = response.chunk().await {
            let nonsense =
                |e: String| CliError::new(Exit::Failed, format!("the event stream makes no sense: {e}"), "");
            for data in reader.push(&piece).map_err(|e| nonsense(e.to_owned()))? {
                let event: Event = serde_json::from_str(&data).map_err(|e| nonsense(e.to_string()))?;
                seen = seen.max(Some(event.n));
                show(&event)?;
            }
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

fn check(file: &std::path::Path) -> Result<Exit, CliError> {
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|e| CliError::new(Exit::Failed, format!("cannot read {shown}: {e}"), "Check the path."))?;
    match Spec::parse(&text, |name| std::env::var(name).ok()) {
        Ok(spec) => {
            let (nodes, groups) = (spec.nodes.len(), spec.groups.len());
            print(&format!("{shown}: cluster {}, {nodes} nodes, {groups} groups: no errors\n", spec.cluster))
        }
        Err(errors) => {
            let n = errors.errors.len();
            let next = format!("{n} to correct; nothing has been applied.");
            Err(CliError::new(Exit::Failed, errors.in_file(shown).to_string(), next))
        }
    }
}

fn bad_name(error: BadName) -> CliError {
    CliError::new(Exit::Usage, error.to_string(), "See 'baton status' for the names.")
}

fn as_json<T: Serialize>(value: &T) -> String {
    // Status documents hold text keys only: they serialise.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// To standard output. A reader that went away (`baton status | head -1`) is no error.
fn print(text: &str) -> Result<Exit, CliError> {
    let mut out = output::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Exit::Ok),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Ok),
        Err(error) => Err(CliError::new(Exit::Failed, format!("cannot write: {error}"), "")),
    }
}

#[cfg(test)]
mod run_tests;
#[cfg(test)]
mod tests;
