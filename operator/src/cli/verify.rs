//! `baton volume verify`: asks for it, and watches it to its end. `baton volume pause-sync` and `resume-sync`.

use super::client::ApiClient;
use super::exit::{CliError, Exit};
use super::paint::bytes;
use super::volume_page::verify_bar;
use super::{bad_name, print};
use crate::api::Accepted;
use baton_replicator::api::{VerifyState, VerifyStatus, VolumeStatus};
use baton_replicator::types::VolumeName;
use clap::Args;
use indicatif::ProgressBar;
use reqwest::Method;
use std::io::{self, IsTerminal};
use std::time::Duration;

/// Between two looks: the agent that answers hears of progress every five seconds, the primary's own twice a second.
const LOOK: Duration = Duration::from_millis(500);

/// Arguments of `volume verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The volume.
    #[arg(value_name = "VOLUME")]
    pub name: String,
    /// Copy what differs from the primary to the secondary.
    #[arg(long, conflicts_with = "stop")]
    pub repair: bool,
    /// Stop the one that runs.
    #[arg(long)]
    pub stop: bool,
    /// Wait for the end and show progress; exit 1 if something differs and was not repaired.
    #[arg(long, conflicts_with = "stop")]
    pub wait: bool,
}

pub(super) async fn run(client: &ApiClient, args: &VerifyArgs) -> Result<Exit, CliError> {
    let name = VolumeName::new(args.name.clone()).map_err(bad_name)?;
    let volume = format!("/v1/volumes/{name}");
    let path = format!("{volume}/verify?repair={}", args.repair);
    let method = if args.stop { Method::DELETE } else { Method::POST };
    let before: VolumeStatus = client.get(&volume).await?;
    let accepted: Accepted = client.command(method, &path, &serde_json::json!({})).await?;
    print(&format!("{}\n", accepted.message))?;
    if !args.wait {
        return Ok(Exit::Ok);
    }
    let old = before.verify.map(|v| v.id);
    let bar = io::stderr().is_terminal().then(ProgressBar::new_spinner);
    let mut shown = String::new();
    let ended = loop {
        // An agent that stops answering is no end: it goes on without us.
        if let Ok(VolumeStatus { verify: Some(v), .. }) = client.get::<VolumeStatus>(&volume).await
            && Some(v.id) != old
        {
            if !v.state.is_running() {
                break v;
            }
            let line = match &v.reason {
                Some(reason) => format!("{}  {reason}", verify_bar(&v)),
                None => verify_bar(&v),
            };
            match &bar {
                Some(bar) => {
                    bar.set_message(line.clone());
                    bar.tick();
                }
                None if line != shown => eprintln!("{line}"),
                None => {}
            }
            shown = line;
        }
        tokio::time::sleep(LOOK).await;
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    print(&format!("{}\n", summary(&name, &ended)))?;
    let whole = ended.state == VerifyState::Done && ended.mismatched_bytes <= ended.repaired_bytes;
    Ok(if whole { Exit::Ok } else { Exit::Failed })
}

/// `volume pause-sync` and `volume resume-sync`.
pub(super) async fn pause(client: &ApiClient, name: String, verb: &str) -> Result<Exit, CliError> {
    let name = VolumeName::new(name).map_err(bad_name)?;
    let path = format!("/v1/volumes/{name}/{verb}-sync");
    let accepted: Accepted = client.command(Method::POST, &path, &serde_json::json!({})).await?;
    print(&format!(
        "{}\n",
        std::iter::once(accepted.message).chain(accepted.consequences).collect::<Vec<_>>().join("; ")
    ))
}

/// What came of it, in one or two sentences.
pub(super) fn summary(name: &VolumeName, v: &VerifyStatus) -> String {
    let state = match v.state {
        VerifyState::Done => "is done",
        VerifyState::Stopped => "was stopped",
        VerifyState::Aborted => "was aborted",
        VerifyState::Running => "runs",
        VerifyState::Waiting => "waits",
    };
    let reason = v.reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
    let found = match (v.mismatched_bytes, v.repaired_bytes) {
        (0, 0) => "nothing differs".to_owned(),
        (0, repaired) => format!("{} that were marked before have been repaired", bytes(repaired)),
        (found, 0) => {
            format!(
                "{} differ: 'baton volume verify {name} --repair' copies them from the primary",
                bytes(found)
            )
        }
        (found, repaired) => format!("{} differed, {} repaired", bytes(found), bytes(repaired)),
    };
    format!(
        "Verify of {name} {state}{reason}: {} of {} compared, {found}.",
        bytes(v.checked_bytes),
        bytes(v.total_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_to_do() {
        let name = VolumeName::new("webstore").unwrap();
        let v = VerifyStatus {
            state: VerifyState::Done,
            total_bytes: 1 << 30,
            checked_bytes: 1 << 30,
            ..VerifyStatus::default()
        };
        assert_eq!(
            summary(&name, &v),
            "Verify of webstore is done: 1.00 GiB of 1.00 GiB compared, nothing differs."
        );
        let found = VerifyStatus { mismatched_bytes: 8192, ..v.clone() };
        assert!(summary(&name, &found).contains("8.00 KiB differ: 'baton volume verify webstore --repair'"));
        let aborted = VerifyStatus { state: VerifyState::Aborted, reason: Some("beta is away".into()), ..v };
        assert!(summary(&name, &aborted).starts_with("Verify of webstore was aborted (beta is away)"));
    }
}
