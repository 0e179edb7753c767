//! One run of a fence agent, in the ClusterLabs calling convention: what it shall do comes as `key=value` lines on its
//! standard input, exit code 0 is success, `status` answers 0 for on and 2 for off.
//!
//! It runs in a process group of its own, without the agent's environment, and is killed as a whole when its time is over.
//! What it says is kept, as one line of bounded length, without the password.

use crate::causes::one_line;
use crate::spec::FenceDevice;
use baton_replicator::types::NodeName;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// What is kept of what it says.
const SAID_MAX: u64 = 4096;
/// Most bytes of a password file.
const SECRET_MAX: u64 = 4096;
/// Agents start the usual tools (`ipmitool`, `snmpset`) whatever the own environment is.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A program that is being written right now cannot be started yet.
const BUSY_RETRIES: u32 = 20;

/// What an agent is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Switch off.
    Off,
    /// Switch on.
    On,
    /// Is it on?
    Status,
    /// Does the device answer?
    Monitor,
}

impl Call {
    /// The convention's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Status => "status",
            Self::Monitor => "monitor",
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code, having said this.
    Code(i32, String),
    /// It could not be run, was killed, or took too long: why.
    Not(String),
}

impl Ended {
    /// Exit code 0.
    #[must_use]
    pub fn ok(&self) -> bool {
        matches!(self, Self::Code(0, _))
    }

    /// For people.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Code(code, said) if said.is_empty() => format!("exit code {code}"),
            Self::Code(code, said) => format!("exit code {code}: {said}"),
            Self::Not(why) => why.clone(),
        }
    }
}

/// Runs `device`'s agent of the directory `dir` for `node`.
pub async fn run(dir: &Path, device: &FenceDevice, node: &NodeName, call: Call) -> Ended {
    let password = match device.password_file.as_deref().map(secret).transpose() {
        Ok(password) => password,
        Err(why) => return Ended::Not(why),
    };
    let mut input = format!("action={}\nnodename={node}\n", call.word());
    for (key, value) in &device.options {
        input.push_str(&format!("{key}={value}\n"));
    }
    if let Some(password) = &password {
        input.push_str(&format!("password={password}\n"));
    }
    let program = dir.join(&device.agent);
    let mut child = match start(&program).await {
        Ok(child) => child,
        Err(error) => return Ended::Not(format!("cannot run {}: {error}", program.display())),
    };
    let group = Group(child.id());
    let ended = tokio::time::timeout(device.timeout, converse(&mut child, input.as_bytes())).await;
    let ended = match ended {
        Ok(Ok((status, said))) => match status.code() {
            Some(code) => Ended::Code(code, clean(&said, password.as_deref())),
            None => Ended::Not(format!("{} was killed by a signal", device.agent)),
        },
        Ok(Err(error)) => Ended::Not(format!("{}: {error}", device.agent)),
        Err(_) => Ended::Not(format!("{} was killed after {} s", device.agent, device.timeout.as_secs_f64())),
    };
    drop(group);
    ended
}

async fn start(program: &Path) -> std::io::Result<Child> {
    let mut tries = 0;
    loop {
        let started = Command::new(program)
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        match started {
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) && tries < BUSY_RETRIES => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            other => return other,
        }
    }
}

async fn converse(child: &mut Child, input: &[u8]) -> std::io::Result<(std::process::ExitStatus, String)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let tell = async {
        if let Some(mut stdin) = stdin {
            // An agent that ends without reading everything has its reasons; its exit code tells.
            let _ = stdin.write_all(input).await;
        }
    };
    // A grandchild that keeps the pipe open does not hold the answer up: the exit code is what counts.
    let heard = async { tokio::join!(hear(stdout), hear(stderr)) };
    let ended = async { tokio::join!(tell, child.wait()).1 };
    tokio::pin!(heard, ended);
    // Heard meanwhile: an agent that fills its pipe would wait for a reader, and never end.
    let mut said = None;
    let status = loop {
        tokio::select! {
            status = &mut ended => break status?,
            all = &mut heard, if said.is_none() => said = Some(all),
        }
    };
    let (out, err) = match said {
        Some(all) => all,
        None => tokio::time::timeout(Duration::from_millis(500), heard).await.unwrap_or_default(),
    };
    Ok((status, format!("{err} {out}")))
}

async fn hear(from: Option<impl AsyncRead + Unpin>) -> String {
    let mut said = Vec::new();
    if let Some(mut from) = from {
        let _ = (&mut from).take(SAID_MAX).read_to_end(&mut said).await;
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// Kills what the agent left behind, and the agent itself if it did not end.
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

/// The first line of a file that only its owner can read.
fn secret(path: &Path) -> Result<String, String> {
    let fail = |what: &str| format!("{}: {what}", path.display());
    let file = std::fs::File::open(path).map_err(|e| fail(&e.to_string()))?;
    let mode = file.metadata().map_err(|e| fail(&e.to_string()))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(fail(&format!("others can read it (mode {:o}): chmod 600", mode & 0o777)));
    }
    let mut text = String::new();
    file.take(SECRET_MAX).read_to_string(&mut text).map_err(|e| fail(&e.to_string()))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() { Err(fail("is empty")) } else { Ok(line.to_owned()) }
}

/// What an agent said, as one line of bounded length, without the password.
fn clean(text: &str, password: Option<&str>) -> String {
    let text = match password {
        Some(password) => text.replace(password, crate::spec::HIDDEN),
        None => text.to_owned(),
    };
    one_line(&text).chars().filter(|c| !c.is_control()).take(400).collect()
}
