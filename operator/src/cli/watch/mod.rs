//! `baton watch`: the cluster on one screen, live, with a few commands on keys.
//!
//! * [`feed`] gets the facts: live from one agent, the next one if it dies, and now and then from all others.
//! * [`model`] holds the picture, the selection and the open dialog, and turns keys into effects. Pure.
//! * [`view`] draws the model on any terminal size. Pure.
//! * [`screen`] owns the terminal: raw mode, keys, and that it is restored however this ends.
//! * [`plain`] is for pipes and logs.
//!
//! This file is the loop: one channel of facts, one of keys, one clock. If it dies nothing else does; a command that
//! was sent is carried out by the agents.

mod feed;
mod model;
mod plain;
mod screen;
mod view;

use super::client::ApiClient;
use super::exit::{CliError, Exit};
use super::paint::Paint;
use crate::api::Accepted;
use feed::Update;
use model::{Action, Effect, Model};
use reqwest::Method;
use screen::{Input, Screen};
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Ages on the screen grow once a second even if nothing arrives.
const TICK: Duration = Duration::from_secs(1);

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub interval: Duration,
    pub count: Option<u64>,
    pub plain: bool,
}

pub(super) async fn run(client: &ApiClient, options: Options, paint: Paint) -> Result<Exit, CliError> {
    let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if options.plain || options.count.is_some() || !terminal {
        return plain::run(client, options.interval, options.count, paint).await;
    }
    let failed =
        |e: io::Error| CliError::new(Exit::Failed, format!("cannot use the terminal: {e}"), "Try --plain.");
    let mut signals = screen::Signals::new().map_err(failed)?;
    let mut screen = Screen::enter().map_err(failed)?;
    let mut inputs = screen::read_inputs();
    let (mut feed, updates) = feed::start(client, options.interval);
    let mut updates = updates;
    let (done, mut results) = mpsc::channel(4);
    let mut model = Model::new(Instant::now());
    let mut tick = tokio::time::interval(TICK);
    loop {
        screen.draw(|frame| view::draw(frame, &model, Instant::now(), paint.color)).map_err(failed)?;
        tokio::select! {
            update = updates.recv() => match update {
                Some(update) => model.apply(update, Instant::now()),
                None => return Err(CliError::new(Exit::Failed, "the reader of the status has ended", "Start it again.")),
            },
            input = inputs.recv() => match input {
                Some(Input::Key(key)) => match model.on_key(key) {
                    Effect::None => {}
                    Effect::Quit => return Ok(Exit::Ok),
                    Effect::Do(action) => {
                        // By way of the agent that answers now.
                        let (agent, done) = (feed.agent(), done.clone());
                        tokio::spawn(async move {
                            let _ = done.send(carry_out(&agent, &action).await).await;
                        });
                    }
                },
                Some(Input::Resized) => {}
                // The terminal is gone.
                None => return Ok(Exit::Ok),
            },
            Some(result) = results.recv() => model.apply(Update::Done(result), Instant::now()),
            signal = signals.received() => {
                drop(screen);
                return Err(CliError::new(Exit::Failed, format!("ended by {signal}"), ""));
            }
            _ = tick.tick() => {}
        }
    }
}

/// One sentence for the screen's last line.
async fn carry_out(agent: &ApiClient, action: &Action) -> String {
    let sent: Result<Accepted, CliError> = match action {
        Action::Move { group, to } => {
            let body = serde_json::json!({ "to": to });
            agent.command(Method::POST, &format!("/v1/groups/{group}/move"), &body).await
        }
        Action::Mode { node, mode } => {
            let body = serde_json::json!({ "mode": mode });
            agent.command(Method::PUT, &format!("/v1/nodes/{node}/mode"), &body).await
        }
    };
    match sent {
        Ok(accepted) => accepted.message,
        Err(error) => format!("Not done: {}", error.message),
    }
}

#[cfg(test)]
mod tests;
