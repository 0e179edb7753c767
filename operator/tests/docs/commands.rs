//! The commands that the documentation shows, against what there is.

use super::page::Code;
use baton_operator::cli::args::Cli;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use std::collections::BTreeSet;
use std::path::Path;

/// Targets of the Makefile.
pub struct Makefile(BTreeSet<String>);

impl Makefile {
    /// Reads them.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("the Makefile");
        let target = |line: &str| line.split_once(':').map(|(name, _)| name.to_owned());
        let targets = text.lines().filter(|l| l.starts_with(|c: char| c.is_ascii_lowercase()));
        Self(targets.filter_map(target).collect())
    }
}

/// The lines of a piece of code that are commands of ours. In a sentence they may be unfinished.
pub fn lines(code: &Code) -> Vec<String> {
    if !code.shell && !code.inline {
        return Vec::new();
    }
    let joined = code.text.replace("\\\n", " ");
    let clean = |line: &str| {
        let line = line.trim().trim_start_matches("$ ").trim_start_matches("# ");
        line.split("  #").next().unwrap_or_default().trim().to_owned()
    };
    joined.lines().map(clean).filter(|line| is_ours(line)).collect()
}

fn is_ours(line: &str) -> bool {
    let mut words = line.split_whitespace();
    match words.next() {
        // One word is the name of the program, not a command.
        Some("baton" | "make") => {
            words.next().is_some_and(|next| next.starts_with(|c: char| c.is_ascii_lowercase() || c == '-'))
        }
        Some("docker" | "sudo") => baton_in(line).is_some(),
        Some(first) => !line.contains('{') && first.starts_with("compose/scripts/"),
        None => false,
    }
}

/// The `baton` command inside `docker exec`, `docker compose exec`, `docker run` or `sudo`.
fn baton_in(line: &str) -> Option<Vec<String>> {
    let words = words(line);
    let at = words.iter().position(|w| *w == "baton")?;
    let rest = words.get(at + 1)?;
    rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '-').then(|| words[at..].to_vec())
}

/// Words as a shell splits them: what stands in quotes is one.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c.is_whitespace() => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words.retain(|w| !w.is_empty());
    words
}

/// Is this a command that works?
///
/// # Errors
/// What is wrong with it.
pub fn check(line: &str, makefile: &Makefile, root: &Path) -> Result<(), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.first() {
        Some(&"make") => {
            let target = words.get(1).copied().unwrap_or_default();
            makefile.0.contains(target).then_some(()).ok_or_else(|| format!("there is no target {target}"))
        }
        Some(first) if first.starts_with("compose/") => {
            root.join(first).exists().then_some(()).ok_or_else(|| format!("there is no {first}"))
        }
        _ => baton_in(line).map_or(Ok(()), |words| parse(&words)),
    }
}

/// Words up to the shell's own (pipes, redirections), quotes removed; clap says whether it knows them.
fn parse(words: &[String]) -> Result<(), String> {
    let own =
        words.iter().take_while(|w| !matches!(w.as_str(), "|" | ">" | ">>" | "<" | "&&" | "||" | ";" | "&"));
    let args: Vec<String> = own.map(|w| w.trim_matches(['"', '\'']).to_owned()).collect();
    if args.iter().any(|w| w.contains('…') || w.contains("...")) {
        return path(&args);
    }
    let Err(error) = Cli::try_parse_from(&args) else { return Ok(()) };
    match error.kind() {
        // Asked for help, or a command named without its arguments.
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::InvalidValue
        | ErrorKind::ValueValidation => path(&args),
        _ if args.get(1).is_some_and(|w| w == "help") => path(&args),
        _ => Err(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

/// The words that name commands do so.
fn path(args: &[String]) -> Result<(), String> {
    let mut command = Cli::command();
    // Made by the library for every command.
    let help = args.get(1).is_some_and(|w| w == "help");
    for word in args.iter().skip(1 + usize::from(help)).filter(|w| !w.starts_with('-')) {
        if command.get_subcommands().next().is_none() {
            return Ok(());
        }
        let next = command.find_subcommand(word).cloned();
        command = match next {
            Some(next) => next,
            None if word.contains('…') || word.contains("...") => return Ok(()),
            None => return Err(format!("there is no command {word}")),
        };
    }
    Ok(())
}
