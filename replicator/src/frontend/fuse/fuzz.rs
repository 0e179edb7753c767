//! Fuzz target: what comes out of `/dev/fuse`, and what another process says it left.
//!
//! The engine gets whole blocks within the volume and no more than a request may have; every request that was handed out
//! is answered once.

use super::kept::Session;
use super::proto::{MAX_IO, Tree};
use super::server::Server;
use crate::frontend::{FrontEndEvent, Op};
use crate::fuzz::bytes::Choices;
use crate::store::BLOCK;
use std::sync::{Arc, Mutex};

/// Larger than any length field's 32 bits, so that those bits do not bound a request by themselves.
const SIZE: u64 = 8 << 30;

/// Runs it.
pub fn fuzz_requests(data: &[u8]) {
    if let Ok(session) = Session::decode(data) {
        assert_eq!(Session::decode(&session.encode()).as_ref(), Ok(&session));
    }
    let out = Arc::new(Mutex::new(Vec::new()));
    let sink = out.clone();
    let tree = Tree::new("disk".into(), SIZE);
    let server = Server::deaf(tree, Arc::new(move |event| sink.lock().expect("no panic").push(event)));
    let mut c = Choices::new(data);
    while !c.is_done() {
        let len = usize::from(c.byte());
        let mut request = c.take(len).to_vec();
        if let Some(zeroes) = c.rarely(2).then(|| usize::from(c.byte()) * 1024) {
            // A write's data: mostly as much of it as it says.
            request.resize(request.len() + zeroes, 0);
        }
        server.hear(&request);
        for event in std::mem::take(&mut *out.lock().expect("no panic")) {
            let FrontEndEvent::Request(request) = event else { panic!("{event:?} out of the blue") };
            let (offset, len, most) = match &request.op {
                Op::Read { offset, len } => (*offset, u64::from(*len), u64::from(MAX_IO)),
                Op::Write { offset, data } => (*offset, data.len() as u64, u64::from(MAX_IO)),
                Op::Discard { offset, len } | Op::WriteZeroes { offset, len } => (*offset, *len, SIZE),
                Op::Flush => (0, BLOCK, BLOCK),
            };
            assert!(offset % BLOCK == 0 && len % BLOCK == 0 && len > 0, "{request:?}");
            assert!(offset.checked_add(len).is_some_and(|end| end <= SIZE) && len <= most, "{request:?}");
            let waiting = server.pending();
            server.reply(request.id, Err(crate::frontend::Errno::IO));
            assert_eq!(server.pending() + 1, waiting, "{request:?}");
        }
    }
    assert_eq!(server.pending(), 0);
}
