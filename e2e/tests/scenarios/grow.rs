//! A volume that gets larger under a database. It never shrinks again, so every run makes it larger by a little.

use crate::apply::{in_force, size_of, take};
use crate::{STANDBY_LOST, let_pass};
use baton_e2e::cluster::WHOLE;
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::{faults, replicas, shell};
use std::time::{Duration, Instant};

/// What is added each time.
const MORE: u64 = 64 << 20;
/// Two sparse files, two small metadata files and some tables of the filesystem.
const GROWN: Duration = Duration::from_secs(60);
const TAKEOVER: Duration = Duration::from_secs(20);

#[test]
fn under_load_and_then_a_power_cut() {
    scenario("volume grows under load", |t, leader| {
        let epoch = t.epoch_of(leader);
        let (text, _) = in_force(t);
        let volume = t.status(leader).unwrap_or_else(|e| panic!("{e:#}"));
        let from = volume.volume()["size_bytes"].as_u64().unwrap_or(0);
        let to = from + MORE;
        let larger = text.replacen(&size_of(&text), &format!("size: {}MiB", to >> 20), 1);
        let before = df(t, leader);

        let mut writer = t.writer("grow", None);
        let_pass(Duration::from_secs(1));
        let begin = Instant::now();
        take(t, leader, &larger);
        // A machine that has no SYS_RESOURCE to give grows no ext4: there it is enough that status says so.
        let refused = t.wait_for("a larger volume", GROWN, |view| {
            let volume = view.of(leader)?.volume();
            let waits = volume["growth"]["waits"].as_str().unwrap_or_default().to_owned();
            let done = volume["size_bytes"] == to && (waits.is_empty() || waits.contains("SYS_RESOURCE"));
            if done { Ok(!waits.is_empty()) } else { Err(volume["growth"].to_string()) }
        });
        t.tell("from apply to the last step", format!("{:.1} s", begin.elapsed().as_secs_f64()));
        let_pass(Duration::from_secs(1));
        let pause = writer.journal().gap(begin, Instant::now());
        t.at_most("pause of committed writes", pause, STANDBY_LOST);
        let failed = {
            let journal = writer.journal();
            journal.attempted() as usize - journal.acks.len()
        };
        // The writer gives one up after a second: a pause of that length is judged above.
        t.expect("no transaction failed", failed <= 1 || pause > STANDBY_LOST, failed);
        t.stayed("nothing moved", leader, epoch);
        let after = df(t, leader);
        let more = if refused { 0 } else { MORE / 4 * 3 };
        t.expect(
            "df shows it",
            after >= before + more,
            format!("{before} bytes became {after}, refused: {refused}"),
        );

        let cut = faults::power_cut(t, leader).unwrap_or_else(|e| panic!("{e:#}"));
        let new = t.config.other(leader);
        t.wait_for("a takeover", TAKEOVER, |view| match view.serving() {
            Some(host) if host == new => Ok(()),
            other => Err(format!("{other:?} serves")),
        });
        writer.wait_ack(cut, TAKEOVER);
        writer.stop();
        t.audit(&writer.journal());
        drop(writer);
        let size = t.status(&new).map(|s| s.volume()["size_bytes"].clone()).unwrap_or_default();
        t.expect("the other side serves the new size", size == to, &size);
        t.expect("with the filesystem that grew", df(t, &new) >= after, df(t, &new));
        faults::power_on(t, leader).unwrap_or_else(|e| panic!("{e:#}"));
        let leads = t.wait_healthy(WHOLE);
        replicas::rest(t, &leads);
        let equal = replicas::verify(t);
        t.expect("the replicas are byte-identical", equal.is_ok(), format!("{equal:?}"));
    });
}

/// Size of the filesystem as the database sees it.
fn df(t: &Scenario, host: &str) -> u64 {
    let name = format!("{}-{host}-web-mysql", t.config.cluster);
    let line = ["docker", "exec", &name, "df", "-B1", "--output=size", "/var/lib/mysql"];
    let text = shell::run(&line).unwrap_or_else(|e| panic!("{e:#}"));
    text.lines().last().and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("{text}"))
}
