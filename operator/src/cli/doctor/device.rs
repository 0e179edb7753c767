//! FUSE and loop devices: the replicator's own front end makes a small block device and a child process writes and
//! reads it. What works here works in production; what fails says which step.
//!
//! The child has no descriptor of this process, so that even a SIGKILL in the middle leaves nothing that hangs.

use super::kernel;
use super::report::Finding;
use baton_replicator::frontend::{
    Begin, Device, FrontEnd, FrontEndConfig, FrontEndError, FrontEndEvent, Op, Request, fuse,
};
use baton_replicator::hold::Holder;
use baton_replicator::types::VolumeName;
use bytes::Bytes;
use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

const FAMILY: &str = "devices";
/// Large enough for a loop device, small enough for memory.
const SIZE: usize = 1 << 20;
/// Attaching takes milliseconds.
const STEP: Duration = Duration::from_secs(10);
const PATTERN: u8 = 0xB5;

/// Blocking; a few seconds at most.
pub(super) fn check(run_dir: &Path) -> Vec<Finding> {
    let mut all = vec![judge_node(
        "/dev/fuse",
        open("/dev/fuse"),
        "modprobe fuse; and give the replicator devices: [/dev/fuse]",
    )];
    all.push(judge_node(
        "/dev/loop-control",
        open("/dev/loop-control"),
        "modprobe loop; and give the replicator devices: [/dev/loop-control] and device_cgroup_rules: [\"b 7:* rmw\"]",
    ));
    if !kernel::may_mount() {
        let why = "this process may not mount (SYS_ADMIN); run it as the replicator runs";
        all.push(Finding::skipped(FAMILY, "block device", why));
        return all;
    }
    // A directory of its own: the replicator's may be in use by a live one.
    let dir = run_dir.join(format!("doctor-{}", std::process::id()));
    let made = std::fs::create_dir_all(&dir);
    all.push(match made {
        Ok(()) => judge_device(probe(&dir)),
        Err(e) => Finding::failed(
            FAMILY,
            "block device",
            format!("{} cannot be made: {e}", dir.display()),
            "Check --run-dir; it must be writable.",
        ),
    });
    let _ = std::fs::remove_dir_all(&dir);
    all
}

fn open(path: &str) -> Result<(), std::io::Error> {
    std::fs::OpenOptions::new().read(true).write(true).open(path).map(drop)
}

fn judge_node(path: &str, opened: Result<(), std::io::Error>, mend: &str) -> Finding {
    match opened {
        Ok(()) => Finding::ok(FAMILY, path, "can be opened"),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Finding::failed(FAMILY, path, "is not there", format!("Run: {mend}."))
        }
        Err(e) => Finding::failed(FAMILY, path, format!("cannot be opened: {e}"), format!("Run: {mend}.")),
    }
}

/// What the attempt came to: the device's name and how long the attach took, or the step that failed and why.
type Outcome = Result<(String, Duration), (&'static str, String)>;

fn judge_device(outcome: Outcome) -> Finding {
    match outcome {
        Ok((device, took)) => {
            let found =
                format!("a FUSE file on {device} was attached in {} ms, written and read", took.as_millis());
            Finding::ok(FAMILY, "block device", found)
        }
        Err(("attach", why)) => {
            let mend = if why.contains("mount") {
                "Allow mounting: cap_add: [SYS_ADMIN], security_opt: [\"apparmor=unconfined\"], as in compose/host.yaml."
            } else if why.contains("no loop device") || why.contains("configure") {
                "Free loop devices (losetup -a), or raise max_loop."
            } else {
                "Give the replicator the devices and capabilities of compose/host.yaml."
            };
            Finding::failed(FAMILY, "block device", why, mend)
        }
        Err((step, why)) => Finding::failed(
            FAMILY,
            "block device",
            format!("{step} failed: {why}"),
            "Look at the kernel's log (dmesg) for the loop device.",
        ),
    }
}

/// A volume in memory behind the real front end.
struct Memory {
    blocks: Mutex<Vec<u8>>,
    front_end: OnceLock<Arc<dyn FrontEnd>>,
}

impl Memory {
    fn answer(&self, request: &Request) {
        let Some(front_end) = self.front_end.get() else { return };
        let mut blocks = self.blocks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let range = |offset: u64, len: u64| {
            let start = usize::try_from(offset).unwrap_or(SIZE).min(SIZE);
            start..start.saturating_add(usize::try_from(len).unwrap_or(SIZE)).min(SIZE)
        };
        let answer = match &request.op {
            Op::Read { offset, len } => Bytes::copy_from_slice(&blocks[range(*offset, (*len).into())]),
            Op::Write { offset, data } => {
                let range = range(*offset, data.len() as u64);
                let len = range.len();
                blocks[range].copy_from_slice(&data[..len]);
                Bytes::new()
            }
            Op::Flush => Bytes::new(),
            Op::Discard { offset, len } | Op::WriteZeroes { offset, len } => {
                blocks[range(*offset, *len)].fill(0);
                Bytes::new()
            }
        };
        front_end.reply(request.id, Ok(answer));
    }
}

fn probe(dir: &Path) -> Outcome {
    let (tell, events) = channel();
    let memory = Arc::new(Memory { blocks: Mutex::new(vec![0; SIZE]), front_end: OnceLock::new() });
    let began = Instant::now();
    let volume = VolumeName::new("doctor").map_err(|e| ("attach", e.to_string()))?;
    let config = FrontEndConfig {
        kind: Default::default(),
        volume,
        size_bytes: SIZE as u64,
        tag: format!("doctor-{}", std::process::id()),
        run_dir: dir.to_path_buf(),
        device_dir: dir.join("dev"),
        holder: Holder::none(),
        begin: Begin::Make,
    };
    // Requests may arrive before `start` has returned: the sink waits until it knows whom to answer.
    let (serving, tell) = (Arc::clone(&memory), Mutex::new(tell));
    let front_end = fuse::start(
        config,
        Arc::new(move |event| match event {
            FrontEndEvent::Request(request) => {
                let deadline = Instant::now() + STEP;
                while serving.front_end.get().is_none() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(1));
                }
                serving.answer(&request);
            }
            other => {
                let _ = tell.lock().unwrap_or_else(std::sync::PoisonError::into_inner).send(other);
            }
        }),
    );
    let _ = memory.front_end.set(Arc::clone(&front_end));
    let outcome = match events.recv_timeout(STEP) {
        Ok(FrontEndEvent::Ready(device)) => {
            let took = began.elapsed();
            exercise(&device, &memory).map(|()| (device.host_path.display().to_string(), took))
        }
        Ok(FrontEndEvent::Failed(error)) => return Err(("attach", chain(&error))),
        Ok(_) => Err(("attach", "the front end ended at once".to_owned())),
        Err(_) => Err(("attach", format!("the device did not come up within {} s", STEP.as_secs()))),
    };
    front_end.stop(false);
    if !stopped(&events) {
        front_end.stop(true);
        stopped(&events);
    }
    outcome
}

fn stopped(events: &Receiver<FrontEndEvent>) -> bool {
    matches!(events.recv_timeout(STEP), Ok(FrontEndEvent::Stopped { .. }))
}

fn chain(error: &FrontEndError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A child writes one block with O_DIRECT and reads it back.
fn exercise(device: &Device, memory: &Memory) -> Result<(), (&'static str, String)> {
    let device = device.local_path.display();
    let write = format!(
        "head -c 4096 /dev/zero | tr '\\0' '\\265' | dd of={device} bs=4096 count=1 iflag=fullblock oflag=direct conv=fsync"
    );
    child(&write).map_err(|why| ("writing", why))?;
    let arrived = memory.blocks.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[..4096]
        .iter()
        .all(|b| *b == PATTERN);
    if !arrived {
        return Err(("writing", "the block did not arrive as it was written".into()));
    }
    let read = format!("dd if={device} bs=4096 count=1 iflag=direct | tr -d '\\265' | wc -c | grep -qx 0");
    child(&read).map_err(|why| ("reading", why))
}

fn child(script: &str) -> Result<(), String> {
    let run = Command::new("timeout")
        .args(["-s", "KILL", "10", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .env("LC_ALL", "C")
        .output();
    match run {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said.lines().find(|l| !l.contains("records")).unwrap_or("it did not end in 10 s");
            Err(line.to_owned())
        }
        Err(error) => Err(format!("sh and timeout cannot be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn judgements() {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let denied = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert_eq!(judge_node("/dev/fuse", Ok(()), "x").verdict, Verdict::Ok);
        assert_eq!(judge_node("/dev/fuse", Err(missing()), "modprobe fuse").mend, "Run: modprobe fuse.");
        assert!(judge_node("/dev/fuse", Err(denied()), "x").found.contains("cannot be opened"));
        let took = Duration::from_millis(12);
        assert!(
            judge_device(Ok(("/dev/loop7".into(), took))).found.contains("/dev/loop7 was attached in 12 ms")
        );
        let judge = |why: &str| judge_device(Err(("attach", why.into()))).mend;
        assert!(judge("cannot mount a FUSE filesystem on /x: EPERM").contains("apparmor"));
        assert!(judge("no loop device could be attached in 64 tries").contains("losetup"));
        assert_eq!(judge_device(Err(("reading", "EIO".into()))).verdict, Verdict::Failed);
    }

    /// The real thing, where the test may do it (as the other front-end tests).
    #[test]
    fn a_real_device_is_made_and_taken_away_again() {
        let dir = tempfile::tempdir().unwrap();
        let findings = check(dir.path());
        let device = findings.iter().find(|f| f.check == "block device").unwrap();
        if open("/dev/fuse").is_ok() && open("/dev/loop-control").is_ok() && kernel::may_mount() {
            assert_eq!(device.verdict, Verdict::Ok, "{device:?}");
        } else {
            assert_ne!(device.verdict, Verdict::Ok, "{device:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }
}
