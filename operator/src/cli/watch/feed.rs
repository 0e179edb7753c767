//! Where the live view's facts come from.
//!
//! One agent tells the whole status, live over server-sent events if it offers that, else asked again and again.
//! When it dies, hangs or refuses, the next address is tried, then the addresses of the nodes learned from the last
//! picture; the view is told what happened and keeps its picture. Beside that, every two seconds, the agent is asked
//! for the last events, and every other node for what it hears (the links' other direction).
//!
//! Every wait is bounded; a slow view makes the feed wait (bounded channel) and nothing pile up.

use crate::cli::client::ApiClient;
use crate::cli::events_page::SseReader;
use crate::status::{ClusterStatus, Event};
use baton_replicator::types::NodeName;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// An agent answers from memory in milliseconds; one that needs longer than this hangs.
const ANSWER: Duration = Duration::from_secs(3);
/// No news for so long on a live stream: the agent is asked whether it still lives.
const SILENCE: Duration = Duration::from_secs(3);
/// Between two rounds over all addresses when nobody answers.
const ROUND: Duration = Duration::from_secs(1);
/// Between two questions to the other nodes.
const ASIDE: Duration = Duration::from_secs(2);
/// Events shown at most.
const EVENTS: usize = 50;

/// A fact for the view.
#[derive(Clone, Debug)]
pub(super) enum Update {
    /// A picture, from which address, and whether the next one comes by itself.
    Status { status: Box<ClusterStatus>, from: String, live: bool },
    /// The agent is lost; one sentence.
    Trouble(String),
    /// The last events, oldest first.
    Events(Vec<Event>),
    /// What the other nodes that answer say, by node.
    Others(BTreeMap<NodeName, ClusterStatus>),
    /// What became of a command; one sentence.
    Done(String),
}

/// The feed; it ends when it is dropped.
pub(super) struct Feed {
    tasks: Vec<JoinHandle<()>>,
    agent: watch::Receiver<ApiClient>,
}

impl Feed {
    /// A client of the agent that answers now.
    pub fn agent(&mut self) -> ApiClient {
        self.agent.borrow_and_update().clone()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Starts following.
pub(super) fn start(client: &ApiClient, interval: Duration) -> (Feed, mpsc::Receiver<Update>) {
    let (updates, receiver) = mpsc::channel(4);
    let (tell, agent) = watch::channel(client.clone());
    let (nodes, known) = watch::channel(Vec::new());
    let main = Main { client: client.clone(), interval, updates: updates.clone(), agent: tell, nodes };
    let tasks =
        vec![tokio::spawn(main.run()), tokio::spawn(aside(client.clone(), agent.clone(), known, updates))];
    (Feed { tasks, agent }, receiver)
}

struct Main {
    client: ApiClient,
    interval: Duration,
    updates: mpsc::Sender<Update>,
    agent: watch::Sender<ApiClient>,
    nodes: watch::Sender<Vec<(NodeName, String)>>,
}

/// The view is gone.
struct Gone;

impl Main {
    async fn run(self) {
        // Ends with the view.
        let _ = self.follow().await;
    }

    async fn follow(&self) -> Result<(), Gone> {
        loop {
            for agent in self.candidates() {
                // Returns only when this agent is lost.
                let why = self.one(&agent).await?;
                let base = agent.bases().first().map_or("?", String::as_str);
                self.send(Update::Trouble(format!("{}: {why}", short(base)))).await?;
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    /// The addresses that were given, then those of the nodes seen last.
    fn candidates(&self) -> Vec<ApiClient> {
        let mut all: Vec<ApiClient> =
            self.client.bases().iter().filter_map(|base| self.client.only(base)).collect();
        for (_, address) in self.nodes.borrow().iter() {
            if let Some(agent) = self.client.beside(address)
                && !all.iter().any(|a| a.bases() == agent.bases())
            {
                all.push(agent);
            }
        }
        all
    }

    async fn send(&self, update: Update) -> Result<(), Gone> {
        self.updates.send(update).await.map_err(|_| Gone)
    }

    async fn picture(&self, agent: &ApiClient, status: ClusterStatus, live: bool) -> Result<(), Gone> {
        let others = status.nodes.iter().filter(|n| n.name != status.node);
        self.nodes.send_replace(others.map(|n| (n.name.clone(), n.address.clone())).collect());
        let from = agent.bases().first().cloned().unwrap_or_default();
        self.agent.send_replace(agent.clone());
        self.send(Update::Status { status: Box::new(status), from, live }).await
    }

    /// Follows one agent until it is lost; says why.
    async fn one(&self, agent: &ApiClient) -> Result<String, Gone> {
        let mut response = match tokio::time::timeout(ANSWER, agent.follow("/v1/status")).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Ok(reason(&error.message)),
            Err(_) => return Ok(no_answer()),
        };
        let kind = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            drop(response);
            return self.poll(agent).await;
        }
        let mut reader = SseReader::default();
        loop {
            let piece = match tokio::time::timeout(SILENCE, response.chunk()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) => return Ok("it closed the connection".into()),
                Ok(Err(error)) => return Ok(format!("the connection broke: {error}")),
                // Nothing happened, or it hangs: a plain question tells.
                Err(_) => match self.ask(agent).await {
                    Ok(status) => {
                        self.picture(agent, status, true).await?;
                        continue;
                    }
                    Err(why) => return Ok(why),
                },
            };
            match reader.push(&piece) {
                Ok(events) => {
                    // Only the newest is worth drawing.
                    let Some(newest) = events.last() else { continue };
                    match serde_json::from_str(newest) {
                        Ok(status) => self.picture(agent, status, true).await?,
                        Err(error) => return Ok(format!("it says something else than expected: {error}")),
                    }
                }
                Err(why) => return Ok(why.to_owned()),
            }
        }
    }

    async fn poll(&self, agent: &ApiClient) -> Result<String, Gone> {
        loop {
            match self.ask(agent).await {
                Ok(status) => self.picture(agent, status, false).await?,
                Err(why) => return Ok(why),
            }
            tokio::time::sleep(self.interval).await;
        }
    }

    async fn ask(&self, agent: &ApiClient) -> Result<ClusterStatus, String> {
        match tokio::time::timeout(ANSWER, agent.get("/v1/status")).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => Err(reason(&error.message)),
            Err(_) => Err(no_answer()),
        }
    }
}

fn no_answer() -> String {
    format!("no answer within {} s", ANSWER.as_secs())
}

/// The client's message names the address again: `no agent answered (http://a:7480: refused)`.
fn reason(message: &str) -> String {
    let inner = message.strip_prefix("no agent answered (").and_then(|m| m.strip_suffix(')'));
    let inner = inner.unwrap_or(message);
    inner
        .rsplit_once("://")
        .and_then(|(_, rest)| rest.split_once(": "))
        .map_or(inner, |(_, why)| why)
        .to_owned()
}

/// An address without what everybody knows.
pub(super) fn short(base: &str) -> &str {
    base.split_once("://").map_or(base, |(_, rest)| rest)
}

async fn aside(
    client: ApiClient,
    agent: watch::Receiver<ApiClient>,
    known: watch::Receiver<Vec<(NodeName, String)>>,
    updates: mpsc::Sender<Update>,
) {
    loop {
        let (now, nodes) = (agent.borrow().clone(), known.borrow().clone());
        let events = async {
            let path = format!("/v1/events?n={EVENTS}");
            let asked = now.get::<Vec<Event>>(&path);
            tokio::time::timeout(ANSWER, asked).await.ok()?.ok()
        };
        let ask = |(node, address): (NodeName, String)| {
            let client = client.clone();
            async move {
                let asked = async { client.beside(&address)?.get::<ClusterStatus>("/v1/status").await.ok() };
                Some((node, tokio::time::timeout(ANSWER, asked).await.ok()??))
            }
        };
        let (events, others) = tokio::join!(events, join_all(nodes.into_iter().map(ask)));
        if let Some(events) = events
            && updates.send(Update::Events(events)).await.is_err()
        {
            return;
        }
        if updates.send(Update::Others(others.into_iter().flatten().collect())).await.is_err() {
            return;
        }
        tokio::time::sleep(ASIDE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_do_not_repeat_the_address() {
        assert_eq!(reason("no agent answered (http://a:7480: Connection refused)"), "Connection refused");
        assert_eq!(reason("the cluster is asleep"), "the cluster is asleep");
        assert_eq!(short("https://a:7480"), "a:7480");
    }
}
