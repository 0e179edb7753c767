//! A limit on the memory of processes: a control group where one may be made, else a limit on their data.

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The limit. To be dropped after the processes have ended.
pub enum Limit {
    /// A group beneath this process's own, and whether it is of version 2. What the processes read and write counts, too.
    Group(PathBuf, bool),
    /// RLIMIT_DATA, which an allocation that exceeds it fails on.
    Data,
}

impl Limit {
    /// From now on these processes may have so many bytes.
    pub fn of(pids: &[u32], bytes: u64) -> Self {
        let limit = Self::group(pids, bytes).unwrap_or(Self::Data);
        if let Self::Data = limit {
            // Stacks and reserves that are there already count in full, however little of them was touched.
            pids.iter().for_each(|pid| limit_data(*pid, data(*pid) + bytes));
        }
        println!("limited by {}", limit.name());
        limit
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Group(_, true) => "a control group (version 2)",
            Self::Group(_, false) => "a control group (version 1)",
            Self::Data => "RLIMIT_DATA",
        }
    }

    fn group(pids: &[u32], bytes: u64) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let find = |wanted: &dyn Fn(&str) -> bool| {
            own.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                wanted(controllers).then(|| path.trim_start_matches('/').to_owned())
            })
        };
        let name = format!("baton-memory-test-{}", std::process::id());
        if let Some(path) = find(&|c: &str| c.split(',').any(|c| c == "memory")) {
            let group = Path::new("/sys/fs/cgroup/memory").join(path).join(&name);
            return Self::made(group, false, "memory.limit_in_bytes", pids, bytes);
        }
        let group = Path::new("/sys/fs/cgroup").join(find(&str::is_empty)?).join(&name);
        Self::made(group, true, "memory.max", pids, bytes)
    }

    /// None if the group cannot be made, has no such controller, or takes nobody in.
    fn made(group: PathBuf, second: bool, file: &str, pids: &[u32], bytes: u64) -> Option<Self> {
        fs::create_dir(&group).ok()?;
        let made = Self::Group(group.clone(), second);
        fs::write(group.join(file), bytes.to_string()).ok()?;
        for pid in pids {
            fs::write(group.join("cgroup.procs"), pid.to_string()).ok()?;
        }
        Some(made)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let Self::Group(group, _) = self else { return };
        let end = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&*group).is_err() && group.exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn data(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|l| l.strip_prefix("VmData:")).expect("a line VmData");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

fn limit_data(pid: u32, bytes: u64) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
    let limit = Rlimit { current: Some(bytes), maximum: None };
    prlimit(pid, Resource::Data, limit).expect("the limit is set");
}
