//! Both ends of the socket in one process; the loop itself is tested with real devices (`tests/worker.rs`).

use super::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs::File;
use std::io::{Read, Seek, Write};

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

#[test]
fn what_is_kept_is_found_by_the_next_worker() {
    let (holder, worker) = pair();
    wire::send(holder.as_fd(), &wire::Outgoing::End).unwrap();
    let first = Holder::connect(worker, 0).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"what the descriptor leads to").unwrap();
    assert!(first.keep("webstore", b"state", file.as_fd()).unwrap());
    first.drop_kept("other");
    drop((first, file));

    // What was sent is there although the sender is gone.
    let Some(wire::Message::Keep { key, state, descriptor }) = wire::receive(holder.as_fd()).unwrap() else {
        panic!("not a message to keep something");
    };
    assert!(
        matches!(wire::receive(holder.as_fd()).unwrap(), Some(wire::Message::Drop { key }) if key == "other")
    );
    assert!(wire::receive(holder.as_fd()).unwrap().is_none(), "the worker's end is closed");
    let (holder, worker) = pair();
    let message = wire::Outgoing::Keep { key: &key, state: &state, descriptor: descriptor.as_fd() };
    wire::send(holder.as_fd(), &message).unwrap();
    wire::send(holder.as_fd(), &wire::Outgoing::End).unwrap();
    let second = Holder::connect(worker, 1).unwrap();
    assert_eq!((second.restarts(), second.left()), (1, vec![("webstore".into(), b"state".to_vec())]));
    assert!(second.has("webstore") && !second.has("other"));
    let kept = second.take("webstore").unwrap();
    assert!(!second.has("webstore"));
    let mut file = File::from(kept.descriptor);
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "what the descriptor leads to");
}

#[test]
fn without_a_holder_nothing_is_kept() {
    let holder = Holder::none();
    let file = tempfile::tempfile().unwrap();
    assert!(!holder.keep("webstore", b"", file.as_fd()).unwrap());
    assert!(!holder.is_there() && !holder.has("webstore") && holder.take("webstore").is_none());
}

#[test]
fn a_silent_or_strange_holder_is_refused() {
    let (holder, worker) = pair();
    rustix::io::write(&holder, b"\x09\x01x").unwrap();
    assert_eq!(Holder::connect(worker, 0).unwrap_err().kind(), io::ErrorKind::InvalidData);
    let (holder, worker) = pair();
    drop(holder);
    assert_eq!(Holder::connect(worker, 0).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    let (holder, worker) = pair();
    assert_eq!(Holder::connect(worker, 0).unwrap_err().kind(), io::ErrorKind::TimedOut);
    drop(holder);
}
