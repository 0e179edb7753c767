//! What the agents say of their replicators' memory: locked in both (the Compose files give IPC_LOCK), bounded, and each shown by
//! its own agent only. Nothing is advised, although the engine may be unable to give SYS_RESOURCE.

use baton_e2e::scenario::scenario;

/// Bytes: issue 4's 30 MiB of an idle one, what its requests and received blocks may hold (32 MiB and 64 MiB), and 32 MiB of
/// queue to its peer. The demo's volume has a bitmap of some KiB.
const MOST: u64 = 160 << 20;

#[test]
fn of_both_replicators_is_locked_bounded_and_shown() {
    scenario("memory of the replicators", |t, _| {
        for host in &t.config.hosts {
            let status = t.status(&host.name).unwrap_or_else(|e| panic!("{e:#}"));
            let memory = &status.node(&host.name)["replicator_memory"];
            let resident = memory["resident_bytes"].as_u64().unwrap_or(0);
            t.expect(&format!("{} has its memory locked", host.name), memory["locked"] == true, memory);
            let fits = (1 << 20..=MOST).contains(&resident);
            t.expect(&format!("bytes that {} holds", host.name), fits, resident);
            let silent = !status.advice().contains("IPC_LOCK") && !status.advice().contains("SYS_RESOURCE");
            t.expect("nothing is advised for it", silent, status.advice());
            for other in t.config.hosts.iter().filter(|other| other.name != host.name) {
                let unknown = status.node(&other.name)["replicator_memory"].is_null();
                t.expect("an agent speaks for its own replicator only", unknown, &other.name);
            }
        }
    });
}
