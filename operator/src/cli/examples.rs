//! Examples of every command: shown by `--help`, in the manual pages and in docs/cli.md. Tests see to it that each
//! command has one and that each one is a command.

use clap::Command;

/// Command, example, what it does. Commands without a line here fail a test.
const EXAMPLES: &[(&str, &str, &str)] = &[
    ("status", "baton status", "everything on one page"),
    ("status", "baton status --problems --full", "only what needs somebody"),
    ("status", "baton status --group 'shop-*' --json", "for a program"),
    ("watch", "baton watch", "live on the whole screen"),
    ("watch", "baton watch --plain --interval 5s", "as text, for a log"),
    ("nodes", "baton nodes", "a line per node"),
    ("node show", "baton node show beta", "everything about beta"),
    ("links", "baton links", "who hears whom, and how well"),
    ("groups", "baton groups --yaml", "all groups, for a program"),
    ("group show", "baton group show web", "everything about web"),
    ("group pin", "baton group pin web --to beta --reason audit", "move web to beta, and let it stay there"),
    ("group unpin", "baton group unpin web", "it may move by itself again"),
    ("group disable", "baton group disable web --reason 'being replaced'", "stop web, and keep it stopped"),
    ("group enable", "baton group enable web", "start it again"),
    ("explain", "baton explain web", "why it is where it is, what would change it"),
    ("what-if", "baton what-if --down alpha", "who takes over what, and after how many seconds"),
    ("what-if", "baton what-if --down alpha --down etcd", "both at once"),
    ("what-if", "baton what-if --down link --timeline", "a network, with what each node would do when"),
    ("what-if", "baton what-if --down alpha --group web --json", "for a program"),
    ("move", "baton move web --to beta", "hand web over to beta and wait"),
    ("move", "baton move web --no-wait", "to the best standby; do not wait"),
    ("standby", "baton standby alpha --reason 'kernel update'", "before maintenance of alpha"),
    ("online", "baton online alpha", "after it"),
    (
        "maintenance",
        "baton maintenance alpha --reason 'new disk' --for 2h",
        "leave alpha alone, and be reminded in two hours",
    ),
    ("maintenance", "baton maintenance alpha --for 1h", "it takes longer"),
    ("fence", "baton fence --list", "every node's fence devices, and whether they answer"),
    ("fence", "baton fence --test", "ask them now"),
    ("fence", "baton fence alpha --action status", "whether alpha has power"),
    ("fence", "baton fence alpha --action off --yes", "cut its power without a question"),
    ("recover", "baton recover web", "after etcd was restored from a backup"),
    ("cluster recover", "baton cluster recover --dry-run", "what every agent remembers, and what follows"),
    ("cluster recover", "baton cluster recover", "after etcd was emptied, or restored from an older backup"),
    (
        "cluster recover",
        "baton cluster recover --from alpha --is-off beta --accept-data-loss",
        "beta is lost for good, and may have led later than alpha",
    ),
    ("volume list", "baton volume list", "a line per volume and peer"),
    ("volume show", "baton volume show webstore", "everything about webstore"),
    ("volume wait", "baton volume wait webstore --timeout 10m", "until its resync has ended"),
    ("volume wait", "baton volume wait --node gamma", "until a host that has joined holds everything"),
    ("volume verify", "baton volume verify webstore", "compare the replicas' blocks"),
    ("volume pause-sync", "baton volume pause-sync webstore", "no resync while the shop is busy"),
    ("volume resume-sync", "baton volume resume-sync webstore", "in the evening"),
    (
        "volume resolve",
        "baton volume resolve webstore --discard beta",
        "after a split brain: alpha's data is kept, beta's is given up",
    ),
    ("volume snapshots", "baton volume snapshots webstore", "what was given up and is still there"),
    (
        "volume release",
        "baton volume release webstore webstore.img.discarded-1795291500-5d1c0f8e9a7b3c24",
        "nobody needs it any more",
    ),
    (
        "volume export",
        "baton volume export webstore --node beta",
        "a snapshot on beta, to be read by nbdcopy there",
    ),
    ("volume export", "baton volume export webstore --node beta --end", "after the backup"),
    ("events", "baton events -n 50", "the last 50"),
    ("events", "baton events --follow --json", "new ones as they happen, one JSON object per line"),
    ("events", "baton events --last-takeover", "how long each step of the last takeover took"),
    ("spec show", "baton spec show", "the specification in force"),
    ("spec log", "baton spec log", "earlier ones: when, who, why"),
    ("spec diff", "baton spec diff", "what the last change changed"),
    ("spec rollback", "baton spec rollback 12", "back to version 12"),
    ("spec export", "baton spec export", "as a file to keep"),
    ("spec reference", "baton spec reference", "every field, with its default"),
    ("spec schema", "baton spec schema", "for an editor"),
    ("check", "baton check cluster.yaml", "all errors, with their lines"),
    ("apply", "baton apply cluster.yaml --dry-run", "only say what would change"),
    ("notify list", "baton notify list", "whom the cluster tells"),
    ("notify test", "baton notify test operators", "send a test message"),
    ("cert init", "baton cert init --cluster shop", "the cluster's authorities"),
    ("cert node", "baton cert node alpha --address 192.168.0.5", "a node's certificates"),
    ("cert etcd", "baton cert etcd witness --address 192.168.0.7", "those of the witness"),
    ("cert client", "baton cert client ada --role operator", "a person's certificate"),
    ("cert renew", "baton cert renew", "all that expire soon"),
    ("cert show", "baton cert show", "what there is, and until when"),
    ("token create", "baton token create grafana --role viewer", "a token for a tool"),
    ("token list", "baton token list", "what there is"),
    ("token revoke", "baton token revoke 4f1c", "not any more"),
    ("is", "baton is leader --group web", "exit code 0 if it leads here"),
    ("context list", "baton context list", "which clusters are known"),
    ("context use", "baton context use shop", "talk to this one from now on"),
    (
        "context add",
        "baton context add shop https://192.168.0.5:7480,https://192.168.0.6:7480",
        "a cluster under a name",
    ),
    ("context remove", "baton context remove shop", "forget it"),
    ("context show", "baton context show", "the one in use"),
    ("support-bundle", "baton support-bundle -o /tmp/bundle.tar.gz", "for a bug report"),
    ("doctor", "baton doctor", "before a host joins, and later"),
    ("doctor", "baton doctor --only disk --etcd-dir /var/lib/etcd", "etcd's disk alone"),
    ("completions", "baton completions bash > /etc/bash_completion.d/baton", "for every user's bash"),
    ("man", "baton man --dir /usr/local/share/man/man1", "the manual pages"),
    ("exit-codes", "baton help exit-codes", "what the exit codes mean"),
];

/// The parser with the examples in it.
#[must_use]
pub fn with_examples(command: Command) -> Command {
    add(command, "")
}

/// A command that does something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The words that lead to it: `node show`.
    pub path: String,
    /// Its long options, without those that every command takes.
    pub options: Vec<String>,
}

/// All commands below `command` that do something.
#[must_use]
pub fn leaves(command: &Command) -> Vec<Leaf> {
    fn look(command: &Command, path: &str, all: &mut Vec<Leaf>) {
        let subs: Vec<&Command> = command.get_subcommands().filter(|c| c.get_name() != "help").collect();
        if subs.is_empty() {
            let options = command.get_arguments().filter_map(|a| a.get_long()).map(str::to_owned).collect();
            all.push(Leaf { path: path.to_owned(), options });
        }
        for sub in subs {
            look(sub, format!("{path} {}", sub.get_name()).trim(), all);
        }
    }
    let mut all = Vec::new();
    look(command, "", &mut all);
    all
}

fn add(command: Command, path: &str) -> Command {
    let text: Vec<String> = EXAMPLES
        .iter()
        .filter(|(name, ..)| *name == path)
        .map(|(_, example, what)| format!("  {example}\n      {what}"))
        .collect();
    let command = match (path.is_empty(), text.is_empty()) {
        (false, false) => command.after_help(format!("Examples:\n{}", text.join("\n"))),
        _ => command,
    };
    command.mut_subcommands(|sub| {
        let path =
            if path.is_empty() { sub.get_name().to_owned() } else { format!("{path} {}", sub.get_name()) };
        add(sub, &path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::CommandFactory;

    #[test]
    fn every_command_has_an_example_and_every_example_is_a_command() {
        let all: Vec<String> = leaves(&Cli::command()).into_iter().map(|leaf| leaf.path).collect();
        let missing: Vec<&String> =
            all.iter().filter(|c| !EXAMPLES.iter().any(|(name, ..)| name == c)).collect();
        assert!(missing.is_empty(), "commands without an example: {missing:?}");
        for (name, example, what) in EXAMPLES.iter().filter(|(name, ..)| all.iter().any(|c| c == name)) {
            assert!(!what.is_empty());
            // As a shell splits them: every second piece stands in quotes.
            let pieces = example.split(" > ").next().unwrap().split('\'').enumerate();
            let words: Vec<&str> = pieces
                .flat_map(
                    |(n, piece)| if n % 2 == 1 { vec![piece] } else { piece.split_whitespace().collect() },
                )
                .collect();
            let parsed = Cli::command().try_get_matches_from(&words);
            let help = parsed.as_ref().err().is_some_and(|e| e.kind() == clap::error::ErrorKind::DisplayHelp);
            assert!(parsed.is_ok() || help, "{example}: {}", parsed.unwrap_err());
            assert!(
                example.starts_with(&format!("baton {name}")) || help,
                "{example} is no example of {name}"
            );
        }
    }

    #[test]
    fn every_command_says_what_it_does() {
        fn look(command: &Command) {
            for sub in command.get_subcommands() {
                assert!(sub.get_about().is_some(), "{} has no description", sub.get_name());
                for arg in sub.get_arguments() {
                    assert!(
                        arg.get_help().is_some(),
                        "{} of {} has no description",
                        arg.get_id(),
                        sub.get_name()
                    );
                }
                look(sub);
            }
        }
        look(&Cli::command());
        let mut help = with_examples(Cli::command());
        let text = help.find_subcommand_mut("move").unwrap().render_long_help().to_string();
        assert!(text.contains("Examples:\n  baton move web --to beta\n"), "{text}");
    }
}
