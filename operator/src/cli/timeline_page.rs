//! `baton events --last-takeover`: the steps of each group's newest change of leadership, from the history.

use super::client::ApiClient;
use super::exit::{CliError, Exit};
use super::format::Format;
use super::paint::{Paint, Tone, cell, clock, duration_ms, flow};
use super::print;
use crate::status::{Event, Takeover};
use baton_replicator::types::{GroupName, NodeName};
use serde::{Deserialize, Serialize};

/// Entries asked for: the whole history.
const ALL: usize = 1000;

/// A change of leadership that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// The group.
    pub group: GroupName,
    /// The node that came to lead it.
    pub node: NodeName,
    /// Its steps.
    #[serde(flatten)]
    pub takeover: Takeover,
}

pub(super) async fn run(
    client: &ApiClient,
    group: Option<&str>,
    format: Format,
    paint: Paint,
) -> Result<Exit, CliError> {
    let history: Vec<Event> = client.get(&format!("/v1/events?n={ALL}")).await?;
    let found = newest(&history, group);
    if let (true, Some(group)) = (found.is_empty(), group) {
        return Err(CliError::new(
            Exit::Failed,
            format!("the history holds no change of leadership of '{group}'"),
            "See 'baton groups' for the names, and 'baton events'.",
        ));
    }
    print(&format.show(&found, |found| render(found, paint)))
}

/// The newest of each group, by the group's name.
#[must_use]
pub fn newest(history: &[Event], group: Option<&str>) -> Vec<Timeline> {
    let mut found: Vec<Timeline> = Vec::new();
    for event in history.iter().rev() {
        let (Some(name), Some(takeover)) = (&event.group, &event.takeover) else { continue };
        let wanted = group.is_none_or(|g| g == name.as_str());
        if wanted && !found.iter().any(|t| t.group == *name) {
            let (group, node) = (name.clone(), event.node.clone());
            found.push(Timeline { group, node, takeover: takeover.clone() });
        }
    }
    found.sort_by(|a, b| a.group.cmp(&b.group));
    found
}

/// A table per group.
#[must_use]
pub fn render(found: &[Timeline], paint: Paint) -> String {
    if found.is_empty() {
        return "The history holds no change of leadership.\n".into();
    }
    let tables: Vec<String> = found.iter().map(|t| table(t, paint)).collect();
    tables.join("\n")
}

fn table(timeline: &Timeline, paint: Paint) -> String {
    let Timeline { group, node, takeover } = timeline;
    let mut out = flow(
        paint,
        0,
        2,
        &[
            (format!("Group {group}"), Tone::Head),
            cell(format!(
                ": {} by {node}, {}, served after {} (epoch {})",
                takeover.kind,
                clock(&takeover.at),
                duration_ms(takeover.total_ms),
                takeover.epoch.number
            )),
        ],
    );
    out.push_str("  STEP       AT         TOOK     WHAT\n");
    for step in &takeover.steps {
        let (at, took) = (format!("+{}", duration_ms(step.at_ms)), duration_ms(step.ms));
        let line = format!("  {:<9}  {at:<9}  {took:<7}  {}", step.step, what(&step.step));
        out.push_str(line.trim_end());
        out.push('\n');
    }
    if !takeover.steps.iter().any(|s| s.step == "answer") {
        out.push_str("  (no first good answer: the group has no check, or none succeeded in time)\n");
    }
    out
}

/// What ends with a step.
fn what(step: &str) -> &'static str {
    match step {
        "detect" => "the old leader was silent for deadtime",
        "decide" => "etcd has the new epoch",
        "wait" => "entitled: promises that were given have run out",
        "volumes" => "every volume is primary here",
        "addresses" => "the addresses are up and announced",
        "services" => "filesystems are mounted, every service runs",
        "answer" => "the first check succeeded",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;
    use crate::status::TakeoverStep;

    fn history() -> Vec<Event> {
        let step = |step: &str, ms, at_ms| TakeoverStep { step: step.into(), ms, at_ms };
        let steps = vec![
            step("detect", 1502, 1502),
            step("decide", 14, 1516),
            step("wait", 3, 1519),
            step("volumes", 42, 1561),
            step("addresses", 8, 1569),
            step("services", 408, 1977),
            step("answer", 230, 2207),
        ];
        let mut all = fixture::history();
        let old = Takeover { total_ms: 9000, ..fixture::healthy().groups[0].last_takeover.clone().unwrap() };
        all[0].takeover = Some(old.clone());
        all[1].takeover = Some(Takeover { steps, total_ms: 1977, ..old });
        all
    }

    #[test]
    fn the_newest_of_each_group_counts() {
        let mut all = history();
        let found = newest(&all, None);
        assert_eq!((found.len(), found[0].takeover.total_ms), (1, 1977));
        let mut mail = all[0].clone();
        mail.group = Some(fixture::group("mail"));
        all.push(mail);
        let names: Vec<String> = newest(&all, None).iter().map(|t| t.group.to_string()).collect();
        assert_eq!(names, ["mail", "web"]);
        assert_eq!(newest(&all, Some("web")).len(), 1);
        assert!(newest(&all, Some("nix")).is_empty());
    }

    #[test]
    fn every_step_has_a_line_and_says_when_it_was_done() {
        let text = render(&newest(&history(), None), Paint { color: false });
        let lines: Vec<&str> = text.lines().skip_while(|l| !l.contains("STEP")).collect();
        assert_eq!(lines[0], "  STEP       AT         TOOK     WHAT");
        assert_eq!(lines[1], "  detect     +1.50 s    1.50 s   the old leader was silent for deadtime");
        assert_eq!(lines[7], "  answer     +2.20 s    230 ms   the first check succeeded");
        assert!(text.starts_with("Group web: takeover by alpha, 2026-11-21 02:58:11, "), "{text}");
        assert!(text.contains("served after 1.97 s (epoch"), "{text}");
        assert_eq!(lines.len(), 8);
        let mut silent = newest(&history(), None);
        silent[0].takeover.steps.pop();
        assert!(render(&silent, Paint { color: false }).contains("no first good answer"));
    }
}
