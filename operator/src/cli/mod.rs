//! The command line `baton`: a client of the agents' API.
//!
//! Rendering is pure (`status_page`, `volume_page`, `events_page`, held by golden files); this file runs the
//! commands. It keeps no state: all it shows comes from one agent's snapshot, all it does is a call to the API.

mod apply;
pub mod args;
mod ask;
pub mod bundle;
pub mod cert;
mod client;
pub mod cluster;
mod complete;
pub mod context;
mod docker;
pub mod doctor;
pub mod endpoint;
mod events_page;
pub mod examples;
mod exit;
pub mod explain;
pub mod export;
pub mod fence;
#[cfg(test)]
pub(crate) mod fixture;
mod format;
mod links;
pub mod mode;
mod moving;
mod notify_page;
mod output;
pub mod paint;
pub mod read;
pub mod reference;
pub mod resolve;
mod spec;
mod status_page;
pub mod timeline_page;
pub mod token;
pub mod verify;
mod volume_page;
pub mod volume_wait;
mod watch;
pub mod whatif_page;
pub mod words;

use client::AGENT_PORT;
pub use client::ApiClient;
pub use endpoint::ClientOptions;
pub use events_page::render_event;
pub use exit::{CliError, EXIT_HELP, Exit};
pub use moving::{Handover, Progress};
pub use status_page::{group_health, render as render_status, render_group};
pub use volume_page::{render_list, render_show, sync_bar};

use crate::api::Accepted;
use crate::status::{ClusterStatus, Event, GroupStatus, NodeMode};
use args::{Cli, Command, MoveArgs, VolumeCommand};
use baton_replicator::api::VolumeStatus;
use baton_replicator::types::{BadName, GroupName, NodeName, VolumeName};
use clap::{CommandFactory, FromArgMatches};
use events_page::SseReader;
use format::Format;
use paint::Paint;
use read::NodeCommand;
use reqwest::Method;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use tokio::time::Instant;

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
    let options = cli.client_options();
    let client = || connect(cli.context.as_deref(), &options);
    match cli.command {
        Command::Status(args) => read::status(&client()?, &args, paint).await,
        Command::Nodes(format) => read::nodes(&client()?, format, paint).await,
        Command::Node(NodeCommand::Show { name, format }) => {
            read::node(&client()?, &name, format, paint).await
        }
        Command::Links(format) => links::links(&client()?, format, paint).await,
        Command::Groups(format) => read::groups(&client()?, format, paint).await,
        Command::Group(command) => read::group_command(&client()?, command, paint).await,
        Command::Explain { group, format } => {
            read::explain_groups(&client()?, group.as_deref(), format, paint).await
        }
        Command::WhatIf(args) => whatif_page::run(&client()?, &args, paint).await,
        Command::Watch { plain, interval, count } => {
            watch::run(&client()?, watch::Options { interval, count, plain }, paint).await
        }
        Command::Move(args) => move_group(&client()?, args).await,
        Command::Standby(args) => mode::run(&client()?, NodeMode::Standby, &args).await,
        Command::Online(args) => mode::run(&client()?, NodeMode::Online, &args).await,
        Command::Maintenance(args) => mode::maintenance(&client()?, &args).await,
        Command::Fence(args) => fence::run(&client()?, &args, paint).await,
        Command::Recover { group } => recover(&client()?, &group).await,
        Command::Cluster(command) => cluster::run(&client()?, command).await,
        Command::Volume(VolumeCommand::List { format }) => {
            let volumes: Vec<VolumeStatus> = client()?.get("/v1/volumes").await?;
            print(&format.show(&volumes, |volumes| volume_page::render_list(volumes, paint)))
        }
        Command::Volume(VolumeCommand::Show { name, format }) => {
            let name = VolumeName::new(name).map_err(bad_name)?;
            let volume: VolumeStatus = client()?.get(&format!("/v1/volumes/{name}")).await?;
            print(&format.show(&volume, |volume| volume_page::render_show(volume, paint)))
        }
        Command::Volume(VolumeCommand::Wait(args)) => volume_wait::run(&client()?, &args).await,
        Command::Volume(VolumeCommand::Verify(args)) => verify::run(&client()?, &args).await,
        Command::Volume(VolumeCommand::PauseSync { name }) => verify::pause(&client()?, name, "pause").await,
        Command::Volume(VolumeCommand::ResumeSync { name }) => {
            verify::pause(&client()?, name, "resume").await
        }
        Command::Volume(VolumeCommand::Resolve(args)) => resolve::resolve(&client()?, &args).await,
        Command::Volume(VolumeCommand::Snapshots { name, format }) => {
            resolve::snapshots(&client()?, &name, format, paint).await
        }
        Command::Volume(VolumeCommand::Release(args)) => resolve::release(&client()?, &args).await,
        Command::Volume(VolumeCommand::Export(args)) => export::run(&client()?, &args).await,
        Command::Events { last_takeover: true, group, json, yaml, .. } => {
            timeline_page::run(&client()?, group.as_deref(), Format { json, yaml }, paint).await
        }
        Command::Events { n, follow, json, yaml, .. } => {
            events(&client()?, n, follow, Format { json, yaml }, paint).await
        }
        Command::Spec(command) => spec::run(&client()?, command).await,
        Command::Apply(args) => apply::file(&client()?, args).await,
        Command::Notify(command) => notify_page::run(&client()?, command, paint).await,
        Command::Check { file, json } => spec::check(&file, json),
        Command::Cert(command) => cert::run(command),
        Command::Token(command) => token::run(&client()?, command).await,
        Command::Is(args) => token::is(&client()?, &args).await,
        Command::Context(command) => context::run(command, &options, environment, paint),
        Command::SupportBundle(args) => bundle::run(&client()?, &args).await,
        Command::Doctor(args) => doctor::run(&client()?, &args, paint).await,
        Command::Completions { shell, fixed } => completions(shell, fixed),
        Command::ExitCodes => print(&format!("{EXIT_HELP}\n")),
        Command::Man { dir: Some(dir) } => {
            let written =
                std::fs::create_dir_all(&dir).and_then(|()| clap_mangen::generate_to(command(), &dir));
            let shown = dir.display();
            written.map_err(|e| CliError::new(Exit::Failed, format!("cannot write to {shown}: {e}"), ""))?;
            Ok(Exit::Ok)
        }
        Command::Man { dir: None } => {
            let mut text = Vec::new();
            let rendered = clap_mangen::Man::new(command()).render(&mut text);
            rendered
                .map_err(|e| CliError::new(Exit::Failed, format!("cannot render the manual: {e}"), ""))?;
            print(&String::from_utf8_lossy(&text))
        }
    }
}

/// The parser, with examples.
#[must_use]
pub fn command() -> clap::Command {
    examples::with_examples(Cli::command())
}

/// The command line of this process. Answers a shell that asks for completions, and ends then.
#[must_use]
pub fn parse() -> Cli {
    clap_complete::CompleteEnv::with_factory(command).complete();
    let matches = command().get_matches();
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    }
}

fn completions(shell: clap_complete::Shell, fixed: bool) -> Result<Exit, CliError> {
    let mut text = Vec::new();
    let shells = clap_complete::env::Shells::builtins();
    match shells.completer(&shell.to_string()).filter(|_| !fixed) {
        Some(dynamic) => {
            dynamic.write_registration("COMPLETE", "baton", "baton", "baton", &mut text).map_err(|e| {
                CliError::new(Exit::Failed, format!("cannot make the completions: {e}"), "Try --static.")
            })?
        }
        None => clap_complete::generate(shell, &mut command(), "baton", &mut text),
    }
    print(&String::from_utf8_lossy(&text))
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Addresses and credentials by flag or environment, else those of the context, else this host's agent.
fn connect(context: Option<&str>, given: &ClientOptions) -> Result<ApiClient, CliError> {
    let api = &given.addresses;
    // A context asked for by name wins over addresses of the environment, as a flag does; over --api nothing wins.
    let flag = *api != environment("BATON_API").unwrap_or_default().split(',').collect::<Vec<_>>();
    let addressed = !api.is_empty() && (flag || context.is_none());
    let mut options = given.clone();
    if let Some(context) = context::chosen(context, addressed, environment)? {
        // A certificate goes with its key: never one of each.
        let own = options.cert.is_some() || options.key.is_some();
        options = ClientOptions {
            addresses: if addressed { options.addresses } else { context.api },
            ca: options.ca.or(context.ca),
            token_file: options.token_file.or(context.token_file),
            cert: if own { options.cert } else { context.cert },
            key: if own { options.key } else { context.key },
        };
    }
    ApiClient::with(options)
}

/// Tells every agent: each judges etcd for itself.
async fn recover(client: &ApiClient, group: &str) -> Result<Exit, CliError> {
    let group = GroupName::new(group).map_err(bad_name)?;
    let status: ClusterStatus = client.get("/v1/status").await?;
    let path = format!("/v1/groups/{group}/recover");
    let mut exit = Exit::Ok;
    for node in &status.nodes {
        // The agent that answered is asked by the way that worked; it may listen on its socket only.
        let agent = if node.name == status.node { client.clone() } else { client.at_host(&node.address)? };
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
    format: Format,
    paint: Paint,
) -> Result<Exit, CliError> {
    let show = |event: &Event| {
        print(&if format.json {
            // Events hold text keys only: they serialise.
            format!("{}\n", serde_json::to_string(event).unwrap_or_default())
        } else if format.yaml {
            format!("---\n{}", format::yaml(event))
        } else {
            render_event(event, paint)
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

fn bad_name(error: BadName) -> CliError {
    CliError::new(Exit::Usage, error.to_string(), "See 'baton status' for the names.")
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
