//! `baton cluster recover`: after etcd was emptied, restored from an older backup or made anew, what to do, and doing it.
//!
//! It asks every agent what it remembers, says what follows for each group, and does it once a person says yes: the
//! specification and tokens are written back, each group that nobody serves starts again from the node that served it
//! last, and every agent is told to trust what etcd says then. Agents check each step again.

use super::ask::ask;
use super::client::ApiClient;
use super::exit::{CliError, Exit};
use super::resolve::Sure;
use super::{bad_name, print};
use crate::api::{Accepted, Restore};
use crate::status::{ClusterStatus, GroupMemory};
use baton_replicator::types::{GroupName, NodeName};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What to do with the cluster as a whole.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// After etcd was emptied, restored from a backup or made anew: say what every agent remembers, and what follows;
    /// then write back what etcd lacks, and start each group that nobody serves from the node that served it last.
    Recover(RecoverArgs),
}

/// Arguments of `cluster recover`.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Take this node's data, for groups where it is not certain who holds everything.
    #[arg(long, value_name = "NODE")]
    pub from: Option<String>,
    /// This node is switched off, as a person has seen: it cannot serve. May be given several times.
    #[arg(long, value_name = "NODE")]
    pub is_off: Vec<String>,
    /// What only other nodes hold may be lost.
    #[arg(long)]
    pub accept_data_loss: bool,
    /// How to go about it.
    #[command(flatten)]
    pub how: Sure,
}

/// What each agent said; none of those that did not answer.
type Said = BTreeMap<NodeName, Option<ClusterStatus>>;

/// What is to be done about one group.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// Nothing; why.
    Well(String),
    /// It starts again from this node's data.
    Restore(NodeName),
    /// It cannot be decided here; why, and what to do.
    Stuck(String),
}

/// The verdict about one group. Pure.
fn verdict(said: &Said, group: &GroupName, from: Option<&NodeName>) -> Verdict {
    let memory = |node: &NodeName| -> Option<GroupMemory> {
        let status = said.get(node)?.as_ref()?;
        status.groups.iter().find(|g| g.name == *group)?.memory.clone()
    };
    let known: Vec<(&NodeName, GroupMemory)> = said.keys().filter_map(|n| Some((n, memory(n)?))).collect();
    if known.is_empty() {
        return Verdict::Stuck("no agent says what it remembers of it: are they of this version?".into());
    }
    if let Some((leader, _)) = known.iter().find(|(_, m)| m.leads) {
        let trouble = known.iter().any(|(_, m)| m.lost || m.foreign.is_some());
        return Verdict::Well(if trouble {
            format!("{leader} leads it and writes its record into etcd by itself; the others trust it then")
        } else {
            format!("{leader} leads it")
        });
    }
    if known.iter().all(|(_, m)| !m.lost && m.foreign.is_none()) {
        return Verdict::Well("its record in etcd is trusted".into());
    }
    let newest = known.iter().map(|(_, m)| m.known.number).max().unwrap_or(0);
    let silent: Vec<&str> = said.iter().filter(|(_, s)| s.is_none()).map(|(n, _)| n.as_str()).collect();
    let certain = known.iter().find(|(_, m)| m.served.number == newest && m.complete).map(|(node, _)| *node);
    if let Some(node) = from {
        // Nobody's word is needed where it is certain who holds everything.
        return Verdict::Restore(certain.filter(|_| silent.is_empty()).unwrap_or(node).clone());
    }
    if !silent.is_empty() {
        return Verdict::Stuck(format!(
            "{} may hold more and cannot be asked: start it, and repeat; if it is lost for good, see 'baton help cluster \
             recover'",
            silent.join(", ")
        ));
    }
    match certain {
        Some(node) => Verdict::Restore(node.clone()),
        None => match known.iter().find(|(_, m)| m.served.number == newest) {
            Some((node, _)) => Verdict::Stuck(format!(
                "{node} served it last, and its replicas are not all UpToDate or Consistent there: see 'baton volume list'"
            )),
            None => Verdict::Stuck(format!(
                "nobody remembers having served it in epoch {newest}, the last one known: find out which node holds \
                 the newest data, then repeat with --from NODE --accept-data-loss"
            )),
        },
    }
}

/// Whose specification is written back: of the agents that run the newest version, `asked` if it is one. Pure.
fn newest<'a>(said: &'a Said, asked: &'a NodeName) -> &'a NodeName {
    let version = |node: &NodeName| {
        let status = said.get(node)?.as_ref()?;
        status.nodes.iter().find(|n| n.name == *node)?.spec_version
    };
    let best = said.keys().filter_map(|node| Some((version(node)?, node == asked, node))).max();
    best.map_or(asked, |(_, _, node)| node)
}

fn page(said: &Said, verdicts: &BTreeMap<GroupName, Verdict>, lacking: &str) -> String {
    let mut out = String::new();
    for (node, status) in said {
        let _ = match status {
            None => writeln!(out, "{node}: does not answer"),
            Some(s) => writeln!(out, "{node}: {}", remembers(s)),
        };
    }
    let _ = writeln!(out, "\n{lacking}");
    for (group, verdict) in verdicts {
        let _ = match verdict {
            Verdict::Well(why) => writeln!(out, "{group}: nothing to do, {why}"),
            Verdict::Restore(node) => writeln!(
                out,
                "{group}: starts again from what {node} holds; other nodes are brought up to date from there"
            ),
            Verdict::Stuck(why) => writeln!(out, "{group}: cannot be decided here: {why}"),
        };
    }
    out
}

fn remembers(status: &ClusterStatus) -> String {
    let group = |g: &crate::status::GroupStatus| {
        let m = g.memory.as_ref()?;
        let etcd = match (&m.foreign, m.lost) {
            (Some(why), _) => why.clone(),
            (None, true) => "etcd has no record".to_owned(),
            (None, false) => "trusts etcd".to_owned(),
        };
        let leads = if m.leads { ", leads it" } else { "" };
        Some(format!("{} knows epoch {}, served {}{leads} ({etcd})", g.name, m.known.number, m.served.number))
    };
    let all: Vec<String> = status.groups.iter().filter_map(group).collect();
    if all.is_empty() { "remembers nothing".into() } else { all.join("; ") }
}

/// Runs it.
///
/// # Errors
/// No agent answers, a name that is none, no yes, or an agent refuses.
pub(super) async fn run(client: &ApiClient, command: ClusterCommand) -> Result<Exit, CliError> {
    let ClusterCommand::Recover(args) = command;
    let node = |name: &String| NodeName::new(name.as_str()).map_err(bad_name);
    let from = args.from.as_ref().map(node).transpose()?;
    let off: Vec<NodeName> = args.is_off.iter().map(node).collect::<Result<_, _>>()?;
    let status: ClusterStatus = client.get("/v1/status").await?;
    let mut agents = BTreeMap::new();
    let mut said = Said::new();
    for n in &status.nodes {
        let agent = if n.name == status.node { client.clone() } else { client.at_host(&n.address)? };
        said.insert(n.name.clone(), agent.get("/v1/status").await.ok());
        agents.insert(n.name.clone(), agent);
    }
    // One that has been away longest may run an old one.
    let writer = agents.get(newest(&said, &status.node)).unwrap_or(client);
    let dry: Accepted = writer.command(Method::POST, "/v1/recover?dry_run=true", &json!({})).await?;
    let names = status.groups.iter().map(|g| g.name.clone());
    let verdicts: BTreeMap<GroupName, Verdict> =
        names.map(|g| (g.clone(), verdict(&said, &g, from.as_ref()))).collect();
    print(&page(&said, &verdicts, &dry.message))?;
    let restores = || {
        verdicts.iter().filter_map(|(group, v)| match v {
            Verdict::Restore(node) => Some((group, node)),
            Verdict::Well(_) | Verdict::Stuck(_) => None,
        })
    };
    let stuck = verdicts.values().any(|v| matches!(v, Verdict::Stuck(_)));
    let end = if stuck { Exit::Failed } else { Exit::Ok };
    let nothing = restores().next().is_none() && dry.consequences.is_empty();
    if args.how.dry_run || nothing {
        return Ok(end);
    }
    if !args.how.yes {
        ask("\nDo that?", "nothing was changed", "a wrong record can bring old data back into service")?;
    }
    let done: Accepted = writer.command(Method::POST, "/v1/recover", &json!({})).await?;
    print(&format!("{}\n", done.message))?;
    let request = Restore { off, accept_data_loss: args.accept_data_loss };
    for (group, node) in restores() {
        let Some(agent) = agents.get(node) else {
            return Err(CliError::new(Exit::Usage, format!("{node} is no node of this cluster"), ""));
        };
        let path = format!("/v1/groups/{group}/restore");
        let accepted: Accepted = agent.command(Method::POST, &path, &request).await?;
        print(&format!("{}\n", accepted.message))?;
        let path = format!("/v1/groups/{group}/recover");
        for (name, agent) in agents.iter().filter(|(n, _)| said.get(*n).is_some_and(Option::is_some)) {
            match agent.command::<_, Accepted>(Method::POST, &path, &json!({})).await {
                Ok(accepted) => print(&format!("{}\n", accepted.message))?,
                Err(error) => {
                    eprintln!("{name}: {error}");
                    return Ok(Exit::Failed);
                }
            };
        }
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;
    use baton_replicator::types::{Epoch, TermId};

    fn epoch(number: u64) -> Epoch {
        Epoch { number, term: TermId(number) }
    }

    fn name(n: &str) -> NodeName {
        NodeName::new(n).unwrap()
    }

    /// alpha served epoch 7, beta epoch 5; etcd was emptied.
    fn emptied() -> Said {
        let of = |served| {
            let mut status = fixture::healthy();
            status.groups[0].memory = Some(GroupMemory {
                known: epoch(7),
                served: epoch(served),
                lost: true,
                complete: true,
                ..GroupMemory::default()
            });
            Some(status)
        };
        [(name("alpha"), of(7)), (name("beta"), of(5))].into()
    }

    fn change(said: &mut Said, node: &str, change: impl Fn(&mut GroupMemory)) {
        let status = said.get_mut(&name(node)).unwrap().as_mut().unwrap();
        change(status.groups[0].memory.as_mut().unwrap());
    }

    fn of(said: &Said) -> Verdict {
        verdict(said, &GroupName::new("web").unwrap(), None)
    }

    #[test]
    fn the_node_that_served_last_is_the_one_to_start_from() {
        assert_eq!(of(&emptied()), Verdict::Restore(name("alpha")));
        let mut later = emptied();
        change(&mut later, "beta", |m| (m.known, m.served) = (epoch(8), epoch(8)));
        assert_eq!(of(&later), Verdict::Restore(name("beta")));
        let page =
            page(&later, &[(GroupName::new("web").unwrap(), of(&later))].into(), "writes back 2 tokens");
        assert!(page.contains("alpha: web knows epoch 7, served 7 (etcd has no record)"), "{page}");
        assert!(page.contains("web: starts again from what beta holds"), "{page}");
        assert!(page.contains("writes back 2 tokens"), "{page}");
    }

    #[test]
    fn what_is_not_certain_is_left_to_a_person() {
        let says = |said: &Said, what: &str| {
            let Verdict::Stuck(why) = of(said) else { panic!("{:?}", of(said)) };
            assert!(why.contains(what), "{why}");
        };
        let mut silent = emptied();
        silent.insert(name("beta"), None);
        says(&silent, "beta may hold more and cannot be asked");
        let mut nobody = emptied();
        change(&mut nobody, "beta", |m| m.known = epoch(9));
        says(&nobody, "epoch 9");
        let mut torn = emptied();
        change(&mut torn, "alpha", |m| m.complete = false);
        says(&torn, "not all UpToDate or Consistent");
        // A person decides; the agents refuse it again if it cannot be.
        let web = GroupName::new("web").unwrap();
        assert_eq!(verdict(&silent, &web, Some(&name("alpha"))), Verdict::Restore(name("alpha")));
        for said in [&nobody, &torn] {
            assert_eq!(verdict(said, &web, Some(&name("beta"))), Verdict::Restore(name("beta")));
        }
        // A word said for another group passes nobody over who certainly holds everything of this one.
        assert_eq!(verdict(&emptied(), &web, Some(&name("beta"))), Verdict::Restore(name("alpha")));
    }

    #[test]
    fn the_newest_specification_is_written_back_whoever_is_asked() {
        let (alpha, beta) = (name("alpha"), name("beta"));
        let mut said = emptied();
        let mut of = |node: &NodeName, version: Option<i64>| {
            let nodes = &mut said.get_mut(node).unwrap().as_mut().unwrap().nodes;
            nodes.iter_mut().for_each(|n| n.spec_version = Some(99));
            nodes.iter_mut().find(|n| n.name == *node).unwrap().spec_version = version;
        };
        of(&alpha, Some(11));
        of(&beta, Some(12));
        assert_eq!(newest(&said, &alpha), &beta, "what each says of itself counts");
        said.insert(beta.clone(), None);
        assert_eq!(newest(&said, &alpha), &alpha, "of those that answer");
        let same = emptied();
        for asked in [&alpha, &beta] {
            assert_eq!(newest(&same, asked), asked, "the same everywhere");
        }
    }

    #[test]
    fn a_group_that_is_led_or_trusted_is_left_alone() {
        let mut led = emptied();
        change(&mut led, "alpha", |m| m.leads = true);
        assert!(
            matches!(of(&led), Verdict::Well(why) if why.contains("writes its record into etcd by itself"))
        );
        let web = GroupName::new("web").unwrap();
        assert!(matches!(verdict(&led, &web, Some(&name("beta"))), Verdict::Well(_)), "whatever --from says");
        let mut well = emptied();
        for node in ["alpha", "beta"] {
            change(&mut well, node, |m| m.lost = false);
        }
        assert!(matches!(of(&well), Verdict::Well(why) if why.contains("trusted")));
        change(&mut well, "beta", |m| {
            m.foreign = Some("etcd is at revision 5, but 90 was seen already".into())
        });
        assert_eq!(of(&well), Verdict::Restore(name("alpha")), "one that distrusts it is enough to look");
    }
}
