//! The reference of the command line as Markdown, generated from the parser: docs/cli.md is this. A test holds it.

use super::args::Cli;
use super::examples::with_examples;
use super::exit::EXIT_HELP;
use clap::{Arg, ArgAction, Command, CommandFactory};

const HEAD: &str = "# The command line\n\n\
<!-- Generated from the parser; BATON_UPDATE_GOLDEN=1 cargo nextest run -p baton-operator cli::reference writes it. -->\n\n\
`baton` talks to the agents' REST API: to the addresses given with `--api` or `BATON_API`, else to those of the context in\n\
use, else to the agent of this host; the first that answers is used. Every command that reads takes `--json` and\n\
`--yaml`. Tables fit 80 columns; colours are for terminals.\n\n\
## Exit codes and environment\n\n";

/// The whole page.
#[must_use]
pub fn markdown() -> String {
    let root = with_examples(Cli::command());
    let mut out = format!("{HEAD}```text\n{EXIT_HELP}\n```\n\n## Options of every command\n\n");
    options(&root, |arg| arg.is_global_set(), &mut out);
    out.push_str("\n## Commands\n");
    for sub in root.get_subcommands().filter(|s| s.get_name() != "help") {
        command(sub, "baton", 3, &mut out);
    }
    out
}

fn command(this: &Command, before: &str, level: usize, out: &mut String) {
    let path = format!("{before} {}", this.get_name());
    out.push_str(&format!("\n{} `{path}`\n\n", "#".repeat(level)));
    let about = this.get_long_about().or(this.get_about()).map(ToString::to_string).unwrap_or_default();
    if this.get_name() == "exit-codes" {
        out.push_str("Print the table above.\n");
        return;
    }
    out.push_str(&format!("{}\n", escaped(about.trim())));
    let subs: Vec<&Command> = this.get_subcommands().filter(|s| s.get_name() != "help").collect();
    if subs.is_empty() {
        let mut usage = path.clone();
        for arg in this.get_arguments().filter(|a| !hidden(a)) {
            if arg.is_positional() {
                let name = value(arg);
                usage.push_str(&if arg.is_required_set() {
                    format!(" <{name}>")
                } else {
                    format!(" [{name}]")
                });
            }
        }
        out.push_str(&format!("\nUsage: `{usage}`\n"));
        let mut list = String::new();
        options(this, |arg| !arg.is_global_set(), &mut list);
        if !list.is_empty() {
            out.push_str(&format!("\n{list}"));
        }
        if let Some(examples) = this.get_after_help().map(ToString::to_string) {
            let lines: Vec<&str> = examples.lines().skip(1).map(str::trim).collect();
            out.push_str("\n```sh\n");
            for pair in lines.chunks(2) {
                if let [example, what] = pair {
                    out.push_str(&format!("{example}  # {what}\n"));
                }
            }
            out.push_str("```\n");
        }
    }
    for sub in subs {
        command(sub, &path, level + 1, out);
    }
}

fn hidden(arg: &Arg) -> bool {
    arg.is_hide_set() || ["help", "version"].contains(&arg.get_id().as_str())
}

fn value(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    names.first().map_or_else(|| arg.get_id().as_str().to_uppercase(), ToString::to_string)
}

fn options(this: &Command, wanted: impl Fn(&Arg) -> bool, out: &mut String) {
    for arg in this.get_arguments().filter(|a| !hidden(a) && wanted(a)) {
        let mut name = match (arg.get_short(), arg.get_long()) {
            (Some(short), Some(long)) => format!("-{short}, --{long}"),
            (None, Some(long)) => format!("--{long}"),
            (Some(short), None) => format!("-{short}"),
            (None, None) => value(arg),
        };
        if !arg.is_positional() && matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) {
            name.push_str(&format!(" <{}>", value(arg)));
        }
        let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
        let mut notes = Vec::new();
        if let Some(env) = arg.get_env().and_then(|e| e.to_str()) {
            notes.push(format!("environment `{env}`"));
        }
        let flag = matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse | ArgAction::Count);
        let defaults: Vec<&str> = arg.get_default_values().iter().filter_map(|v| v.to_str()).collect();
        if !flag && !defaults.is_empty() && !defaults[0].is_empty() {
            notes.push(format!("default `{}`", defaults.join(",")));
        }
        let possible: Vec<String> = arg
            .get_possible_values()
            .iter()
            .filter(|_| !flag)
            .map(|v| format!("`{}`", v.get_name()))
            .collect();
        if !possible.is_empty() {
            notes.push(format!("one of {}", possible.join(", ")));
        }
        let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
        out.push_str(&format!("- `{name}`: {}{notes}\n", escaped(help.trim())));
    }
}

/// What Markdown would take for a tag.
fn escaped(text: &str) -> String {
    text.replace('<', "\\<").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_in_docs_is_the_parser_s() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
        let now = super::markdown();
        if std::env::var_os("BATON_UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &now).unwrap();
        }
        let held = std::fs::read_to_string(path).unwrap_or_default();
        assert!(now == held, "docs/cli.md is not what the parser says: run with BATON_UPDATE_GOLDEN=1");
    }
}
