//! What only an NBD server has: real clients, clients that misbehave, and read-only exports with a map. What every
//! front end has to do is tested in [`crate::frontend::conformance`].

use super::*;
use crate::frontend::conformance::{Disk, NbdClient, Rig, SIZE, WAIT, by_hand, config, pattern, wait_for};
use crate::frontend::{Op, Request};
use crate::types::FrontEndKind;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

const FUA: u16 = 1;
const READ: u16 = 0;
const WRITE: u16 = 1;

fn rig(dir: &Path) -> (Rig, PathBuf) {
    let rig = Rig::start(FrontEndKind::Nbd, dir);
    let socket = rig.ready().local_path;
    (rig, socket)
}

/// Everything that is still served goes on.
fn assert_serves(socket: &Path) {
    let mut client = NbdClient::connect(socket, true).unwrap();
    client.write(SIZE - 4096, &pattern(5, 4096)).unwrap();
    assert!(client.read(SIZE - 4096, 4096).unwrap() == pattern(5, 4096));
}

#[test]
fn the_socket_is_private_and_what_is_said_of_it_true() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (rig, socket) = rig(dir.path());
    assert_eq!(socket, dir.path().join("run/webstore.nbd"));
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(uri(Path::new("/run/a b.nbd"), "webstore"), "nbd+unix:///webstore?socket=/run/a%20b.nbd");
    assert_eq!(rig.front_end.clients(), Some(0));
    let client = NbdClient::connect(&socket, true).unwrap();
    assert_eq!(client.size, SIZE);
    // The client has its answer before the server counts it.
    wait_for("the client to be counted", || rig.front_end.clients() == Some(1));
    drop(client);
    wait_for("the client to be gone", || rig.front_end.clients() == Some(0));
    // Another process that serves there is not pushed aside.
    let again = Rig::start_as(FrontEndKind::Nbd, dir.path(), "other", false);
    assert!(matches!(again.event(), FrontEndEvent::Failed(e) if e.to_string().contains("webstore.nbd")));
    assert_serves(&socket);
}

#[test]
fn a_client_without_structured_replies_and_any_read_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let (rig, socket) = rig(dir.path());
    let mut client = NbdClient::connect(&socket, false).unwrap();
    let data = pattern(3, 2 << 20);
    client.write(0, &data).unwrap();
    for (offset, len) in [(0, 512), (511, 1), (4095, 2), (1000, 1 << 20), ((1 << 20) - 3, 7), (1, 0)] {
        let read = client.read(offset, len).unwrap();
        assert!(read == data[offset as usize..offset as usize + len], "{len} bytes at {offset}");
    }
    assert_eq!(client.write(512, &[0; 512]), Err(libc::EINVAL));
    assert_eq!(client.call(0, WRITE, 0, 8 << 20, &vec![1; 8 << 20]), Err(libc::EINVAL), "too much at once");
    assert!(client.read(0, 4096).unwrap() == data[..4096], "and nothing of it was written");
    assert_eq!(rig.memory.unaligned.load(Ordering::SeqCst), 0);
}

#[test]
fn a_write_with_fua_is_flushed_before_it_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (front_end, events) = by_hand(config(FrontEndKind::Nbd, dir.path(), "t"));
    let FrontEndEvent::Ready(device) = events.recv_timeout(WAIT).unwrap() else { panic!() };
    let mut client = NbdClient::connect(&device.local_path, true).unwrap();
    let next = || match events.recv_timeout(WAIT).unwrap() {
        FrontEndEvent::Request(Request { id, op }) => (id, op),
        other => panic!("{other:?}"),
    };
    // Two pieces, then the flush; each may fail, and then nothing follows.
    for fails in [None, Some(0), Some(2)] {
        let cookie = client.send(FUA, WRITE, 0, 2 << 20, &vec![1; 2 << 20]).unwrap();
        let (first, second) = (next(), next());
        assert!(matches!((&first.1, &second.1), (Op::Write { .. }, Op::Write { .. })));
        front_end.reply(second.0, Ok(Bytes::new()));
        assert!(events.try_recv().is_err(), "no flush before all of it is written");
        front_end.reply(first.0, if fails == Some(0) { Err(Errno::NOSPC) } else { Ok(Bytes::new()) });
        if fails != Some(0) {
            let (id, op) = next();
            assert_eq!(op, Op::Flush);
            front_end.reply(id, if fails == Some(2) { Err(Errno::IO) } else { Ok(Bytes::new()) });
        }
        let expected = match fails {
            None => Ok(Vec::new()),
            Some(0) => Err(28),
            Some(_) => Err(5),
        };
        assert_eq!(client.answer(cookie, 0).unwrap(), expected);
    }
}

#[test]
fn nonsense_ends_only_the_connection_that_sent_it() {
    let dir = tempfile::tempdir().unwrap();
    let (rig, socket) = rig(dir.path());
    let mut good = NbdClient::connect(&socket, true).unwrap();
    let ends = |mut stream: UnixStream| {
        stream.set_read_timeout(Some(WAIT)).unwrap();
        // What comes until the end does not matter, but it has to end; by a reset if not all of it was read.
        if let Err(error) = stream.read_to_end(&mut Vec::new()) {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    };
    for round in 0..40 {
        let mut noise = vec![0; 4096];
        rand::fill(&mut noise[..]);
        // As a greeting, as an option and as a request.
        let mut raw = UnixStream::connect(&socket).unwrap();
        let _ = raw.write_all(&noise);
        let _ = raw.shutdown(std::net::Shutdown::Write);
        ends(raw);
        let mut greeted = NbdClient::greet(&socket).unwrap();
        let _ = greeted.stream.write_all(&noise);
        ends(greeted.stream);
        let mut client = NbdClient::connect(&socket, round % 2 == 0).unwrap();
        let _ = client.stream.write_all(&noise);
        ends(client.stream);
        // A request that is broken off in its payload.
        let mut client = NbdClient::connect(&socket, true).unwrap();
        client.send(0, WRITE, 0, 1 << 20, &noise).unwrap();
        drop(client);
    }
    let data = pattern(9, 65536);
    good.write(4096, &data).unwrap();
    assert!(good.read(4096, 65536).unwrap() == data);
    wait_for("only the good one to be left", || rig.front_end.clients() == Some(1));
    assert!(rig.memory.bytes.lock().unwrap()[..4096].iter().all(|b| *b == 0), "half a write is none");
    assert_eq!(rig.front_end.pending(), 0);
}

#[test]
fn options_beyond_the_limits_are_refused_or_end_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_rig, socket) = rig(dir.path());
    let mut client = NbdClient::greet(&socket).unwrap();
    assert_eq!(client.option(5, &[]).unwrap().0, 1 << 31 | 1, "TLS is not offered");
    assert_eq!(client.option(11, &[]).unwrap().0, 1 << 31 | 1, "nor are extended headers");
    client.send_option(3, &[]).unwrap();
    let listed = client.option_reply().unwrap();
    assert_eq!((listed.0, &listed.1[..]), (2, &b"\0\0\0\x08webstore"[..]));
    assert_eq!(client.option_reply().unwrap().0, 1);
    assert_eq!(client.option(2, &[]).unwrap().0, 1, "an abort is confirmed");
    assert!(client.option(3, &[]).is_err(), "and ends it");
    let mut client = NbdClient::greet(&socket).unwrap();
    assert!(client.option(4711, &vec![0; 65537]).is_err(), "too long");
    let mut client = NbdClient::greet(&socket).unwrap();
    assert!((0..100).any(|_| client.option(4711, &[]).is_err()), "too many");
    assert_serves(&socket);
}

#[test]
fn a_client_that_does_not_read_stops_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (rig, socket) = rig(dir.path());
    let mut deaf = NbdClient::connect(&socket, true).unwrap();
    deaf.stream.set_write_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    // Asks for 64 GiB and takes none of it: at some point its requests are not taken any more.
    let asked = (0..65536).take_while(|_| deaf.send(0, READ, 0, 1 << 20, &[]).is_ok()).count();
    assert!(asked < 65536, "it was never held back");
    wait_for("what was taken to be answered", || rig.front_end.pending() == 0);
    for _ in 0..100 {
        assert_serves(&socket);
    }
    // Nor does it hold up the end.
    rig.front_end.stop(false);
    assert!(matches!(rig.event(), FrontEndEvent::StopRefused(FrontEndError::Clients { clients: 1.., .. })));
    assert_eq!(rig.stop(true), Vec::<String>::new());
    rig.assert_gone();
}

#[test]
fn there_is_a_most_of_clients() {
    let dir = tempfile::tempdir().unwrap();
    let (rig, socket) = rig(dir.path());
    let mut clients: Vec<NbdClient> = (0..16).map(|_| NbdClient::connect(&socket, true).unwrap()).collect();
    assert!(NbdClient::connect(&socket, true).is_err());
    for client in &mut clients {
        client.read(0, 4096).unwrap();
    }
    clients.truncate(3);
    wait_for("them to be gone", || rig.front_end.clients() == Some(3));
    wait_for("there to be room again", || NbdClient::connect(&socket, true).is_ok());
}

/// Every other MiB is a hole.
struct Striped;

impl Map for Striped {
    fn range(&self, offset: u64) -> (u64, bool) {
        ((offset >> 20 << 20) + (1 << 20), (offset >> 20) % 2 == 1)
    }
}

/// A read-only export whose holes nobody is asked for.
fn read_only(dir: &Path) -> (Arc<NbdFrontEnd>, PathBuf) {
    let export = Export {
        name: "webstore".into(),
        description: "a snapshot".into(),
        size_bytes: SIZE,
        read_only: true,
        has_map: true,
    };
    let socket = dir.join("backup.nbd");
    let (requests, inbox) = channel();
    let sink: EventSink = Arc::new(move |event| {
        if let FrontEndEvent::Request(request) = event {
            drop(requests.send(request));
        }
    });
    let front_end = serve(socket.clone(), export, Some(Arc::new(Striped)), sink);
    let server = front_end.clone();
    thread::spawn(move || {
        for Request { id, op } in inbox {
            let data: Vec<u8> = match op {
                Op::Read { offset, len } => (offset..offset + u64::from(len)).map(striped).collect(),
                Op::Flush => Vec::new(),
                other => panic!("{other:?}"),
            };
            server.reply(id, Ok(data.into()));
        }
    });
    wait_for("the socket", || UnixStream::connect(&socket).is_ok());
    (front_end, socket)
}

fn striped(at: u64) -> u8 {
    if (at >> 20) % 2 == 1 { 0 } else { (at / 4096 % 255) as u8 + 1 }
}

#[test]
fn a_read_only_export_refuses_changes_and_tells_its_holes() {
    let dir = tempfile::tempdir().unwrap();
    let (_front_end, socket) = read_only(dir.path());
    let mut client = NbdClient::greet(&socket).unwrap();
    assert_eq!(client.option(8, &[]).unwrap().0, 1);
    client.structured = true;
    let query =
        [&8u32.to_be_bytes()[..], b"webstore", &[0, 0, 0, 1, 0, 0, 0, 15], b"base:allocation"].concat();
    client.send_option(10, &query).unwrap();
    let context = client.option_reply().unwrap();
    assert_eq!((context.0, &context.1[4..]), (4, &b"base:allocation"[..]));
    assert_eq!(client.option_reply().unwrap().0, 1);
    let go = [&8u32.to_be_bytes()[..], b"webstore", &[0, 0]].concat();
    client.send_option(7, &go).unwrap();
    while client.option_reply().unwrap().0 != 1 {}

    assert_eq!(client.write(0, &[1; 4096]), Err(libc::EPERM));
    assert_eq!(client.discard(0, 4096), Err(libc::EPERM));
    assert_eq!(client.zero(0, 4096), Err(libc::EPERM));
    client.flush().unwrap();
    for (offset, len) in [(0u64, 4096), (1 << 20, 1 << 20), ((1 << 20) - 4096, 8192), (1_048_577, 3)] {
        let wanted: Vec<u8> = (offset..offset + len as u64).map(striped).collect();
        assert!(client.read(offset, len).unwrap() == wanted, "{len} bytes at {offset}");
    }
    let status = client.call(0, 7, (1 << 20) - 4096, 2 << 20, &[]).unwrap();
    let words: Vec<u32> = status.chunks(4).map(|w| u32::from_be_bytes(w.try_into().unwrap())).collect();
    assert_eq!(words[..], [words[0], 4096, 0, 1 << 20, 3, (1 << 20) - 4096, 0]);
    let one = client.call(8, 7, 0, 2 << 20, &[]).unwrap();
    assert_eq!(one.len(), 12, "one range was asked for");
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        eprintln!("SKIPPED: no {program} here; compose/scripts/setup.sh test installs it");
    }
    found.is_ok()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

#[test]
fn qemu_writes_reads_and_copies() {
    if !has("qemu-img") || !has("qemu-io") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (rig, socket) = rig(dir.path());
    let uri = uri(&socket, "webstore");
    let info = run("qemu-img", &["info", &uri]);
    assert!(info.contains("64 MiB"), "{info}");
    let io = |command: &str| run("qemu-io", &["-f", "raw", "-t", "none", "-c", command, &uri]);
    io("write -P 0xab 0 8M");
    io("write -P 0xcd -f 8M 64k");
    io("write -P 0xef 513 1000");
    io("write -z 1M 1M");
    io("discard 2M 1M");
    io("read -P 0xab 3M 5M");
    io("read -P 0xcd 8M 64k");
    io("read -P 0xef 513 1000");
    io("read -P 0 1M 2M");
    assert!(rig.memory.flushes.load(Ordering::SeqCst) > 0);
    assert!(rig.memory.discards.load(Ordering::SeqCst) > 0);
    assert_eq!(rig.memory.unaligned.load(Ordering::SeqCst), 0);
    let copy = dir.path().join("copy.raw");
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, copy.to_str().unwrap()]);
    assert!(std::fs::read(&copy).unwrap() == *rig.memory.bytes.lock().unwrap());
    // And back.
    rig.memory.bytes.lock().unwrap().fill(0x55);
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", copy.to_str().unwrap(), &uri]);
    assert!(std::fs::read(&copy).unwrap() == *rig.memory.bytes.lock().unwrap());
}

#[test]
fn nbdcopy_copies_both_ways_and_skips_holes() {
    if !has("nbdcopy") || !has("nbdinfo") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (rig, socket) = rig(dir.path());
    let uri_there = uri(&socket, "webstore");
    let file = dir.path().join("image.raw");
    let data: Vec<u8> = (0..SIZE).map(|at| (at / 4096 % 251) as u8).collect();
    std::fs::write(&file, &data).unwrap();
    run("nbdcopy", &[file.to_str().unwrap(), &uri_there]);
    assert!(*rig.memory.bytes.lock().unwrap() == data);
    let copy = dir.path().join("copy.raw");
    run("nbdcopy", &["--flush", &uri_there, copy.to_str().unwrap()]);
    assert!(std::fs::read(&copy).unwrap() == data);
    let info = run("nbdinfo", &[&uri_there]);
    for wanted in
        ["export-size: 67108864", "can_multi_conn: true", "is_read_only: false", "block_size_minimum: 4096"]
    {
        assert!(info.contains(wanted), "{wanted} in {info}");
    }

    let (front_end, socket) = read_only(dir.path());
    let uri = uri(&socket, "webstore");
    let map = run("nbdinfo", &["--map", &uri]);
    assert_eq!(map.lines().filter(|l| l.ends_with("hole,zero")).count(), 32, "{map}");
    let sparse = dir.path().join("sparse.raw");
    run("nbdcopy", &[&uri, sparse.to_str().unwrap()]);
    assert!(std::fs::read(&sparse).unwrap() == (0..SIZE).map(striped).collect::<Vec<u8>>());
    assert_eq!(front_end.read_bytes(), SIZE / 2, "holes are not read");
    run(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2", &uri, dir.path().join("b.qcow2").to_str().unwrap()],
    );
    run(
        "qemu-img",
        &[
            "compare",
            "-f",
            "raw",
            "-F",
            "qcow2",
            sparse.to_str().unwrap(),
            dir.path().join("b.qcow2").to_str().unwrap(),
        ],
    );
}

#[test]
fn fio_verifies_what_it_wrote() {
    if !has("fio") || !run("fio", &["--enghelp"]).contains("nbd") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (rig, socket) = rig(dir.path());
    let output = run(
        "fio",
        &[
            "--name=verify",
            "--ioengine=nbd",
            &format!("--uri={}", uri(&socket, "webstore")),
            "--rw=randwrite",
            "--bs=16k",
            "--iodepth=32",
            "--size=32M",
            "--verify=crc32c",
            "--fsync=64",
            "--randrepeat=0",
            "--numjobs=2",
            "--offset_increment=32M",
            "--verify_fatal=1",
            "--verify_state_save=0",
        ],
    );
    assert!(output.contains("err= 0"), "{output}");
    assert!(rig.memory.flushes.load(Ordering::SeqCst) > 0);
    assert_eq!(rig.memory.unaligned.load(Ordering::SeqCst), 0);
    wait_for("fio to be gone", || rig.front_end.clients() == Some(0));
    assert_eq!(rig.stop(false), Vec::<String>::new());
    rig.assert_gone();
}
