//! What the kernel granted the replicator that runs here; pure.

use super::report::Finding;
use crate::status::ClusterStatus;
use baton_replicator::api::MemoryStatus;

const FAMILY: &str = "kernel";
const CHECK: &str = "replicator's memory";

/// From what the agent here says of it.
pub(super) fn check(status: Option<&ClusterStatus>) -> Finding {
    let Some(status) = status else {
        return Finding::skipped(
            FAMILY,
            CHECK,
            "no agent answers here; the replicator's log says it at its start",
        );
    };
    let here = status.nodes.iter().find(|n| n.name == status.node);
    match here.and_then(|n| n.replicator_memory.as_ref()) {
        Some(memory) => judge(memory),
        None => Finding::skipped(
            FAMILY,
            CHECK,
            "the replicator does not answer its agent, or is of an older release",
        ),
    }
}

fn judge(memory: &MemoryStatus) -> Finding {
    let refused: Vec<(&str, &str)> = [
        (memory.locked, "is not locked: a host that swaps slows its volumes down", "IPC_LOCK"),
        (
            memory.io_flusher,
            "may wait for write-back to its own volumes (PR_SET_IO_FLUSHER is refused)",
            "SYS_RESOURCE",
        ),
    ]
    .into_iter()
    .filter(|(granted, ..)| !granted)
    .map(|(_, what, capability)| (what, capability))
    .collect();
    if refused.is_empty() {
        return Finding::ok(FAMILY, CHECK, "locked, and never waits for write-back");
    }
    let what: Vec<&str> = refused.iter().map(|r| r.0).collect();
    let capabilities: Vec<&str> = refused.iter().map(|r| r.1).collect();
    let mend = format!(
        "Add cap_add: [{}] to the replicator, if the engine itself holds that; it runs without, with this risk.",
        capabilities.join(", ")
    );
    Finding::warning(FAMILY, CHECK, format!("its memory {}", what.join(", and ")), mend)
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn what_was_refused_is_a_warning_that_names_the_capability() {
        let found =
            |locked, io_flusher| judge(&MemoryStatus { locked, io_flusher, ..MemoryStatus::default() });
        assert_eq!(found(true, true).verdict, Verdict::Ok);
        for (locked, io_flusher) in [(true, false), (false, true), (false, false)] {
            let finding = found(locked, io_flusher);
            assert_eq!(finding.verdict, Verdict::Warning);
            assert_eq!(finding.mend.contains("IPC_LOCK"), !locked);
            assert_eq!(finding.mend.contains("SYS_RESOURCE"), !io_flusher);
        }
        let mut status = fixture::healthy();
        assert_eq!(check(Some(&status)).verdict, Verdict::Ok);
        status.nodes[0].replicator_memory = None;
        assert_eq!(check(Some(&status)).verdict, Verdict::Skipped);
        assert_eq!(check(None).verdict, Verdict::Skipped);
    }
}
