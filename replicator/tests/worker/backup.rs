//! What NBD is for: a backup of a secondary while the primary is written to, and a primary volume without a block device.
//! With real clients: `nbdcopy`, `qemu-img` and `qemu-io`.

use super::*;
use baton_replicator::api::VolumeStatus;
use rig::{Agent, Host, Replica};
use std::process::{Command, Stdio};

fn has(programs: &[&str]) -> bool {
    let missing = |p: &&&str| {
        Command::new(p).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    };
    if let Some(program) = programs.iter().find(missing) {
        eprintln!("SKIPPED: no {program} here; compose/scripts/setup.sh test installs it");
        return false;
    }
    true
}

fn export(host: &Host) -> VolumeStatus {
    let (code, body) = host.export("POST");
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The image holds a filesystem in which every record is whole, and those that had been confirmed before it was taken.
fn check_image(image: &Path, name: &str, rounds: &[u64], dir: &Path) {
    // As after a power cut: the journal is played back first.
    let fixed = Command::new("fsck.ext4").args(["-fy"]).arg(image).output().unwrap();
    assert!(fixed.status.code().is_some_and(|c| c <= 1), "{}", String::from_utf8_lossy(&fixed.stdout));
    std::fs::create_dir_all(dir).unwrap();
    run("mount", &["-o", "loop,ro", image.to_str().unwrap(), dir.to_str().unwrap()]);
    let mounted = rig::Unmount(dir.to_path_buf());
    let file = File::open(dir.join(name)).unwrap();
    let mut found = vec![0; BLOCK];
    for (at, confirmed) in rounds.iter().enumerate().filter(|(_, round)| **round > 0) {
        file.read_exact_at(&mut found, at as u64 * BLOCK as u64).unwrap();
        let round = u64::from_le_bytes(found[..8].try_into().unwrap()) & 0xffff_ffff;
        assert!(found == block(at as u64, round), "block {at} is torn");
        assert!(round >= *confirmed, "block {at}: round {round}, {confirmed} had been confirmed");
    }
    drop(file);
    drop(mounted);
}

#[test]
fn a_backup_of_a_secondary_is_one_moment_while_the_primary_is_written_to() {
    if !available() || !has(&["nbdcopy", "qemu-img"]) {
        return;
    }
    let pair = Pair::start();
    let dir = tempfile::tempdir().unwrap();
    let path = pair.mounted.as_ref().unwrap().0.join("records");
    let before = Writer::start(path.clone(), true);
    wait_for("some records", || (before.count.load(Ordering::SeqCst) > 60).then_some(()));
    let (_, written) = before.end();
    let during = Writer::start(path, true);
    wait_for("it to be written to", || (during.count.load(Ordering::SeqCst) > 20).then_some(()));

    let status = export(&pair.beta);
    let exported = status.export.expect("an export");
    assert_eq!((status.role, exported.clients), (Role::Secondary, 0));
    assert_eq!(export(&pair.beta).export.unwrap().taken_at_s, exported.taken_at_s, "the same one again");
    let (first, second) = (dir.path().join("first.raw"), dir.path().join("second.qcow2"));
    run("nbdcopy", &[&exported.uri, first.to_str().unwrap()]);
    // Much later, with much changed: still the same moment.
    let count = during.count.load(Ordering::SeqCst);
    wait_for("more to be written", || (during.count.load(Ordering::SeqCst) > count + 60).then_some(()));
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &exported.uri, second.to_str().unwrap()]);
    run("qemu-img", &["compare", first.to_str().unwrap(), second.to_str().unwrap()]);
    let now = pair.beta.volume().unwrap().export.unwrap();
    assert!(now.read_bytes >= now.data_bytes && now.copied_bytes > 0 && now.broken.is_none(), "{now:?}");
    assert!(now.data_bytes < Replica::default().size_bytes, "the volume is sparse");
    check_image(&first, "records", &written.rounds, &dir.path().join("mnt"));

    // The primary's own replica may be taken as well, and both may go while somebody reads.
    let primary = export(&pair.alpha).export.unwrap();
    run("nbdcopy", &[&primary.uri, first.to_str().unwrap()]);
    assert_eq!(pair.alpha.export("DELETE").0, 200);
    assert_eq!(pair.beta.export("DELETE").0, 200);
    assert_eq!(pair.beta.export("DELETE").0, 200, "there is none any more");
    assert!(!exported.socket.exists() && pair.beta.volume().unwrap().export.is_none());
    during.end();
    assert_eq!(pair.alpha.volume().unwrap().required.len(), 1, "the secondary kept up all the time");
    check_image(&first, "records", &written.rounds, &dir.path().join("mnt"));
}

#[test]
fn a_primary_without_a_block_device_is_written_to_by_nbd_and_replicated() {
    if !available() || !has(&["qemu-io", "qemu-img"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let alpha = Arc::new(Host::start(dir.path(), "alpha", Replica::default()));
    let beta = Arc::new(Host::start(dir.path(), "beta", Replica::default()));
    for host in [&alpha, &beta] {
        host.nbd.store(true, Ordering::SeqCst);
    }
    let agent = Agent::start(&alpha, &[std::sync::Arc::clone(&beta)], 1);
    let settled = || alpha.volume().filter(|v| v.peers.iter().any(|p| p.settled));
    let volume = wait_for("the pair to be in sync", settled);
    let socket = alpha.dir.join("run/webstore.nbd");
    assert_eq!((volume.device.as_ref(), volume.clients), (Some(&socket), Some(0)));
    let (code, why) = alpha.export("PUT");
    assert_eq!(code, 405, "{why}");
    let uri = format!("nbd+unix:///webstore?socket={}", socket.display());
    let io = |command: &str| run("qemu-io", &["-f", "raw", "-t", "none", "-c", command, &uri]);
    io("write -P 0xab 0 8M");
    io("write -f -P 0xcd 1M 64k");
    io("write -z 2M 1M");
    io("discard 3M 1M");
    io("read -P 0xab 4M 4M");
    io("read -P 0 2M 2M");
    // What a client that has gone had confirmed is on both.
    wait_for("both to be the same", || {
        let peer = alpha.volume()?.peers.into_iter().next()?;
        (peer.dirty_bytes == 0 && peer.unacked_bytes == 0).then_some(())
    });
    let [one, other] = [&alpha, &beta].map(|host| std::fs::read(host.image()).unwrap());
    assert_eq!(one.iter().zip(&other).position(|(a, b)| a != b), None);
    assert!(one[1 << 20..(1 << 20) + 65536].iter().all(|b| *b == 0xcd));
    let counters = alpha.volume().unwrap().counters;
    assert!(counters.writes > 0 && counters.flushes > 0 && counters.discards > 0, "{counters:?}");

    // Demoted by force, as the rig's agent does it: the socket goes.
    *agent.wanted.lock().unwrap() = Some((Role::Secondary, 1));
    wait_for("it to be a secondary", || alpha.volume().filter(|v| v.role == Role::Secondary));
    wait_for("the socket to go", || (!socket.exists()).then_some(()));
}
