//! The kernel: version, control groups, and the capabilities this process holds. Reads procfs and sysfs only.

use super::report::Finding;

const FAMILY: &str = "kernel";
/// `close_range` (5.9) and `LOOP_CONFIGURE` (5.8), which the replicator uses.
const OLDEST: (u64, u64) = (5, 9);

/// A capability that a part of Baton needs: its number in linux/capability.h, and whether it can do without.
struct Needed {
    bit: u32,
    name: &'static str,
    part: &'static str,
    for_what: &'static str,
    optional: bool,
}

const NEEDED: [Needed; 8] = [
    Needed {
        bit: 12,
        name: "NET_ADMIN",
        part: "agent",
        for_what: "to add and remove addresses",
        optional: false,
    },
    Needed {
        bit: 13,
        name: "NET_RAW",
        part: "agent",
        for_what: "to announce addresses (ARP)",
        optional: false,
    },
    Needed {
        bit: 10,
        name: "NET_BIND_SERVICE",
        part: "agent",
        for_what: "to receive heartbeats on UDP 694",
        optional: false,
    },
    Needed {
        bit: 21,
        name: "SYS_ADMIN",
        part: "replicator",
        for_what: "to mount the FUSE file and attach loop devices",
        optional: false,
    },
    Needed {
        bit: 24,
        name: "SYS_RESOURCE",
        part: "replicator",
        for_what: "to make a mounted ext4 filesystem larger when its volume grows",
        optional: true,
    },
    Needed { bit: 27, name: "MKNOD", part: "replicator", for_what: "to make device nodes", optional: false },
    Needed {
        bit: 23,
        name: "SYS_NICE",
        part: "both",
        for_what: "for real-time priority: a loaded host may be late without",
        optional: true,
    },
    Needed {
        bit: 14,
        name: "IPC_LOCK",
        part: "both",
        for_what: "for locked memory: a swapping host may be late without",
        optional: true,
    },
];

pub(super) fn check() -> Vec<Finding> {
    let read = |path| std::fs::read_to_string(path).map_err(|e| format!("{path} cannot be read: {e}"));
    let mut all = vec![
        judge_version(read("/proc/sys/kernel/osrelease")),
        judge_cgroup(std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()),
    ];
    all.extend(judge_capabilities(read("/proc/self/status")));
    all
}

fn judge_version(release: Result<String, String>) -> Finding {
    let release = match release {
        Ok(text) => text.trim().to_owned(),
        Err(why) => return Finding::skipped(FAMILY, "version", why),
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u64>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= OLDEST {
        Finding::ok(FAMILY, "version", format!("Linux {release} is new enough"))
    } else {
        Finding::failed(
            FAMILY,
            "version",
            format!("Linux {release} is older than {}.{}", OLDEST.0, OLDEST.1),
            "Install a newer kernel; every supported Debian and Ubuntu has one.",
        )
    }
}

fn judge_cgroup(unified: bool) -> Finding {
    if unified {
        Finding::ok(FAMILY, "control groups", "version 2")
    } else {
        Finding::warning(
            FAMILY,
            "control groups",
            "version 1, or not visible here; Baton is tested with version 2",
            "Boot with systemd.unified_cgroup_hierarchy=1, or use a current distribution.",
        )
    }
}

fn judge_capabilities(status: Result<String, String>) -> Vec<Finding> {
    let held = status.and_then(|text| {
        let line = text.lines().find_map(|l| l.strip_prefix("CapEff:"));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .ok_or_else(|| "/proc/self/status names no capabilities".to_owned())
    });
    let held = match held {
        Ok(held) => held,
        Err(why) => return vec![Finding::skipped(FAMILY, "capabilities", why)],
    };
    let missing: Vec<&Needed> = NEEDED.iter().filter(|n| held & (1 << n.bit) == 0).collect();
    if missing.is_empty() {
        return vec![Finding::ok(FAMILY, "capabilities", "all that agent and replicator need are held")];
    }
    missing
        .into_iter()
        .map(|n| {
            let whose = if n.part == "both" {
                "agent and replicator need".into()
            } else {
                format!("the {} needs", n.part)
            };
            let found = format!("{} is not held; {whose} it {}", n.name, n.for_what);
            let mend =
                format!("Add cap_add: [{}] as compose/host.yaml does, or run this check as root.", n.name);
            let check = format!("capability {}", n.name);
            if n.optional {
                Finding::warning(FAMILY, check, found, mend)
            } else {
                Finding::failed(FAMILY, check, found, mend)
            }
        })
        .collect()
}

/// Whether this process may mount.
pub(super) fn may_mount() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|held| held & (1 << 21) != 0)
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn versions() {
        for (text, verdict) in [
            ("6.12.48-amd64\n", Verdict::Ok),
            ("5.10.0-8-amd64", Verdict::Ok),
            ("5.9", Verdict::Ok),
            ("5.8.18", Verdict::Failed),
            ("4.19.0", Verdict::Failed),
            ("nonsense", Verdict::Failed),
        ] {
            assert_eq!(judge_version(Ok(text.into())).verdict, verdict, "{text}");
        }
        assert_eq!(judge_version(Err("gone".into())).verdict, Verdict::Skipped);
        assert_eq!(
            (judge_cgroup(true).verdict, judge_cgroup(false).verdict),
            (Verdict::Ok, Verdict::Warning)
        );
    }

    #[test]
    fn each_missing_capability_is_named_with_who_needs_it() {
        let judge = |mask: u64| judge_capabilities(Ok(format!("Name:\tx\nCapEff:\t{mask:016x}\n")));
        let all: u64 = NEEDED.iter().map(|n| 1 << n.bit).sum();
        assert_eq!(judge(all)[0].verdict, Verdict::Ok);
        for needed in &NEEDED {
            let found = judge(all & !(1 << needed.bit));
            assert_eq!(found.len(), 1);
            assert!(found[0].found.contains(needed.name) && found[0].mend.contains(needed.name));
            let verdict = if needed.optional { Verdict::Warning } else { Verdict::Failed };
            assert_eq!(found[0].verdict, verdict, "{}", needed.name);
        }
        assert_eq!(judge_capabilities(Ok("nothing".into()))[0].verdict, Verdict::Skipped);
    }
}
