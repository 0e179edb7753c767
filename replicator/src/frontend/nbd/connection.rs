//! One client: a thread that reads its requests, a thread that writes its answers, and a bounded account between them.
//!
//! Invariants: a request is in the account from before its payload is read until its answer is written, so that
//! a client that does not read stops only itself; answers are queued without blocking whoever brings them; nothing
//! that a client sends does more than end its own connection.

use super::job::{Job, Kind};
use super::negotiate::{Negotiation, Next, OPTION_HEADER_LEN, greeting};
use super::proto::{self, Agreed, Ask, Failure, MAX_PAYLOAD, REQUEST_LEN};
use super::server::Server;
use crate::frontend::Op;
use crate::store::AlignedBuf;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::{self, BufReader, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// For the whole negotiation: a client that connects and says nothing must not keep a place.
const NEGOTIATION_LIMIT: Duration = Duration::from_secs(10);
/// Requests of one connection that are read and not answered: what `fio` and `qemu` keep in flight at most, and a
/// quarter of what the loop device may have. More wait in the socket.
const MAX_IN_FLIGHT: usize = 64;
/// Bytes of their payloads: two of the largest.
const BUDGET: usize = 2 * MAX_PAYLOAD as usize;
/// What one request of the engine may carry.
const MAX_OP: usize = 1 << 20;
/// Requests are read from the socket in pieces of this size, so that many small ones cost one system call.
const READ_BUFFER: usize = 32 << 10;

/// A client after its negotiation.
pub(super) struct Connection {
    stream: UnixStream,
    agreed: Agreed,
    account: Mutex<Account>,
    changed: Condvar,
}

#[derive(Default)]
struct Account {
    outbox: VecDeque<Answer>,
    in_flight: usize,
    bytes: usize,
    closed: bool,
}

/// What the writer sends next.
pub(super) enum Answer {
    /// All parts of it have been answered.
    Done(Arc<Job>),
    /// Made where the request was read.
    Ready(Vec<u8>),
}

/// Greets a client and hears its options.
pub(super) fn negotiate(stream: &UnixStream, server: &Server) -> io::Result<Option<Agreed>> {
    let deadline = Instant::now() + NEGOTIATION_LIMIT;
    stream.set_write_timeout(Some(NEGOTIATION_LIMIT))?;
    send(stream, &[&greeting()])?;
    let mut flags = [0; 4];
    read_within(stream, &mut flags, deadline)?;
    let export = server.export();
    let Some(mut negotiation) = Negotiation::new(&export, u32::from_be_bytes(flags)) else {
        return Ok(None);
    };
    let agreed = loop {
        let mut head = [0; OPTION_HEADER_LEN];
        read_within(stream, &mut head, deadline)?;
        let Some((option, len)) = Negotiation::option_head(&head) else { return Ok(None) };
        let mut data = vec![0; len as usize];
        read_within(stream, &mut data, deadline)?;
        let (answer, next) = negotiation.option(option, &data);
        send(stream, &[&answer])?;
        match next {
            Next::Option => {}
            Next::Requests(agreed) => break agreed,
            Next::Close => return Ok(None),
        }
    };
    // From here on a client may be idle, or slow, for as long as it likes.
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    Ok(Some(agreed))
}

impl Connection {
    pub fn new(stream: UnixStream, agreed: Agreed) -> Self {
        Self { stream, agreed, account: Mutex::default(), changed: Condvar::new() }
    }

    /// Ends it: both threads see that.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
        // Fails only if the client has gone.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Queues an answer; never blocks.
    pub fn push(&self, answer: Answer) {
        let mut account = self.lock();
        if !account.closed {
            account.outbox.push_back(answer);
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.account.lock().expect("no panic under this lock")
    }

    /// Waits until the account has room for another request; false: the connection is over.
    fn enter(&self, bytes: usize) -> bool {
        let full = |a: &mut Account| !a.closed && (a.in_flight >= MAX_IN_FLIGHT || a.bytes + bytes > BUDGET);
        let mut account = self.changed.wait_while(self.lock(), full).expect("no panic under this lock");
        account.in_flight += 1;
        account.bytes += bytes;
        !account.closed
    }

    /// Its answer was written.
    fn leave(&self, bytes: usize) {
        let mut account = self.lock();
        account.in_flight -= 1;
        account.bytes -= bytes;
        self.changed.notify_all();
    }

    /// The reader: until the client leaves, sends nonsense or is closed. Returns why it ended.
    pub fn read_requests(self: &Arc<Self>, server: &Arc<Server>) -> &'static str {
        let mut input = BufReader::with_capacity(READ_BUFFER, &self.stream);
        let mut head = [0; REQUEST_LEN];
        let export = server.export();
        loop {
            if input.read_exact(&mut head).is_err() {
                return "the client closed it";
            }
            let Some(call) = proto::call(&head, &export, self.agreed) else {
                return "the client sent what is no request";
            };
            let bytes = match call.ask {
                Ask::Read { len, .. } | Ask::Write { len, .. } => len as usize,
                _ => 0,
            };
            if call.ask == Ask::Leave {
                // What is still in flight is answered first.
                let busy = |a: &mut Account| !a.closed && a.in_flight > 0;
                drop(self.changed.wait_while(self.lock(), busy).expect("no panic under this lock"));
                return "the client left";
            }
            if !self.enter(bytes) {
                return "it was closed here";
            }
            match self.request(server, &mut input, call.cookie, call.ask) {
                Ok(()) => {}
                Err(_) => return "the client closed it in the middle of a request",
            }
        }
    }

    fn request(
        self: &Arc<Self>,
        server: &Arc<Server>,
        input: &mut impl Read,
        cookie: u64,
        ask: Ask,
    ) -> io::Result<()> {
        let job = |kind, parts| Arc::new(Job::new(self.clone(), cookie, kind, parts));
        match ask {
            Ask::Read { offset, len } => {
                if self.agreed.structured && server.is_hole(offset, len) {
                    self.push(Answer::Done(job(Kind::Hole { offset, len }, 0)));
                    return Ok(());
                }
                let (start, end) = widened(offset, len);
                let ops: Vec<Op> =
                    pieces(start, end).map(|(offset, len)| Op::Read { offset, len: len as u32 }).collect();
                server.hand_out(&job(Kind::Read { offset, len }, ops.len()), ops);
            }
            Ask::Write { offset, len, fua } => {
                let mut buf = AlignedBuf::zeroed(len as usize);
                input.read_exact(&mut buf)?;
                let data = buf.into_bytes();
                let ops: Vec<Op> = pieces(offset, offset + u64::from(len))
                    .map(|(at, n)| {
                        let from = (at - offset) as usize;
                        Op::Write { offset: at, data: data.slice(from..from + n) }
                    })
                    .collect();
                server.hand_out(&job(Kind::Change { fua, bytes: len as usize }, ops.len()), ops);
            }
            Ask::Flush => server.hand_out(&job(Kind::Change { fua: false, bytes: 0 }, 1), vec![Op::Flush]),
            Ask::Trim { offset, len, fua } => {
                let op = Op::Discard { offset, len: len.into() };
                server.hand_out(&job(Kind::Change { fua, bytes: 0 }, 1), vec![op]);
            }
            Ask::Zero { offset, len, fua, keep } => {
                let len = u64::from(len);
                let op = if keep { Op::WriteZeroes { offset, len } } else { Op::Discard { offset, len } };
                server.hand_out(&job(Kind::Change { fua, bytes: 0 }, 1), vec![op]);
            }
            Ask::Status { offset, len, one } => {
                let ranges = server.ranges(offset, len, if one { 1 } else { proto::MAX_RANGES });
                self.push(Answer::Ready(proto::status_chunk(cookie, &ranges)));
            }
            Ask::Nothing => self.push(Answer::Ready(self.failed(cookie, None))),
            Ask::Refuse { failure, skip } => {
                let skipped = io::copy(&mut input.take(skip.into()), &mut io::sink())?;
                if skipped < u64::from(skip) {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.push(Answer::Ready(self.failed(cookie, Some(failure))));
            }
            Ask::Leave => {}
        }
        Ok(())
    }

    /// An answer without data; chunks carry a sentence with a failure, and may answer any request.
    fn failed(&self, cookie: u64, failure: Option<Failure>) -> Vec<u8> {
        match failure {
            Some(failure) if self.agreed.structured => {
                let sentence = match failure {
                    Failure::NotPermitted => "the export is read-only",
                    Failure::Invalid => "not a possible request: see the block sizes and the export's size",
                    Failure::NoSpace => "beyond the end, or the disk is full",
                    Failure::NotSupported => "not offered",
                    Failure::Io => "the volume failed; 'baton status' says why",
                };
                proto::error_chunk(cookie, failure, sentence)
            }
            Some(_) => proto::simple(cookie, failure).to_vec(),
            // Reads are answered in chunks once that is agreed, empty ones too; the last chunk may be an empty one.
            None if self.agreed.structured => proto::none_chunk(cookie),
            None => proto::simple(cookie, None).to_vec(),
        }
    }

    /// The writer: until the connection is closed or the client is gone.
    pub fn write_answers(&self, server: &Server) {
        loop {
            let idle = |a: &mut Account| !a.closed && a.outbox.is_empty();
            let mut account = self.changed.wait_while(self.lock(), idle).expect("no panic under this lock");
            let Some(answer) = account.outbox.pop_front().filter(|_| !account.closed) else { return };
            drop(account);
            let (sent, bytes) = match answer {
                Answer::Ready(answer) => (send(&self.stream, &[&answer]), 0),
                // From this thread, because whoever brought the answer must not wait for the engine.
                Answer::Done(job) if job.begin_flush() => {
                    server.hand_out(&job, vec![Op::Flush]);
                    continue;
                }
                Answer::Done(job) => (self.send_result(server, &job), job.kind.bytes()),
            };
            if sent.is_err() {
                return self.close();
            }
            self.leave(bytes);
        }
    }

    fn send_result(&self, server: &Server, job: &Job) -> io::Result<()> {
        let (failure, data) = job.take_result();
        if let Some(failure) = failure {
            return send(&self.stream, &[&self.failed(job.cookie, Some(failure))]);
        }
        match job.kind {
            Kind::Change { .. } => send(&self.stream, &[&self.failed(job.cookie, None)]),
            Kind::Hole { offset, len } => {
                server.count_read(len);
                send(&self.stream, &[&proto::hole_chunk(job.cookie, offset, len)])
            }
            Kind::Read { offset, len } => {
                server.count_read(len);
                let head = if self.agreed.structured {
                    proto::data_chunk(job.cookie, offset, len)
                } else {
                    proto::simple(job.cookie, None).to_vec()
                };
                let data = narrowed(&data, offset, len);
                let mut parts: Vec<&[u8]> = vec![&head];
                parts.extend(data.iter().map(|d| &d[..]));
                send(&self.stream, &parts)
            }
        }
    }
}

/// The whole blocks around a range.
fn widened(offset: u64, len: u32) -> (u64, u64) {
    const BLOCK: u64 = proto::MIN_BLOCK as u64;
    (offset / BLOCK * BLOCK, (offset + u64::from(len)).next_multiple_of(BLOCK))
}

/// What was asked for out of the whole blocks around it, which are in order.
fn narrowed(blocks: &[Bytes], offset: u64, len: u32) -> Vec<Bytes> {
    let mut skip = (offset % u64::from(proto::MIN_BLOCK)) as usize;
    let mut left = len as usize;
    let mut out = Vec::with_capacity(blocks.len());
    for block in blocks {
        let n = (block.len() - skip.min(block.len())).min(left);
        out.push(block.slice(skip.min(block.len())..skip.min(block.len()) + n));
        left -= n;
        skip = 0;
    }
    out
}

/// A range in pieces that the engine takes: where each begins, and its length.
fn pieces(start: u64, end: u64) -> impl Iterator<Item = (u64, usize)> {
    (start..end).step_by(MAX_OP).map(move |at| (at, (end - at).min(MAX_OP as u64) as usize))
}

fn send(mut stream: &UnixStream, parts: &[&[u8]]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|p| IoSlice::new(p)).collect();
    let mut slices = &mut slices[..];
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match stream.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut slices, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads all of `buf` before the deadline, however slowly it comes.
fn read_within(mut stream: &UnixStream, buf: &mut [u8], deadline: Instant) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buf[done..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_range_is_read_in_whole_blocks_and_answered_as_asked(offset in 0u64..3 << 20, len in 1u32..3 << 20) {
            let (start, end) = widened(offset, len);
            prop_assert!(start % 4096 == 0 && end % 4096 == 0 && start <= offset);
            let byte = |at: u64| (at.wrapping_mul(0x9E37_79B9) >> 16) as u8;
            let mut blocks = Vec::new();
            let mut at = start;
            for (from, n) in pieces(start, end) {
                prop_assert!(from == at && n > 0 && n <= MAX_OP && n % 4096 == 0);
                blocks.push((from..from + n as u64).map(byte).collect::<Bytes>());
                at += n as u64;
            }
            prop_assert_eq!(at, end);
            let got: Vec<u8> = narrowed(&blocks, offset, len).concat();
            let wanted: Vec<u8> = (offset..offset + u64::from(len)).map(byte).collect();
            prop_assert!(got == wanted);
        }
    }
}
