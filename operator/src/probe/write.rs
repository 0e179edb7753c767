//! A small write to a replicated volume, made durable, in a service's container.
//!
//! Only the containers have the filesystem mounted, so it is done there, by the tools of the image. The command is not
//! killed when it takes too long (it would not die: a process that waits for a frozen device cannot), but remembered, and
//! no other one is begun while it runs.

use super::short;
use crate::core::checks::Outcome;
use crate::docker::{DockerError, Engine, ExecOutcome};
use std::time::{Duration, Instant};

/// Truncates the file first, so that a full filesystem shows even where the file is there. `df` is asked for what is
/// free to ordinary users: root may still have the last five per cent.
const SCRIPT: &str = r#"export LC_ALL=C
printf '%4096s' "$2" | dd of="$1" bs=4096 conv=fsync 2>&1 || exit 1
echo "df: $(df -Pk "$1" 2>&1 | tail -n 1)""#;
/// The shell found no such program, or may not run it.
const NO_PROGRAM: [i64; 2] = [126, 127];
/// What the shell, `dd` and MariaDB's own errors say.
const FULL: &str = "No space left on device";

/// One check, and the attempt that still hangs, if any.
#[derive(Clone, Debug)]
pub struct Write {
    /// The container.
    pub container: String,
    /// The file, as the container sees it.
    pub path: String,
    /// Less free space counts as full, bytes.
    pub min_free: u64,
    hangs: Option<(String, Instant)>,
}

impl Write {
    /// Nothing has been begun yet.
    #[must_use]
    pub fn new(container: String, path: String, min_free: u64) -> Self {
        Self { container, path, min_free, hangs: None }
    }

    fn command(&self, token: u32) -> Vec<String> {
        ["sh", "-c", SCRIPT, "baton-check", &self.path, &token.to_string()].map(str::to_owned).into()
    }
}

/// Writes once.
pub async fn write(check: &mut Write, engine: &Engine, token: u32, timeout: Duration) -> Outcome {
    if let Some((exec, since)) = &check.hangs {
        match engine.exec_runs(exec).await {
            Ok(true) => {
                return Outcome::Bad(format!("a write has been hanging for {} s", since.elapsed().as_secs()));
            }
            Ok(false) => check.hangs = None,
            Err(error) => return unanswered(engine, error).await,
        }
    }
    let command = check.command(token);
    let exec = match engine.exec_create(&check.container, &command).await {
        Ok(exec) => exec,
        Err(error) => return unanswered(engine, error).await,
    };
    match engine.exec_run(&exec, &check.container, &command, timeout).await {
        Ok(done) => judge(&done, check.min_free),
        Err(error @ DockerError::Timeout { .. }) => {
            check.hangs = Some((exec, Instant::now()));
            match unanswered(engine, error).await {
                Outcome::Bad(_) => Outcome::Bad(format!("not durable within {} ms", timeout.as_millis())),
                other => other,
            }
        }
        Err(error) => unanswered(engine, error).await,
    }
}

/// An error of a command in a container: an engine that does not answer says nothing about the service.
pub(crate) async fn unanswered(engine: &Engine, error: DockerError) -> Outcome {
    let text = short(&crate::causes::chain(&error));
    match error {
        DockerError::Unreachable { .. } => Outcome::Unknown(text),
        DockerError::Timeout { .. } if engine.ping().await.is_err() => Outcome::Unknown(text),
        _ => Outcome::Bad(text),
    }
}

fn judge(done: &ExecOutcome, min_free: u64) -> Outcome {
    let line = |of: &dyn Fn(&str) -> bool| done.output.lines().rfind(|l| of(l));
    let said = line(&|l| l.contains(FULL)).or_else(|| line(&|l| l.contains("dd:") || l.contains("sh:")));
    let said = short(said.unwrap_or(&done.output));
    if done.output.contains(FULL) {
        return Outcome::Incurable(format!("the disk is full: {said}"));
    }
    if NO_PROGRAM.contains(&done.exit_code) || done.output.contains("dd: not found") {
        return Outcome::Incurable(format!("the image has no sh, dd or df: {said}"));
    }
    if done.exit_code != 0 {
        return Outcome::Bad(format!("exit {}: {said}", done.exit_code));
    }
    match free(&done.output) {
        Some(free) if free < min_free => {
            Outcome::Incurable(format!("the disk is full: {} KiB are free", free / 1024))
        }
        Some(_) | None => Outcome::Good,
    }
}

/// What `df -Pk` says is available, in bytes: the column before the percentage.
fn free(output: &str) -> Option<u64> {
    let line = output.lines().rfind(|l| l.starts_with("df: "))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let percent = words.iter().rposition(|w| w.strip_suffix('%').is_some_and(|n| n.parse::<u8>().is_ok()))?;
    words.get(percent.checked_sub(1)?)?.parse::<u64>().ok().map(|kib| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The script as a container runs it, on this host.
    fn run(path: &str, token: u32) -> ExecOutcome {
        let command = Write::new("c".into(), path.into(), 0).command(token);
        let done = std::process::Command::new(&command[0]).args(&command[1..]).output().expect("sh");
        let output = [done.stdout, done.stderr].concat();
        ExecOutcome {
            exit_code: done.status.code().map_or(-1, i64::from),
            output: String::from_utf8(output).expect("text"),
        }
    }

    #[test]
    fn four_kib_are_written_and_the_free_space_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a file");
        for token in [1, 22] {
            let done = run(path.to_str().unwrap(), token);
            assert_eq!(judge(&done, 1), Outcome::Good, "{done:?}");
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!((text.len(), text.trim()), (4096, token.to_string().as_str()));
            let said = free(&done.output).expect("df answers");
            let is = rustix::fs::statvfs(dir.path()).unwrap();
            let is = is.f_bavail * is.f_frsize;
            assert!(said.abs_diff(is) < is / 2 + (64 << 20), "{said} of {is}");
            let full = judge(&done, u64::MAX);
            assert!(matches!(&full, Outcome::Incurable(why) if why.contains("KiB are free")), "{full:?}");
        }
    }

    #[test]
    fn a_full_disk_is_told_from_one_that_fails() {
        let full = judge(&run("/dev/full", 1), 1);
        assert!(matches!(&full, Outcome::Incurable(why) if why.contains("No space left")), "{full:?}");
        let failed = judge(&run("/nonexistent/file", 1), 1);
        assert!(matches!(&failed, Outcome::Bad(why) if why.contains("/nonexistent/file")), "{failed:?}");
    }

    #[test]
    fn an_image_without_the_tools_is_a_mistake_of_the_check() {
        let done = |exit_code, output: &str| ExecOutcome { exit_code, output: output.into() };
        let missing = judge(&done(127, "sh: not found"), 1);
        assert!(matches!(missing, Outcome::Incurable(_)), "{missing:?}");
        assert_eq!(judge(&done(0, "df: df: not found"), 1), Outcome::Good, "without df only writes count");
    }
}
