//! The replicator's memory in the snapshot, and advice where something is wrong with it.
//!
//! Memory that is not locked is a mistake: every Compose file gives `IPC_LOCK`. `PR_SET_IO_FLUSHER` needs a capability
//! that many engines cannot give, the demo's among them; `baton doctor`, `baton node show` and the metric say so, advice would only
//! hide other advice.

use crate::status::ClusterStatus;
use baton_replicator::api::MemoryStatus;

/// Puts it there.
pub(super) fn put_into(status: &mut ClusterStatus, memory: Option<&MemoryStatus>) {
    let me = status.node.clone();
    if let Some(node) = status.nodes.iter_mut().find(|n| n.name == me) {
        node.replicator_memory = memory.cloned();
    }
    if memory.is_some_and(|m| !m.locked) {
        status.advice.push(format!(
            "the memory of the replicator on {me} is not locked, a host that swaps slows its volumes down: give it IPC_LOCK, \
             as compose/host.yaml does"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn advice_names_memory_that_is_not_locked_and_nothing_else() {
        for (locked, io_flusher) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut status = fixture::healthy();
            let memory = MemoryStatus { locked, io_flusher, ..MemoryStatus::default() };
            put_into(&mut status, Some(&memory));
            assert_eq!(status.advice.len(), usize::from(!locked), "{:?}", status.advice);
            assert!(status.advice.iter().all(|a| a.contains("alpha") && a.contains("IPC_LOCK")));
            assert_eq!(status.nodes[0].replicator_memory, Some(memory));
            assert_eq!(status.nodes[1].replicator_memory, None, "alpha does not know beta's");
        }
        let mut status = fixture::healthy();
        put_into(&mut status, None);
        assert!(status.advice.is_empty(), "a replicator of the release before says nothing of it");
        assert_eq!(status.nodes[0].replicator_memory, None);
    }
}
