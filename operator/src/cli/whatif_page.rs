//! `baton what-if`: asks an agent for a forecast and shows it.

use super::client::ApiClient;
use super::exit::{CliError, Exit};
use super::format::Format;
use super::paint::{Paint, Tone, cell, flow, hanging};
use super::print;
use crate::whatif::{Forecast, Verdict, WhatIf};
use clap::Args;

/// Arguments of `what-if`.
#[derive(Args, Clone, Debug, Default)]
pub struct WhatIfArgs {
    /// What goes down: a node (its power is cut), etcd (all of it), link or link:2 (a network between the nodes, in the
    /// order of the specification), agent:NODE (only its agent dies), cable:NODE (every cable is pulled), etcd:NODE (its
    /// way to etcd). May be repeated: all at one moment.
    #[arg(long, short, required = true, value_name = "WHAT", value_delimiter = ',', add = super::complete::faults())]
    pub down: Vec<String>,
    /// Only this group.
    #[arg(long, short, value_name = "GROUP", add = super::complete::groups())]
    pub group: Option<String>,
    /// Also what each node would say, with the time from the fault.
    #[arg(long, short)]
    pub timeline: bool,
    /// The form of the answer.
    #[command(flatten)]
    pub format: Format,
}

/// 0 if every group that is served now is served in the end, else that of `status` for "down".
pub(super) async fn run(client: &ApiClient, args: &WhatIfArgs, paint: Paint) -> Result<Exit, CliError> {
    let seen: WhatIf = client.get(&path(args)?).await?;
    print(&args.format.show(&seen, |seen| render(seen, args.timeline, paint)))?;
    Ok(if seen.stops() { Exit::Down } else { Exit::Ok })
}

fn path(args: &WhatIfArgs) -> Result<String, CliError> {
    for word in args.down.iter().chain(&args.group) {
        let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        if word.is_empty() || !word.chars().all(ok) {
            let next = "Names hold letters, digits, '-', '_' and '.'; see 'baton what-if --help'.";
            return Err(CliError::new(Exit::Usage, format!("'{word}' is no name"), next));
        }
    }
    let group = args.group.as_ref().map(|g| format!("&group={g}")).unwrap_or_default();
    Ok(format!("/v1/what-if?down={}{group}", args.down.join(",")))
}

/// The forecast as text.
#[must_use]
pub fn render(seen: &WhatIf, timeline: bool, paint: Paint) -> String {
    let mut out = flow(paint, 0, 2, &[(format!("If {}:", seen.down.join(", and ")), Tone::Head)]);
    if seen.groups.is_empty() {
        out.push_str("  (there is no group)\n");
    }
    for group in &seen.groups {
        let pieces = [(format!("{}: ", group.group), tone(group)), cell(&group.summary)];
        out.push_str(&flow(paint, 2, 4, &pieces));
        if timeline {
            for said in &group.timeline {
                let at = format!("    +{}.{:03} s  {}: ", said.at_ms / 1000, said.at_ms % 1000, said.node);
                out.push_str(&hanging(&at, &said.text));
            }
        }
    }
    out.push_str("  Taken for granted\n");
    for assumption in &seen.assumptions {
        out.push_str(&hanging("    * ", assumption));
    }
    out
}

fn tone(group: &Forecast) -> Tone {
    match group.verdict {
        Verdict::GoesOn | Verdict::Starts => Tone::Good,
        Verdict::Takeover | Verdict::Pause => Tone::Warn,
        Verdict::Stops | Verdict::StaysDown => Tone::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_goes_into_the_path_and_nothing_else() {
        let args = |down: &[&str], group: Option<&str>| WhatIfArgs {
            down: down.iter().map(|d| (*d).to_owned()).collect(),
            group: group.map(str::to_owned),
            ..WhatIfArgs::default()
        };
        let asked = path(&args(&["alpha", "link:2"], Some("web"))).unwrap();
        assert_eq!(asked, "/v1/what-if?down=alpha,link:2&group=web");
        for bad in ["a&b", "a b", "", "a#b", "a%2c"] {
            assert_eq!(path(&args(&[bad], None)).unwrap_err().exit, Exit::Usage, "{bad}");
        }
        assert!(path(&args(&["alpha"], Some("x?y"))).is_err());
    }
}
