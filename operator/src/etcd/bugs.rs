//! Versions of etcd with bugs that matter to a cluster that decides on leases and guarded transactions.
//!
//! One row per bug, with the issue or pull request that describes it and the first good version of each line. A line
//! that is not named never got the fix if a later one is named, and was born with it otherwise. Sources: etcd's
//! CHANGELOG-3.4, 3.5 and 3.6, and the threads named; rows whose bug cannot reach Baton (authentication, the gRPC proxy,
//! negative lease ids, lease checkpoints) are left out.

/// A version: major, minor, patch.
type Version = (u64, u64, u64);

/// A bug of etcd.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownBug {
    /// What may happen, as the end of a sentence about the member.
    pub what: &'static str,
    /// Where it is described, in etcd-io/etcd.
    pub source: &'static str,
    /// The first version that has it.
    since: Version,
    /// The first good version of each line, in order.
    fixed: &'static [Version],
}

/// What production should run at least.
pub const GOOD: &str = "3.5.23, 3.6.5 or later";

/// All bugs known, the gravest first.
pub static KNOWN_BUGS: &[KnownBug] = &[
    // Issue 13766; changelog of 3.5.3 "Inconsistent revision and data occurs".
    KnownBug {
        what: "a member that crashes may miss a committed transaction for ever",
        source: "issue 13766, pull request 13908",
        since: (3, 5, 0),
        fixed: &[(3, 5, 3)],
    },
    // Changelog of 3.5.6; the post-mortem says that 3.5.0 brought it.
    KnownBug {
        what: "a member that crashes while it is defragmented may disagree with the others about revisions",
        source: "pull requests 14685 and 14733",
        since: (3, 5, 0),
        fixed: &[(3, 5, 6)],
    },
    // Changelogs of 3.4.21 and 3.5.5 "Durability API guarantee broken in single node cluster".
    KnownBug {
        what: "as a cluster of one member it may lose in a crash what it has confirmed",
        source: "issue 14370, pull requests 14423 and 14424",
        since: (3, 4, 0),
        fixed: &[(3, 4, 21), (3, 5, 5)],
    },
    // Changelogs of 3.4.31 and 3.5.13 "leases wrongly revoked by the leader".
    KnownBug {
        what: "a leader whose disk or CPU stalls may revoke leases that are renewed at the next one",
        source: "issue 15247, pull requests 17465 and 17425",
        since: (3, 4, 0),
        fixed: &[(3, 4, 31), (3, 5, 13)],
    },
    // Changelogs of 3.4.32 and 3.5.14 "LeaseTimeToLive returns error if leader changed".
    KnownBug {
        what: "after a change of its leader it may state a wrong time to live for a lease",
        source: "issue 17506, pull requests 17705 and 17704",
        since: (3, 4, 0),
        fixed: &[(3, 4, 32), (3, 5, 14)],
    },
    // Labelled for 3.5 and 3.6 only; 20617 enters it into the changelogs of 3.5.23 and 3.6.5.
    KnownBug {
        what: "it may confirm the renewal of a lease that has just been revoked",
        source: "pull requests 20590 and 20617",
        since: (3, 4, 0),
        fixed: &[(3, 5, 23), (3, 6, 5)],
    },
];

impl KnownBug {
    fn has(&self, version: Version) -> bool {
        let line = |v: &Version| (v.0, v.1);
        let own = self.fixed.iter().find(|fixed| line(fixed) == line(&version));
        version >= self.since
            && own.map_or_else(|| self.fixed.iter().any(|fixed| *fixed > version), |fixed| version < *fixed)
    }

    /// The versions that end it, for people.
    fn fixed(&self) -> String {
        let all: Vec<String> = self.fixed.iter().map(|(a, b, c)| format!("{a}.{b}.{c}")).collect();
        all.join(" and ")
    }
}

fn parse(version: &str) -> Option<Version> {
    let mut parts = version.split(['.', '-', '+']).map(|p| p.parse::<u64>().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// Bugs that a version has. Of a version before 3.4, or one that cannot be read, nothing is known.
#[must_use]
pub fn known_bugs(version: &str) -> Vec<&'static KnownBug> {
    let Some(version) = parse(version) else { return Vec::new() };
    KNOWN_BUGS.iter().filter(|bug| bug.has(version)).collect()
}

/// What a person should know about a version, one sentence each; none if it is good.
#[must_use]
pub fn version_warnings(version: &str) -> Vec<String> {
    match parse(version) {
        None => vec![format!("etcd '{version}' is a version that nothing is known of; use {GOOD}")],
        Some(old) if old < (3, 4, 0) => vec![format!("etcd {version} is not supported; use {GOOD}")],
        Some(_) => known_bugs(version)
            .iter()
            .map(|bug| format!("etcd {version}: {} ({}; fixed in {})", bug.what, bug.source, bug.fixed()))
            .collect(),
    }
}

/// All of them in one line, with what to do; none if the version is good.
#[must_use]
pub fn version_warning(version: &str) -> Option<String> {
    let all = version_warnings(version);
    let bugs = known_bugs(version);
    match (bugs.as_slice(), all.first()) {
        (_, None) => None,
        ([], Some(said)) => Some(said.clone()),
        (bugs, Some(_)) => {
            let what: Vec<String> = bugs.iter().map(|b| format!("{} ({})", b.what, b.source)).collect();
            Some(format!("etcd {version} has known bugs: {}; for production use {GOOD}", what.join("; ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_good_from_the_version_that_has_the_fix() {
        let sources = |version| known_bugs(version).iter().map(|b| b.source).collect::<Vec<_>>();
        for good in ["3.5.23", "3.5.30", "3.6.5", "3.7.0", "4.0.0", "3.6.5+git", "3.5.23-rc.1"] {
            assert_eq!(sources(good), [""; 0], "{good}");
            assert_eq!(version_warning(good), None, "{good}");
        }
        let renewal = "pull requests 20590 and 20617";
        for renewed in ["3.5.14", "3.5.22", "3.6.0", "3.6.4", "3.4.32", "3.4.99"] {
            assert_eq!(sources(renewed), [renewal], "{renewed}");
        }
        let revoked = "issue 15247, pull requests 17465 and 17425";
        let stated = "issue 17506, pull requests 17705 and 17704";
        assert_eq!(sources("3.4.23"), [revoked, stated, renewal], "Debian 12");
        assert_eq!(sources("3.4.31"), [stated, renewal]);
        assert_eq!(sources("3.5.12"), [revoked, stated, renewal]);
        assert_eq!(sources("3.5.13"), [stated, renewal]);
        assert_eq!(sources("3.5.2").len(), KNOWN_BUGS.len(), "all of them");
        assert_eq!(sources("3.4.20").len(), KNOWN_BUGS.len() - 2, "two came with 3.5.0");
    }

    #[test]
    fn a_warning_names_the_bug_its_source_and_the_cure() {
        let said = version_warning("3.5.13").unwrap();
        assert!(said.starts_with("etcd 3.5.13 has known bugs: "), "{said}");
        assert!(said.contains("(pull requests 20590 and 20617)") && said.ends_with(GOOD), "{said}");
        let each = version_warnings("3.4.23");
        assert_eq!(each.len(), 3);
        assert!(each[0].ends_with("fixed in 3.4.31 and 3.5.13)"), "{each:?}");
        for strange in ["nonsense", "", "3.5", "3.x.1"] {
            assert!(version_warning(strange).unwrap().contains("nothing is known"), "{strange}");
        }
        assert!(version_warning("3.3.27").unwrap().contains("not supported"));
    }

    #[test]
    fn the_table_is_in_order() {
        for bug in KNOWN_BUGS {
            assert!(bug.fixed.is_sorted() && bug.fixed.iter().all(|fixed| bug.since < *fixed), "{bug:?}");
            assert!(bug.source.contains("pull request"), "{bug:?}");
        }
    }
}
