//! A command in the agent's container: the message in its environment and as JSON on its standard input. It runs in a
//! process group of its own, which is killed as a whole when its time is over.

use super::{Failure, clean};
use crate::notify::message::{Message, severity_word};
use crate::spec::Exec;
use rustix::process::{Pid, Signal, kill_process_group};
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// What is kept of its standard error.
const SAID_MAX: u64 = 4096;
/// A command must find the usual tools whatever the agent's own environment is.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) async fn deliver(exec: &Exec, message: &Message) -> Result<(), Failure> {
    let json = serde_json::to_vec(message).map_err(|e| Failure::fatal(e.to_string()))?;
    let Some((program, arguments)) = exec.command.split_first() else {
        return Err(Failure::fatal("no command"));
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .envs(environment(message))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Failure::passing(format!("cannot run {program}: {e}")))?;
    let _group = Group(child.id());
    match tokio::time::timeout(exec.timeout, converse(&mut child, &json)).await {
        Ok(Ok((status, _))) if status.success() => Ok(()),
        Ok(Ok((status, said))) => Err(Failure::passing(format!("{program}: {status}: {}", clean(&said)))),
        Ok(Err(error)) => Err(Failure::passing(format!("{program}: {error}"))),
        Err(_) => Err(Failure::passing(format!("{program}: killed after {} s", exec.timeout.as_secs_f64()))),
    }
}

async fn converse(child: &mut Child, json: &[u8]) -> std::io::Result<(std::process::ExitStatus, String)> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let tell = async {
        if let Some(mut stdin) = stdin {
            // A command that does not read its input is no failure.
            let _ = stdin.write_all(json).await;
        }
    };
    let hear = async {
        let mut said = Vec::new();
        if let Some(mut stderr) = stderr {
            let _ = (&mut stderr).take(SAID_MAX).read_to_end(&mut said).await;
            // The rest is read and thrown away, so that the command does not wait for a reader.
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        }
        String::from_utf8_lossy(&said).into_owned()
    };
    let (status, (), said) = tokio::join!(child.wait(), tell, hear);
    Ok((status?, said))
}

/// Kills what the command left behind, and the command itself if it did not end.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self.0.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // Gone already in the ordinary case.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

fn environment(m: &Message) -> Vec<(&'static str, String)> {
    vec![
        ("BATON_CLUSTER", m.cluster.clone()),
        ("BATON_NODE", m.node.to_string()),
        ("BATON_GROUP", m.group.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("BATON_SEVERITY", severity_word(m.severity).into()),
        ("BATON_KIND", m.kind.word().into()),
        ("BATON_KEY", m.key.clone()),
        ("BATON_INCIDENT", m.incident.clone()),
        ("BATON_AT", m.at.clone()),
        ("BATON_TITLE", m.title.clone()),
        ("BATON_LASTED_MS", m.lasted_ms.map(|ms| ms.to_string()).unwrap_or_default()),
    ]
}
