//! Makes filesystems with the programs that know how, as bounded child processes.
//!
//! Whether a device may be formatted is decided elsewhere (see [`super::probe`]); no program is told to force.

use super::FrontEndError;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(10);
/// For a killed child to go. One that waits for a frozen device cannot, and is left to a thread.
const KILL_LIMIT: Duration = Duration::from_secs(1);
/// Of the complaint of a failed program.
const MAX_COMPLAINT: u64 = 2000;

/// Makes `filesystem` (`ext4` or `xfs`) on `device` with a child process; blocks at most `limit` (and a second).
///
/// # Errors
/// Unknown filesystem, the program is missing, fails or does not end in time.
pub fn make_filesystem(device: &Path, filesystem: &str, limit: Duration) -> Result<(), FrontEndError> {
    let mut command = match filesystem {
        "ext4" => {
            let mut c = Command::new("mkfs.ext4");
            // Lazy initialisation would write for minutes after the first mount; a blank volume needs no discard.
            c.args(["-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]);
            c
        }
        "xfs" => {
            let mut c = Command::new("mkfs.xfs");
            c.args(["-q", "-K"]);
            c
        }
        other => {
            let detail = "known are ext4 and xfs".into();
            return Err(FrontEndError::Child { program: format!("making a filesystem '{other}'"), detail });
        }
    };
    run(command.arg(device), limit)
}

/// Runs a program, at most for `limit`, and keeps what it complains about.
pub(super) fn run(command: &mut Command, limit: Duration) -> Result<(), FrontEndError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let fail = |detail: String| FrontEndError::Child { program: program.clone(), detail };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| fail(format!("cannot start it: {e}")))?;
    match wait(&mut child, limit).map_err(|e| fail(e.to_string()))? {
        Some(status) if status.success() => Ok(()),
        Some(status) => {
            let mut complaint = Vec::new();
            if let Some(stderr) = child.stderr.take() {
                let _ = stderr.take(MAX_COMPLAINT).read_to_end(&mut complaint);
            }
            Err(fail(format!("{status}: {}", String::from_utf8_lossy(&complaint).trim())))
        }
        None => {
            let _ = child.kill();
            if !matches!(wait(&mut child, KILL_LIMIT), Ok(Some(_))) {
                thread::spawn(move || child.wait());
            }
            Err(FrontEndError::Timeout { what: program, seconds: limit.as_secs() })
        }
    }
}

fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<std::process::ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_named_and_bounded() {
        let error =
            make_filesystem(Path::new("/nonexistent/device"), "ext4", Duration::from_secs(20)).unwrap_err();
        assert!(error.to_string().contains("mkfs.ext4 failed"), "{error}");
        let error = make_filesystem(Path::new("/dev/null"), "fat", Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("known are ext4 and xfs"), "{error}");
        let began = Instant::now();
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, FrontEndError::Timeout { .. }) && began.elapsed() < Duration::from_secs(5));
        let error = run(&mut Command::new("no-such-program-here"), Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("cannot start it"), "{error}");
    }
}
