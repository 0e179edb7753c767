//! `baton notify`: whom the cluster tells, and a test of it.

use super::args::NotifyCommand;
use super::client::ApiClient;
use super::exit::{CliError, Exit};
use super::paint::{Paint, Tone, hanging};
use super::print;
use crate::notify::TestOutcome;
use crate::status::NotificationStatus;
use reqwest::Method;
use std::fmt::Write;

pub(super) async fn run(client: &ApiClient, command: NotifyCommand, paint: Paint) -> Result<Exit, CliError> {
    match command {
        NotifyCommand::List { format } => {
            let targets: Vec<NotificationStatus> = client.get("/v1/notify").await?;
            print(&format.show(&targets, |targets| render(targets, paint)))
        }
        NotifyCommand::Test { target } => {
            let body = serde_json::json!({ "target": target });
            let outcomes: Vec<TestOutcome> = client.command(Method::POST, "/v1/notify/test", &body).await?;
            print(&render_test(&outcomes, paint))?;
            match outcomes.iter().filter(|o| !o.delivered).count() {
                0 => Ok(Exit::Ok),
                n => Err(CliError::new(
                    Exit::Failed,
                    format!("{n} of {} not delivered", outcomes.len()),
                    "Correct the target under notify in the specification, or what it names, and repeat this.",
                )),
            }
        }
    }
}

/// One paragraph per target.
#[must_use]
pub(super) fn render(targets: &[NotificationStatus], paint: Paint) -> String {
    if targets.is_empty() {
        return "The specification names nobody to tell (notify).\n".into();
    }
    let mut out = String::new();
    for t in targets {
        // Writing to a string does not fail.
        out.push_str(&hanging(&format!("{}: ", t.target), &t.channel));
        let groups: Vec<&str> = t.groups.iter().map(|g| g.as_str()).collect();
        let groups = if groups.is_empty() { "none".into() } else { groups.join(", ") };
        out.push_str(&hanging("  hears: ", &format!("{} and worse; groups {groups}", t.severity)));
        let last = t.last_success.as_ref().map_or_else(String::new, |at| format!(", last at {at}"));
        let _ = writeln!(out, "  delivered: {}{last}", t.delivered);
        if t.queued > 0 {
            let _ = writeln!(out, "  wait: {}", t.queued);
        }
        if t.given_up > 0 {
            out.push_str(&paint.tone(Tone::Bad, &format!("  given up: {}", t.given_up)));
            out.push('\n');
        }
        if let (Some(since), Some(error)) = (&t.failing_since, &t.last_error) {
            let text = hanging("  FAILS: ", &format!("since {since}: {error}"));
            out.push_str(&paint.tone(Tone::Bad, text.trim_end()));
            out.push('\n');
        }
    }
    out
}

fn render_test(outcomes: &[TestOutcome], paint: Paint) -> String {
    let mut out = String::new();
    for o in outcomes {
        let line = match &o.error {
            None => hanging(&format!("{}: ", o.target), &format!("delivered ({})", o.channel)),
            Some(error) => {
                let text =
                    hanging(&format!("{}: ", o.target), &format!("NOT delivered ({}): {error}", o.channel));
                format!("{}\n", paint.tone(Tone::Bad, text.trim_end()))
            }
        };
        out.push_str(&line);
    }
    out
}
