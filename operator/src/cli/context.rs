//! Contexts: which cluster `baton` talks to, and with which credentials, by name.
//!
//! Kept in `~/.config/baton/config.yaml` (`$XDG_CONFIG_HOME/baton/config.yaml`), replaced as a whole, mode 0600. It names
//! files with tokens and keys; it holds none itself. Flags win over the environment, the environment over the context.

use super::endpoint::ClientOptions;
use super::exit::{CliError, Exit};
use super::format::{Format, yaml};
use super::paint::{Paint, Tone, cell, table};
use super::print;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Longest file that is read; hundreds of clusters fit.
const FILE_MAX: u64 = 256 << 10;

/// What to do with contexts.
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// All contexts; the one in use is marked.
    List {
        /// The form of the answer.
        #[command(flatten)]
        format: Format,
    },
    /// Use this one from now on.
    Use {
        /// The context.
        #[arg(value_name = "CONTEXT", add = super::complete::contexts())]
        name: String,
    },
    /// Add one, or replace one of the same name; the first one is used at once.
    Add(AddArgs),
    /// Remove one.
    Remove {
        /// The context.
        #[arg(value_name = "CONTEXT", add = super::complete::contexts())]
        name: String,
    },
    /// Show one (default: the one in use), and where it is kept.
    Show {
        /// The context.
        #[arg(value_name = "CONTEXT", add = super::complete::contexts())]
        name: Option<String>,
        /// The form of the answer.
        #[command(flatten)]
        format: Format,
    },
}

/// Arguments of `context add`; credentials are those of the global options.
#[derive(Args, Clone, Debug)]
pub struct AddArgs {
    /// Its name.
    #[arg(value_name = "CONTEXT")]
    pub name: String,
    /// API addresses of the cluster's agents, separated by commas.
    #[arg(value_name = "API", value_delimiter = ',', required = true)]
    pub addresses: Vec<String>,
}

/// A context as `show` gives it to programs.
#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
    #[serde(flatten)]
    context: &'a Context,
}

/// One cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// API addresses.
    pub api: Vec<String>,
    /// Certificate of the cluster's authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// File with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

/// Where the file is; none without a home directory.
#[must_use]
pub fn path(environment: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| environment(name).filter(|v| !v.is_empty());
    let base = set("XDG_CONFIG_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let base = base.or_else(|| Some(PathBuf::from(set("HOME")?).join(".config")))?;
    Some(base.join("baton/config.yaml"))
}

/// The context to take addresses and credentials from: the one asked for by flag or `BATON_CONTEXT`, else, unless
/// addresses are given (`addressed`), the one in use. None if there is none.
///
/// # Errors
/// The file cannot be read, or has no context of that name.
pub fn chosen(
    asked: Option<&str>,
    addressed: bool,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<Context>, CliError> {
    if asked.is_none() && addressed {
        return Ok(None);
    }
    let Some(path) = path(environment) else { return Ok(None) };
    let file = read(&path)?;
    match asked.map(str::to_owned).or_else(|| file.current.clone()) {
        Some(name) => Ok(Some(find(&file, &name)?.clone())),
        None => Ok(None),
    }
}

/// The names there are; none if the file cannot be read.
pub(super) fn names(environment: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let file = path(environment).and_then(|path| read(&path).ok()).unwrap_or_default();
    file.contexts.into_keys().collect()
}

fn find<'a>(file: &'a Contexts, name: &str) -> Result<&'a Context, CliError> {
    file.contexts.get(name).ok_or_else(|| {
        let known: Vec<&str> = file.contexts.keys().map(String::as_str).collect();
        let next = if known.is_empty() {
            "There is none yet: baton context add NAME https://HOST:7480".to_owned()
        } else {
            format!("There are: {}.", known.join(", "))
        };
        CliError::new(Exit::Usage, format!("no context is called '{name}'"), next)
    })
}

fn read(path: &Path) -> Result<Contexts, CliError> {
    let shown = path.display();
    let failed =
        |e: String, next: &str| CliError::new(Exit::Failed, format!("cannot read {shown}: {e}"), next);
    let size = match std::fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Contexts::default()),
        Err(e) => return Err(failed(e.to_string(), "")),
    };
    if size > FILE_MAX {
        return Err(failed("it is too large".into(), "Is it another program's file?"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string(), ""))?;
    if text.trim().is_empty() {
        return Ok(Contexts::default());
    }
    serde_saphyr::from_str(&text)
        .map_err(|e| failed(e.to_string(), "Correct it, or remove it and add the contexts again."))
}

/// Written aside and renamed, so that a crash leaves the old file.
fn write(path: &Path, file: &Contexts) -> Result<(), CliError> {
    let attempt = || -> std::io::Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let aside = path.with_extension("yaml.new");
        let mut new = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        // One left by a crash may have another mode.
        new.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        new.write_all(yaml(file).as_bytes())?;
        new.sync_all()?;
        std::fs::rename(&aside, path)
    };
    attempt().map_err(|e| CliError::new(Exit::Failed, format!("cannot write {}: {e}", path.display()), ""))
}

/// Runs a command on the file.
pub(super) fn run(
    command: ContextCommand,
    given: &ClientOptions,
    environment: impl Fn(&str) -> Option<String>,
    paint: Paint,
) -> Result<Exit, CliError> {
    let path = path(&environment).ok_or_else(|| {
        CliError::new(
            Exit::Failed,
            "there is no home directory to keep contexts in",
            "Set HOME or XDG_CONFIG_HOME.",
        )
    })?;
    let mut file = read(&path)?;
    // What is in force here, not what the file says.
    let in_use = environment("BATON_CONTEXT").filter(|v| !v.is_empty()).or_else(|| file.current.clone());
    match command {
        ContextCommand::List { format } => {
            print(&format.show(&file, |file| list(file, in_use.as_deref(), paint)))
        }
        ContextCommand::Use { name } => {
            find(&file, &name)?;
            file.current = Some(name.clone());
            write(&path, &file)?;
            print(&format!("Using context {name}.\n"))
        }
        ContextCommand::Add(args) => {
            let name = args.name.clone();
            let context = checked(args, given)?;
            let replaced = file.contexts.insert(name.clone(), context).is_some();
            file.current = file.current.or_else(|| Some(name.clone()));
            let using = if file.current.as_ref() == Some(&name) { ", and in use" } else { "" };
            write(&path, &file)?;
            print(&format!("Context {name} {}{using}.\n", if replaced { "replaced" } else { "added" }))
        }
        ContextCommand::Remove { name } => {
            find(&file, &name)?;
            file.contexts.remove(&name);
            file.current = file.current.filter(|current| *current != name);
            let none = if file.current.is_none() { "; none is in use now" } else { "" };
            write(&path, &file)?;
            print(&format!("Context {name} removed{none}.\n"))
        }
        ContextCommand::Show { name, format } => {
            let Some(name) = name.or(in_use) else {
                let next =
                    "Use one: baton context use NAME; or add one: baton context add NAME https://HOST:7480";
                return Err(CliError::new(Exit::Failed, "no context is in use", next));
            };
            let context = find(&file, &name)?;
            let named = Named { name: &name, context };
            print(&format.show(&named, |named| {
                format!("# {}, in {}\n{}", named.name, path.display(), yaml(named.context))
            }))
        }
    }
}

fn checked(args: AddArgs, given: &ClientOptions) -> Result<Context, CliError> {
    let fine = !args.name.is_empty()
        && args.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && args.name.len() <= 63;
    if !fine {
        let next = "Use letters, digits, '-', '_' and '.', at most 63.";
        return Err(CliError::new(Exit::Usage, format!("'{}' is no name for a context", args.name), next));
    }
    // A relative path would mean another file tomorrow.
    let absolute = |path: Option<PathBuf>| match path {
        Some(path) => std::path::absolute(&path)
            .map(Some)
            .map_err(|e| CliError::new(Exit::Usage, format!("{} is no path: {e}", path.display()), "")),
        None => Ok(None),
    };
    let context = Context {
        api: args.addresses,
        ca: absolute(given.ca.clone())?,
        token_file: absolute(given.token_file.clone())?,
        cert: absolute(given.cert.clone())?,
        key: absolute(given.key.clone())?,
    };
    for path in [&context.token_file, &context.key].into_iter().flatten() {
        let mode = std::fs::metadata(path)
            .map_err(|e| CliError::new(Exit::Failed, format!("cannot use {}: {e}", path.display()), ""))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            let next = format!("Run: chmod 600 {}", path.display());
            let what = format!("{} can be read by others (mode {:04o})", path.display(), mode & 0o7777);
            return Err(CliError::new(Exit::Failed, what, next));
        }
    }
    Ok(context)
}

fn list(file: &Contexts, in_use: Option<&str>, paint: Paint) -> String {
    if file.contexts.is_empty() {
        return "No context; 'baton context add NAME https://HOST:7480' makes one.\n".to_owned();
    }
    let row = |(name, context): (&String, &Context)| {
        let used = in_use == Some(name.as_str());
        let by = match (&context.token_file, &context.cert) {
            (Some(_), _) => "token",
            (None, Some(_)) => "certificate",
            (None, None) => "-",
        };
        let tone = if used { Tone::Good } else { Tone::Plain };
        vec![
            (if used { "*".into() } else { String::new() }, tone),
            (name.clone(), tone),
            cell(by),
            cell(context.api.join(" ")),
        ]
    };
    let rows: Vec<_> = file.contexts.iter().map(row).collect();
    table(paint, 0, &["", "CONTEXT", "PROOF", "API"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        credentials: crate::cli::args::Credentials,
        #[command(subcommand)]
        command: ContextCommand,
    }

    fn environment(dir: &Path) -> impl Fn(&str) -> Option<String> {
        let dir = dir.display().to_string();
        move |name| (name == "XDG_CONFIG_HOME").then(|| dir.clone())
    }

    fn context(dir: &Path, line: &[&str]) -> Result<Exit, CliError> {
        let line = ["context"].into_iter().chain(line.iter().copied());
        let Line { credentials, command } = Line::try_parse_from(line).unwrap();
        let given = ClientOptions {
            addresses: Vec::new(),
            ca: credentials.ca,
            token_file: credentials.token_file,
            cert: credentials.cert,
            key: credentials.key,
        };
        run(command, &given, environment(dir), Paint { color: false })
    }

    #[test]
    fn contexts_are_kept_used_and_removed() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        let now = |asked: Option<&str>, addressed| chosen(asked, addressed, environment(dir));
        assert_eq!(now(None, false), Ok(None), "no file is no error");
        assert!(context(dir, &["show"]).unwrap_err().next.contains("context add"));
        context(dir, &["add", "prod", "https://a:7480,https://b:7480"]).unwrap();
        context(dir, &["add", "test", "https://t:7480"]).unwrap();
        assert_eq!(
            now(None, false).unwrap().unwrap().api,
            ["https://a:7480", "https://b:7480"],
            "the first is used"
        );
        context(dir, &["use", "test"]).unwrap();
        assert_eq!(now(None, false).unwrap().unwrap().api, ["https://t:7480"]);
        assert_eq!(
            now(Some("prod"), false).unwrap().unwrap().api.len(),
            2,
            "asked for by flag or environment"
        );
        assert_eq!(now(None, true), Ok(None), "addresses given: the context in use does not count");
        assert!(now(Some("prod"), true).unwrap().is_some(), "asked for: its credentials count");
        let error = now(Some("prob"), false).unwrap_err();
        assert!(error.next.contains("prod, test"), "{error}");
        for line in [&["list"][..], &["list", "--json"], &["show", "--yaml"], &["remove", "test"]] {
            assert_eq!(context(dir, line), Ok(Exit::Ok), "{line:?}");
        }
        assert_eq!(now(None, false), Ok(None), "the one in use was removed");
        let file = dir.join("baton/config.yaml");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        std::fs::write(&file, "contexts: [1").unwrap();
        assert!(now(None, false).unwrap_err().message.contains("config.yaml"));
    }

    #[test]
    fn a_token_file_must_be_private_and_paths_become_absolute() {
        let home = tempfile::tempdir().unwrap();
        let token = home.path().join("token");
        std::fs::write(&token, "x").unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
        let add = |path: &str| context(home.path(), &["add", "prod", "https://a", "--token-file", path]);
        assert!(add(token.to_str().unwrap()).unwrap_err().next.starts_with("Run: chmod 600"));
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
        add(token.to_str().unwrap()).unwrap();
        assert!(add("/no/such/token").is_err());
        assert!(context(home.path(), &["add", "a b", "x"]).is_err());
        let kept = chosen(None, false, environment(home.path())).unwrap().unwrap();
        assert!(kept.token_file.unwrap().is_absolute());
    }

    #[test]
    fn the_file_is_where_xdg_wants_it() {
        let of = |pairs: &[(&str, &str)]| {
            path(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(of(&[("HOME", "/root")]).unwrap(), Path::new("/root/.config/baton/config.yaml"));
        assert_eq!(
            of(&[("HOME", "/root"), ("XDG_CONFIG_HOME", "/x")]).unwrap(),
            Path::new("/x/baton/config.yaml")
        );
        let relative = of(&[("HOME", "/root"), ("XDG_CONFIG_HOME", "x")]).unwrap();
        assert_eq!(
            relative,
            Path::new("/root/.config/baton/config.yaml"),
            "XDG says: relative paths do not count"
        );
        assert_eq!(of(&[]), None);
    }
}
