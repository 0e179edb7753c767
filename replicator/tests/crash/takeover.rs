//! One primary with three secondaries. Each secondary has a bitmap of its own at the primary; and when the primary dies, what
//! each of the others has of its unacknowledged writes is another part: whoever takes over makes all of them equal.

use crate::available;
use crate::rig::{Agent, Host, Pair, Replica, WAIT, assert_equal, epoch, led, wait_for};
use baton_replicator::api::{PeerStatus, VolumeStatus};
use baton_replicator::store::{AlignedBuf, BLOCK};
use baton_replicator::types::{Member, Role};
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
/// Each has an extent of the activity log and one write under way.
const WRITERS: u64 = 12;
const EXTENT: u64 = 4 * MIB;

fn four() -> Pair {
    Pair::of(vec![Replica { size_bytes: SIZE, ..Replica::default() }; 4], 1)
}

fn fill(device: &Path, offset: u64, len: u64, byte: u8) {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(device).unwrap();
    let mut data = AlignedBuf::zeroed(len as usize);
    data.fill(byte);
    file.write_all_at(&data, offset).expect("no I/O error");
    file.sync_all().expect("no I/O error");
}

fn peer(volume: &VolumeStatus, host: &Host) -> PeerStatus {
    volume.peers.iter().find(|p| p.node == host.node).expect("it is configured").clone()
}

/// `alpha` leads on with these members only.
fn keep(alpha: &Host, members: &[&Arc<Host>]) {
    let member =
        |host: &&Arc<Host>| Member { node: host.node.clone(), boot: host.volume().expect("it answers").boot };
    let members: Vec<Member> = members.iter().map(member).collect();
    wait_for("the set", || {
        (alpha.desire(Role::Primary, 1, members.clone(), false) == Some(200)).then_some(())
    });
}

/// The same host, as after a reboot. Nobody else may have it.
fn again(host: Arc<Host>, dir: &Path) -> Arc<Host> {
    let host = Arc::into_inner(host).expect("nobody else has it");
    let (address, name) = (host.address, host.node.clone());
    // What is left of its devices goes with it.
    drop(host);
    let replica = Replica { size_bytes: SIZE, ..Replica::default() };
    Arc::new(Host::start_at(address, dir, name.as_str(), replica))
}

/// A worker that has been killed is there again and knows the others.
fn attached(host: &Host, others: &[&Host]) {
    let others: Vec<_> = others.iter().map(|h| (&h.node, h.address)).collect();
    wait_for("another worker", || {
        host.status().filter(|s| s.volumes.is_empty())?;
        (host.configure(&others) == Some(200)).then_some(())
    });
}

#[test]
fn each_of_three_secondaries_gets_what_it_missed_and_no_more() {
    if !available() {
        return;
    }
    let mut pair = four();
    let [gamma, delta] = [0, 1].map(|n| Arc::clone(&pair.more[n]));
    fill(&pair.device, 0, 4 * MIB, 1);
    *pair.agent.wanted.lock().unwrap() = None;
    gamma.crash();
    keep(&pair.alpha, &[&pair.beta, &delta]);
    fill(&pair.device, 16 * MIB, 2 * MIB, 2);
    delta.crash();
    keep(&pair.alpha, &[&pair.beta]);
    fill(&pair.device, 32 * MIB, MIB, 3);
    // Status is as old as the last look at the clock.
    let (volume, dirty) = wait_for("what each has missed", || {
        let volume = pair.alpha.volume()?;
        let dirty = [&pair.beta, &gamma, &delta].map(|host| peer(&volume, host).dirty_bytes);
        (dirty[2] >= MIB && dirty[1] >= dirty[2] + 2 * MIB).then_some((volume, dirty))
    });
    println!("dirty for beta, gamma and delta: {dirty:?}");
    assert!(dirty[0] == 0 && dirty[1] < SIZE / 4, "{dirty:?}");

    let copied = [&gamma, &delta].map(|host| peer(&volume, host).copied_bytes);
    pair.agent.end();
    drop((gamma, delta));
    let dir = pair.dir().to_owned();
    pair.more = std::mem::take(&mut pair.more).into_iter().map(|host| again(host, &dir)).collect();
    pair.agent = Agent::start(&pair.alpha, &pair.secondaries(), 1);
    led(&pair.alpha, 3);
    let volume = pair.alpha.volume().expect("it answers");
    for (n, host) in pair.more.iter().enumerate() {
        let now = peer(&volume, host);
        let moved = now.copied_bytes - copied[n];
        assert!((dirty[n + 1]..SIZE / 8).contains(&moved), "{} of {dirty:?}: {now:?}", host.node);
    }
    pair.assert_equal();
}

/// Writes blocks of its own extent, one after the other, until there is an error: how many rounds each block was confirmed.
fn writer(device: &Path, number: u64, confirmed: Arc<AtomicU64>) -> JoinHandle<u64> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(device).unwrap();
    thread::spawn(move || {
        let mut data = AlignedBuf::zeroed(BLOCK as usize);
        for turn in 0.. {
            data.chunks_exact_mut(8).for_each(|b| b.copy_from_slice(&(turn + 1_u64).to_le_bytes()));
            let at = number * EXTENT + turn % (EXTENT / BLOCK) * BLOCK;
            if file.write_all_at(&data, at).is_err() {
                return turn;
            }
            confirmed.fetch_add(1, Ordering::SeqCst);
        }
        unreachable!("it ends by an error")
    })
}

/// Blocks hold what was confirmed last, or what was under way then, and nothing later.
fn check(image: &[u8], number: u64, confirmed: u64) {
    let blocks = EXTENT / BLOCK;
    for block in 0..blocks {
        let at = (number * EXTENT + block * BLOCK) as usize;
        let found = u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
        // Of the turns that wrote this block: the last confirmed one is the `last`th, counted from one.
        let last = (0..confirmed)
            .rev()
            .take(blocks as usize)
            .find(|turn| turn % blocks == block)
            .map_or(0, |t| t + 1);
        let legal = found == last || found == confirmed + 1 && confirmed % blocks == block;
        assert!(legal, "writer {number}, block {block}: {found}, confirmed {last} of {confirmed} turns");
    }
}

#[test]
fn after_a_takeover_among_four_every_replica_has_the_same_part_of_the_old_leaders_last_writes() {
    if !available() {
        return;
    }
    let mut pair = four();
    let confirmed = Arc::<AtomicU64>::default();
    let writers: Vec<_> = (0..WRITERS).map(|n| writer(&pair.device, n, Arc::clone(&confirmed))).collect();
    wait_for("some load", || (confirmed.load(Ordering::SeqCst) > 40 * WRITERS).then_some(()));
    // What is under way now reaches alpha and gamma, and neither beta nor delta.
    pair.beta.stop_worker();
    pair.more[1].stop_worker();
    let (mut last, mut since) = (confirmed.load(Ordering::SeqCst), Instant::now());
    let end = Instant::now() + WAIT;
    while since.elapsed() < Duration::from_millis(300) {
        assert!(Instant::now() < end, "writes are confirmed though two members do not have them");
        let now = confirmed.load(Ordering::SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        thread::sleep(Duration::from_millis(5));
    }
    pair.agent.end();
    pair.alpha.crash();
    pair.beta.kill_worker();
    pair.more[1].kill_worker();
    let differ = |a: &Host, b: &Host| {
        let [a, b] = [a, b].map(|host| std::fs::read(host.image()).unwrap());
        a.chunks(BLOCK as usize).zip(b.chunks(BLOCK as usize)).filter(|(a, b)| a != b).count()
    };
    let others = pair.secondaries();
    let tail = others.iter().map(|host| differ(&pair.alpha, host)).collect::<Vec<_>>();
    println!("blocks in which beta, gamma and delta differ from the dead leader: {tail:?}");
    assert!(tail[0] > 0, "there was something unacknowledged");

    // beta takes over with gamma and delta; alpha is down, and whoever waited for its device has been told.
    let turns: Vec<u64> = writers.into_iter().map(|w| w.join().unwrap()).collect();
    let [beta, gamma, delta] = <[Arc<Host>; 3]>::try_from(others).ok().expect("three");
    attached(&beta, &[&pair.alpha, &gamma, &delta]);
    attached(&delta, &[&pair.alpha, &beta, &gamma]);
    let mut agent = Agent::start(&beta, &[Arc::clone(&gamma), Arc::clone(&delta)], 2);
    led(&beta, 2);
    assert_eq!(beta.volume().expect("it answers").epoch, epoch(2));
    let dir = pair.dir().to_owned();
    let alpha = again(pair.alpha, &dir);
    agent.end();
    let all = [Arc::clone(&gamma), Arc::clone(&delta), Arc::clone(&alpha)];
    let _agent = Agent::start(&beta, &all, 2);
    led(&beta, 3);
    assert_equal(&beta, &all);
    let image = std::fs::read(beta.image()).unwrap();
    turns.iter().enumerate().for_each(|(n, turns)| check(&image, n as u64, *turns));
    let copied: Vec<u64> = beta.volume().expect("it answers").peers.iter().map(|p| p.copied_bytes).collect();
    assert!(copied.iter().all(|bytes| *bytes < SIZE / 2), "not all of it: {copied:?}");
    assert_eq!(beta.volume().expect("it answers").alarms, Vec::<String>::new());
}
