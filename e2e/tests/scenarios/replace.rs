//! A host is replaced by a fresh one (new name, empty disk), step by step as docs/operations.md tells it, under load; then
//! it is replaced in turn, so that later scenarios find the cluster that they know.

use crate::{HTTP_WORST, MOVE_BESIDE, let_pass};
use baton_e2e::cluster::{Cluster, WHOLE};
use baton_e2e::config::{GROUP, output_dir};
use baton_e2e::docker::{self, Role};
use baton_e2e::prober::Prober;
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::shell::{self, Output};
use baton_e2e::{faults, replicas, report};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// The host that stays.
const STAYS: &str = "beta";
/// A full resync of the demo's 1 GiB under load, on two cores.
const FILLED: Duration = Duration::from_secs(240);
/// One step of `host.sh`: containers are stopped in order, members of etcd join.
const STEP: Duration = Duration::from_secs(150);
/// While the replica is looked at: at this rate it is filled slowly enough.
const RATE: &str = "100mbit";
/// Longest gap while a whole volume is copied and containers are made beside, on two cores.
const FULL_RESYNC: Duration = Duration::from_millis(300);
/// A command that waits for the cluster.
const COMMAND: Duration = Duration::from_secs(90);

#[test]
fn a_host_by_a_fresh_one_and_back() {
    scenario("a host is replaced by a fresh one", |t, leader| {
        let worked = catch_unwind(AssertUnwindSafe(|| there_and_back(t, leader)));
        if let Err(panic) = worked {
            t.diagnose();
            rebuild();
            resume_unwind(panic);
        }
    });
}

fn there_and_back(t: &Scenario, leader: &str) {
    let original = export(t, STAYS);
    if leader != "alpha" {
        let prober = t.prober();
        serve(t, t, &prober, "alpha", MOVE_BESIDE, "HTTP gap, move to the host that will go", |t| {
            t.move_to("alpha")
        });
    }
    replace(t, "alpha", "gamma", &original);
    replace(t, "gamma", "alpha", &original);
    t.expect("the document is the first one again", body(&export(t, STAYS)) == body(&original), "compared");
    let leader = t.wait_healthy(WHOLE);
    replicas::rest(t, &leader);
    replicas::verify(t).unwrap_or_else(|e| panic!("{e:#}"));
    t.tell("replicas", "byte-identical, fsck.ext4 -fn clean");
}

/// `old` leads and goes, `new` comes.
fn replace(t: &Scenario, old: &str, new: &str, original: &str) {
    let before = Cluster { config: t.config.with_hosts([STAYS, old]) };
    let after = Cluster { config: t.config.with_hosts([STAYS, new]) };
    let of = |what: &str| format!("{what}, {old} by {new}");
    let prober = t.prober();
    let mut writer = t.writer(&format!("replace-{old}"), None);
    let_pass(Duration::from_secs(1));
    let whole = Instant::now();

    // 1. Certificates; alpha has its own from the demo's beginning.
    if new == "gamma" {
        host(&["cert", new]);
    }
    // 2. The old one hands over.
    let standby = of("HTTP gap, the old host goes into standby");
    serve(t, &before, &prober, STAYS, MOVE_BESIDE, &standby, |before| before.mode(old, "standby"));
    let_pass(Duration::from_secs(1));
    let begin = Instant::now();

    // 3. The new one joins and is filled.
    let joins = original.lines().find(|l| l.starts_with("  alpha: ")).unwrap_or_else(|| panic!("{original}"));
    let own = joins.replace("alpha", new).replace(".11\"", &format!(".{}\"", last(&after, new)));
    let with_new = export(t, STAYS).replacen("nodes:\n", &format!("nodes:\n{own}\n"), 1);
    let planned = apply(t, &with_new, &["--dry-run"]);
    t.expect(
        &of("the plan"),
        planned.text().contains(&format!("node {new} joins")),
        planned.text().lines().count(),
    );
    taken(&apply(t, &with_new, &[]));
    faults::slow_replication(t, STAYS, RATE).unwrap_or_else(|e| panic!("{e:#}"));
    host(&["add", new]);
    if new == "alpha" {
        // The cluster remembers the mode of a name; a name that was never used begins online.
        before.mode(new, "online");
    }
    filled(t, &after, &with_new, new);
    t.tell(&of("from the beginning to in sync"), format!("{:.1} s", begin.elapsed().as_secs_f64()));

    // 4. The old one leaves.
    let kept: Vec<&str> = with_new.lines().filter(|l| !l.starts_with(&format!("  {old}: "))).collect();
    let without_old = format!("{}\n", kept.join("\n")).replacen(
        &format!("prefer: [{old}]"),
        &format!("prefer: [{new}]"),
        1,
    );
    taken(&apply(t, &without_old, &["--wait", "--timeout", "60s"]));
    after.wait_for("the new pair in the in-sync set", Duration::from_secs(20), |view| {
        let mut set = view.of(STAYS)?.in_sync();
        set.sort_unstable();
        let mut pair = [STAYS, new];
        pair.sort_unstable();
        if set == pair { Ok(()) } else { Err(format!("{set:?}")) }
    });
    // The command waits for the nodes of the new document; the old one reads it by itself.
    after.wait_for(&of("the old host says what it is now"), Duration::from_secs(20), |_| {
        let idle = before.baton_at(old, &["status"]).map_err(|e| format!("{e:#}"))?.text();
        let idle = shell::one_line(&idle);
        if idle.contains("is not in the specification") { Ok(()) } else { Err(idle) }
    });
    host(&["remove", old]);
    // 5. Its etcd member.
    host(&["etcd", old, new]);
    let now = after.wait_healthy(WHOLE);
    t.expect(&of("nothing moved"), now == STAYS, &now);
    let_pass(Duration::from_secs(1));
    t.at_most(
        &of("HTTP gap, all but the planned move"),
        prober.history().gap(begin, Instant::now()),
        FULL_RESYNC,
    );
    t.tell(&of("longest pause of committed writes"), report::ms(writer.journal().gap(begin, Instant::now())));

    // It can take over, with the etcd member of the dead host gone too. Its agent has just begun anew, for etcd's new member:
    // what it promised the leader, whose agent has, too, is longer than what is measured here.
    after.wait_for("no promise of before", COMMAND, |view| {
        let reason = view.of(new)?.group_node(new)["reason"].to_string();
        if reason.contains("promised") { Err(reason) } else { Ok(()) }
    });
    let cut = of("HTTP gap, power cut of the host that stayed");
    serve(t, &after, &prober, new, HTTP_WORST, &cut, |after| {
        faults::power_cut(after, STAYS).map(drop).unwrap_or_else(|e| panic!("{e:#}"));
    });
    writer.wait_ack(Instant::now(), Duration::from_secs(20));
    faults::power_on(&after, STAYS).unwrap_or_else(|e| panic!("{e:#}"));
    let now = after.wait_healthy(WHOLE);
    t.expect(&of("the new host leads"), now == new, &now);
    writer.stop();
    t.tell(&of("whole"), format!("{:.1} s", whole.elapsed().as_secs_f64()));
    t.audit(&writer.journal());
}

/// Last number of a host's address.
fn last(cluster: &Cluster, host: &str) -> u8 {
    cluster.config.host(host).address.octets()[3]
}

/// Watched with `baton volume wait`. Meanwhile the new host may not take over, and the one that leads may not leave.
fn filled(t: &Scenario, after: &Cluster, with_new: &str, new: &str) {
    let agent = docker::part(&t.config, STAYS, Role::Agent).unwrap_or_else(|e| panic!("{e:#}")).name;
    let watched = std::thread::scope(|scope| {
        let wait = ["docker", "exec", &agent, "baton", "volume", "wait", "--node", new, "--timeout", "4m"];
        let watch = scope.spawn(move || shell::try_run(FILLED, &wait));
        let total = after.wait_for("a resync of the new host", COMMAND, |view| {
            let peer = view.of(STAYS)?.peer(new);
            let done = peer["resync"]["done_bytes"].as_u64().filter(|done| *done > 0);
            match (done, peer["resync"]["total_bytes"].as_u64()) {
                (Some(_), Some(total)) => Ok(total),
                _ => Err(peer.to_string()),
            }
        });
        let size = after.status(STAYS).map(|s| s.volume()["size_bytes"].as_u64().unwrap_or(0));
        t.expect("the resync is a full one", size.is_ok_and(|size| size == total), total);
        let moved = after.baton_at(STAYS, &["move", GROUP, "--to", new]).unwrap_or_else(|e| panic!("{e:#}"));
        assert!(!watch.is_finished(), "the volume is filled too fast to look at it");
        t.expect("it cannot take over before", moved.code == Some(1), moved.text().trim());
        let kept: Vec<&str> = with_new.lines().filter(|l| !l.starts_with(&format!("  {STAYS}: "))).collect();
        let refused = apply(t, &format!("{}\n", kept.join("\n")), &[]);
        let said = shell::one_line(&refused.text());
        t.expect("the leader may not leave", refused.code == Some(1) && said.contains("it leads web"), &said);
        faults::mend_links(t, STAYS).unwrap_or_else(|e| panic!("{e:#}"));
        watch
            .join()
            .unwrap_or_else(|_| panic!("the wait was not carried out"))
            .unwrap_or_else(|e| panic!("{e:#}"))
    });
    t.expect(
        "baton volume wait shows it",
        watched.code == Some(0) && watched.text().contains('%'),
        watched.text().trim(),
    );
    after.wait_for("the new host in the in-sync set", Duration::from_secs(30), |view| {
        let set = view.of(STAYS)?.in_sync();
        if set.contains(&new) { Ok(()) } else { Err(format!("{set:?}")) }
    });
}

/// Does something after which `host` serves, and measures the gap.
fn serve(
    t: &Scenario,
    cluster: &Cluster,
    prober: &Prober,
    host: &str,
    bound: Duration,
    what: &str,
    act: impl FnOnce(&Cluster),
) {
    let begin = Instant::now();
    act(cluster);
    cluster.wait_for(what, Duration::from_secs(30), |view| match view.serving() {
        Some(now) if now == host => Ok(()),
        other => Err(format!("{other:?} serves")),
    });
    let end = Instant::now() + Duration::from_secs(10);
    while prober.history().first_from(host, begin).is_none() {
        assert!(Instant::now() < end, "{host} does not answer");
        let_pass(Duration::from_millis(50));
    }
    let_pass(Duration::from_secs(1));
    let gap = prober.history().gap(begin, Instant::now());
    t.at_most(what, gap, bound);
}

/// `baton spec export -o`, as the file that it leaves.
fn export(t: &Cluster, at: &str) -> String {
    let exported = t.baton_at(at, &["spec", "export", "-o", "/tmp/cluster.yaml"]);
    let exported = exported.unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(exported.code, Some(0), "{}", exported.text());
    let agent = docker::part(&t.config, at, Role::Agent).unwrap_or_else(|e| panic!("{e:#}")).name;
    shell::run(&["docker", "exec", &agent, "cat", "/tmp/cluster.yaml"]).unwrap_or_else(|e| panic!("{e:#}"))
}

/// The document without the line that `export` puts above it.
fn body(text: &str) -> String {
    text.lines().filter(|l| !l.starts_with("# Version ")).map(|l| format!("{l}\n")).collect()
}

/// `baton apply` of a file, at the host that stays.
fn apply(t: &Cluster, text: &str, options: &[&str]) -> Output {
    let agent = docker::part(&t.config, STAYS, Role::Agent).unwrap_or_else(|e| panic!("{e:#}")).name;
    let file = std::env::temp_dir().join(format!("baton-replace-{}.yaml", std::process::id()));
    std::fs::write(&file, text).unwrap_or_else(|e| panic!("{e}"));
    let options = options.join(" ");
    let line = format!("docker exec -i {agent} baton apply - {options} < {}", file.display());
    shell::try_run(COMMAND, &["sh", "-c", &line]).unwrap_or_else(|e| panic!("{e:#}"))
}

fn taken(output: &Output) {
    assert_eq!(output.code, Some(0), "{}", output.text());
}

fn script(name: &str, arguments: &[&str], limit: Duration) {
    let script = format!("{}/../compose/scripts/{name}", env!("CARGO_MANIFEST_DIR"));
    let line: Vec<&str> = [script.as_str()].into_iter().chain(arguments.iter().copied()).collect();
    let output = shell::try_run(limit, &line).unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(output.code, Some(0), "{}: {}", line.join(" "), output.text());
}

fn host(arguments: &[&str]) {
    script("host.sh", arguments, STEP);
}

/// Half a replacement is nothing that later scenarios could begin with. What was seen of it is kept.
fn rebuild() {
    let log = output_dir().join("e2e").join("a-host-is-replaced-by-a-fresh-one.log");
    // Without it there is only less to look at.
    let _ = std::fs::rename(&log, log.with_extension("before-rebuild.log"));
    script("cluster.sh", &["down"], STEP);
    script("cluster.sh", &["up"], Duration::from_secs(600));
}
