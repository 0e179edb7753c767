//! Verify: a load raises no false alarm, a byte that is flipped in a backing file is found and repaired.

use baton_e2e::config::VOLUME;
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::{replicas, report};
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// A verify of the demo's volume of 1 GiB at the floor of 4 MiB/s, and a little more.
const VERIFY: Duration = Duration::from_secs(280);
const BLOCK: u64 = 4096;
/// A standby that left the in-sync set for a moment is back.
const SETTLED: Duration = Duration::from_secs(20);

/// Asks at `host` for a verify and waits for its end, watching at the same host.
fn verify(t: &Scenario, host: &str, repair: bool) -> Value {
    let before = seen(t, host)["id"].clone();
    let mut command = vec!["volume", "verify", VOLUME];
    command.extend(repair.then_some("--repair"));
    let output = t.baton_at(host, &command).unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(output.code, Some(0), "{}", output.text());
    let begin = Instant::now();
    let ended = t.wait_for("the verify's end", VERIFY, |view| {
        let verify = view.of(host)?.volume()["verify"].clone();
        let running = matches!(verify["state"].as_str(), None | Some("running" | "waiting"));
        if running || verify["id"] == before { Err(verify.to_string()) } else { Ok(verify) }
    });
    t.tell("a verify of 1 GiB under load", report::ms(begin.elapsed()));
    assert_eq!(ended["state"], "done", "{ended}");
    assert_eq!(ended["checked_bytes"], ended["total_bytes"], "{ended}");
    ended
}

fn seen(t: &Scenario, host: &str) -> Value {
    t.status(host).unwrap_or_else(|e| panic!("{e:#}")).volume()["verify"].clone()
}

#[test]
fn a_flipped_byte_is_found_and_repaired_under_load() {
    scenario("verify", |t, leader| {
        let standby = t.config.other(leader);
        let mut writer = t.writer("verify", None);
        // Asked of the agent that does not have the primary.
        let quiet = verify(t, &standby, false);
        t.expect("bytes that differ while nothing is wrong", quiet["mismatched_bytes"] == 0, &quiet);
        t.expect("ranges that differed at first", quiet["unconfirmed"] == 0, &quiet["unconfirmed"]);

        // In the last block, which the filesystem does not use: nothing overwrites it. The replicator reads past the
        // page cache, so what is written here must be on the disk.
        let path = replicas::backing(t, &standby).unwrap_or_else(|e| panic!("{e:#}"));
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("the backing file");
        let at = file.metadata().expect("its length").len() - 1000;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("a byte");
        file.write_all_at(&[byte[0] ^ 0x10], at).expect("a flipped byte");
        file.sync_all().expect("on the disk");
        drop(file);

        let found = verify(t, leader, false);
        t.expect(
            "bytes found to differ, of one block",
            found["mismatched_bytes"] == BLOCK,
            &found["mismatched_bytes"],
        );
        let where_ = &found["mismatches"][0];
        let named = where_["peer"] == standby.as_str() && where_["offset"] == at / BLOCK * BLOCK;
        t.expect("the place is named", named, where_);
        // A standby that is not heard for a moment leaves the set and is back soon.
        t.wait_for("both in sync, one block marked in the bitmap, advice", SETTLED, |view| {
            let status = view.of(leader)?;
            let (set, dirty) = (status.in_sync().join(","), &status.peer(&standby)["dirty_bytes"]);
            let advised = status.advice().contains("--repair");
            let ok = status.in_sync().len() == 2 && *dirty == BLOCK && advised;
            ok.then_some(()).ok_or_else(|| format!("{set}, {dirty} bytes, {}", status.advice()))
        });

        let mended = verify(t, leader, true);
        t.expect("bytes repaired", mended["repaired_bytes"] == BLOCK, &mended["repaired_bytes"]);
        writer.stop();
        t.audit(&writer.journal());
        replicas::rest(t, leader);
        replicas::verify(t).unwrap_or_else(|e| panic!("{e:#}"));
        let _ = t.heal();
    });
}
