//! Runs commands with a deadline. Every wait is bounded: a command that hangs is killed and is an error.

use anyhow::{Context, Result, bail};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time of an ordinary command: `docker start` of a container with a namespace takes about a second
/// on a busy two-core machine, so 60 s is reached by a hang only.
pub const LONG: Duration = Duration::from_secs(60);

/// What a command left behind.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Both streams.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A text that was folded at the width of a terminal, as one line.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs a command to its end and returns what it left, whatever its exit code.
///
/// # Errors
/// If it cannot be started or does not end within `limit`.
pub fn try_run(limit: Duration, argv: &[&str]) -> Result<Output> {
    let shown = argv.join(" ");
    let mut child = Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start '{shown}'"))?;
    // Both pipes are drained by threads: a full pipe would stop the command for ever.
    let out = child.stdout.take().map(drain);
    let err = child.stderr.take().map(drain);
    let status = wait(&mut child, limit).with_context(|| format!("'{shown}'"))?;
    let text = |t: Option<std::thread::JoinHandle<String>>| t.and_then(|t| t.join().ok()).unwrap_or_default();
    Ok(Output { code: status, stdout: text(out), stderr: text(err) })
}

/// Runs a command that must succeed and returns its standard output.
///
/// # Errors
/// As [`try_run`], or if the exit code is not 0; the message carries the command and both streams.
pub fn run(argv: &[&str]) -> Result<String> {
    let output = try_run(LONG, argv)?;
    if output.code != Some(0) {
        bail!("'{}' ended with {:?}: {}", argv.join(" "), output.code, output.text().trim());
    }
    Ok(output.stdout)
}

fn drain(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // An unreadable pipe ends the text early; the exit code still decides.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, limit: Duration) -> Result<Option<i32>> {
    let end = Instant::now() + limit;
    // Doubling from 1 ms: short commands are noticed at once, long ones cost nothing.
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            bail!("did not end within {limit:?} and was killed");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_code_are_kept_apart() {
        let o = try_run(LONG, &["sh", "-c", "echo out; echo err >&2; exit 3"]).unwrap();
        assert_eq!((o.code, o.stdout.as_str(), o.stderr.as_str()), (Some(3), "out\n", "err\n"));
        assert!(run(&["sh", "-c", "echo why >&2; exit 1"]).unwrap_err().to_string().contains("why"));
    }

    #[test]
    fn output_larger_than_a_pipe_arrives() {
        let o = try_run(LONG, &["head", "-c", "1000000", "/dev/zero"]).unwrap();
        assert_eq!(o.stdout.len(), 1_000_000);
    }

    #[test]
    fn a_hanging_command_is_killed() {
        let begin = Instant::now();
        let error = try_run(Duration::from_millis(100), &["sleep", "60"]).unwrap_err();
        assert!(format!("{error:#}").contains("did not end within"));
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}
