//! The words of the NBD protocol (fixed newstyle): bytes in, bytes out. `negotiate` has the conversation before the
//! first request.
//!
//! After <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>; all numbers are big endian. Lengths
//! are checked before they are used; nothing here panics on any input.

use crate::frontend::field::field;

/// Longest payload of a read or write, and what clients are told. `qemu-img`, `nbdcopy` and the kernel's client ask for
/// at most 2 MiB at a time; it bounds what one connection may hold (see `connection::BUDGET`).
pub(super) const MAX_PAYLOAD: u32 = 4 << 20;
/// Smallest write, and the smallest read that needs no more than it asks for: the engine's block.
pub(super) const MIN_BLOCK: u32 = 4096;
/// What clients are advised to ask for: fewer requests than 4 KiB, and no more than a disk likes.
pub(super) const PREFERRED_BLOCK: u32 = 64 << 10;
/// A write above [`MAX_PAYLOAD`] is read to its end and refused up to this length, which is what the protocol lets
/// clients assume; beyond it the connection is closed.
pub(super) const MAX_SKIPPED: u32 = 32 << 20;

pub(super) const REQUEST_LEN: usize = 28;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

const CMD_FLAG_FUA: u16 = 1 << 0;
const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
const CMD_FLAG_DF: u16 = 1 << 2;
const CMD_FLAG_REQ_ONE: u16 = 1 << 3;

const CHUNK_DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_OFFSET_DATA: u16 = 1;
const CHUNK_OFFSET_HOLE: u16 = 2;
const CHUNK_BLOCK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = (1 << 15) + 1;

/// Block status of `base:allocation`: the range reads as zeroes and takes no space.
const STATE_HOLE_AND_ZERO: u32 = 3;
/// The only metadata context, under this number.
pub(super) const ALLOCATION_CONTEXT: u32 = 1;
/// Most ranges in one answer about allocation: 32 KiB. The client asks again from where it ends.
pub(super) const MAX_RANGES: usize = 4096;

/// What is exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The volume's name; the empty name is taken for it too.
    pub name: String,
    /// For people.
    pub description: String,
    /// Size in bytes, a multiple of 4096.
    pub size_bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// It can be told what is allocated.
    pub has_map: bool,
}

impl Export {
    /// Transmission flags.
    pub(super) fn flags(&self) -> u16 {
        const HAS_FLAGS: u16 = 1 << 0;
        const READ_ONLY: u16 = 1 << 1;
        const SEND_FLUSH: u16 = 1 << 2;
        const SEND_FUA: u16 = 1 << 3;
        const SEND_TRIM: u16 = 1 << 5;
        const SEND_WRITE_ZEROES: u16 = 1 << 6;
        const SEND_DF: u16 = 1 << 7;
        // A flush by one connection covers what was answered on all of them, and all see the same blocks: there is one
        // engine behind them and no cache in between.
        const CAN_MULTI_CONN: u16 = 1 << 8;
        let all = HAS_FLAGS | SEND_FLUSH | SEND_DF | CAN_MULTI_CONN;
        all | if self.read_only { READ_ONLY } else { SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES }
    }
}

/// Why a request failed, as the protocol has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Failure {
    /// It is read-only.
    NotPermitted = 1,
    /// The disk failed, or nobody may answer.
    Io = 5,
    /// Not a possible request.
    Invalid = 22,
    /// Beyond the end, or the disk is full.
    NoSpace = 28,
    /// A command or flag that was not offered.
    NotSupported = 95,
}

impl Failure {
    /// From an operating system's error number.
    pub fn of_errno(errno: i32) -> Self {
        match errno {
            libc::EPERM | libc::EROFS | libc::EACCES => Self::NotPermitted,
            libc::EINVAL => Self::Invalid,
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Self::NoSpace,
            libc::EOPNOTSUPP => Self::NotSupported,
            _ => Self::Io,
        }
    }
}

/// What a client asks once the negotiation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Any range within the export, at most [`MAX_PAYLOAD`].
    Read {
        offset: u64,
        len: u32,
    },
    /// Whole blocks; its payload follows.
    Write {
        offset: u64,
        len: u32,
        fua: bool,
    },
    Flush,
    /// Whole blocks.
    Trim {
        offset: u64,
        len: u32,
        fua: bool,
    },
    /// Whole blocks. `keep`: they must not be given back.
    Zero {
        offset: u64,
        len: u32,
        fua: bool,
        keep: bool,
    },
    /// What of this range is allocated. `one`: only the first range.
    Status {
        offset: u64,
        len: u32,
        one: bool,
    },
    /// Nothing to do.
    Nothing,
    /// Refused; a payload of `skip` bytes follows and must be read.
    Refuse {
        failure: Failure,
        skip: u32,
    },
    /// The client leaves.
    Leave,
}

/// A request of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    /// The client's name for it, which the answer carries.
    pub cookie: u64,
    pub ask: Ask,
}

/// What was agreed upon before the first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Agreed {
    /// Reads are answered in chunks.
    pub structured: bool,
    /// `base:allocation` was chosen.
    pub allocation: bool,
}

/// Reads a request; none if it is none, or if what follows cannot be skipped.
pub(super) fn call(bytes: &[u8; REQUEST_LEN], export: &Export, agreed: Agreed) -> Option<Call> {
    if u32_at(bytes, 0)? != REQUEST_MAGIC {
        return None;
    }
    let (flags, kind) = (u16_at(bytes, 4)?, u16_at(bytes, 6)?);
    let (cookie, offset, len) = (u64_at(bytes, 8)?, u64_at(bytes, 16)?, u32_at(bytes, 24)?);
    let skip = if kind == 1 { len } else { 0 };
    if skip > MAX_SKIPPED {
        return None;
    }
    let refuse = |failure| Ask::Refuse { failure, skip };
    let known = match kind {
        0 if agreed.structured => CMD_FLAG_DF,
        0 => 0,
        1 | 4 => CMD_FLAG_FUA,
        // FUA means nothing there, but clients that set it everywhere exist.
        2 | 3 => CMD_FLAG_FUA,
        6 => CMD_FLAG_FUA | CMD_FLAG_NO_HOLE,
        7 => CMD_FLAG_REQ_ONE,
        _ => u16::MAX,
    };
    let fua = flags & CMD_FLAG_FUA != 0;
    let end = offset.checked_add(u64::from(len));
    let inside = end.is_some_and(|end| end <= export.size_bytes);
    let whole = offset.is_multiple_of(u64::from(MIN_BLOCK)) && len.is_multiple_of(MIN_BLOCK);
    let changes = matches!(kind, 1 | 4 | 6);
    let ask = match kind {
        2 => Ask::Leave,
        _ if flags & !known != 0 => refuse(Failure::Invalid),
        3 => Ask::Flush,
        0 | 1 | 4 | 6 | 7 if changes && export.read_only => refuse(Failure::NotPermitted),
        0 | 1 | 4 | 6 | 7 if !inside => refuse(if changes { Failure::NoSpace } else { Failure::Invalid }),
        0 | 1 if len > MAX_PAYLOAD => refuse(Failure::Invalid),
        1 | 4 | 6 if !whole => refuse(Failure::Invalid),
        0 | 1 | 4 | 6 if len == 0 => Ask::Nothing,
        0 => Ask::Read { offset, len },
        1 => Ask::Write { offset, len, fua },
        4 => Ask::Trim { offset, len, fua },
        6 => Ask::Zero { offset, len, fua, keep: flags & CMD_FLAG_NO_HOLE != 0 },
        7 if agreed.allocation && len > 0 => Ask::Status { offset, len, one: flags & CMD_FLAG_REQ_ONE != 0 },
        7 => refuse(Failure::Invalid),
        _ => refuse(Failure::NotSupported),
    };
    Some(Call { cookie, ask })
}

/// The whole answer of what carries no data.
pub(super) fn simple(cookie: u64, failure: Option<Failure>) -> [u8; 16] {
    let mut out = [0; 16];
    out[..4].copy_from_slice(&SIMPLE_MAGIC.to_be_bytes());
    out[4..8].copy_from_slice(&failure.map_or(0, |f| f as u32).to_be_bytes());
    out[8..].copy_from_slice(&cookie.to_be_bytes());
    out
}

/// What stands before the data of a read that is answered in chunks: one chunk, the last.
pub(super) fn data_chunk(cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut out = chunk(CHUNK_OFFSET_DATA, cookie, 8 + len, 8);
    out.extend_from_slice(&offset.to_be_bytes());
    out
}

/// The answer to a read of nothing but a hole.
pub(super) fn hole_chunk(cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut out = chunk(CHUNK_OFFSET_HOLE, cookie, 12, 12);
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    out
}

/// Success without data, in chunks.
pub(super) fn none_chunk(cookie: u64) -> Vec<u8> {
    chunk(CHUNK_NONE, cookie, 0, 0)
}

/// A failure of a request that is answered in chunks, with a sentence for the client's log.
pub(super) fn error_chunk(cookie: u64, failure: Failure, sentence: &str) -> Vec<u8> {
    let sentence = &sentence.as_bytes()[..sentence.len().min(1024)];
    let mut out = chunk(CHUNK_ERROR, cookie, 6 + sentence.len() as u32, 6 + sentence.len());
    out.extend_from_slice(&(failure as u32).to_be_bytes());
    out.extend_from_slice(&(sentence.len() as u16).to_be_bytes());
    out.extend_from_slice(sentence);
    out
}

/// What is allocated: lengths with whether they are holes, at most [`MAX_RANGES`].
pub(super) fn status_chunk(cookie: u64, ranges: &[(u32, bool)]) -> Vec<u8> {
    let len = 4 + 8 * ranges.len();
    let mut out = chunk(CHUNK_BLOCK_STATUS, cookie, len as u32, len);
    out.extend_from_slice(&ALLOCATION_CONTEXT.to_be_bytes());
    for (len, hole) in ranges {
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&(if *hole { STATE_HOLE_AND_ZERO } else { 0 }).to_be_bytes());
    }
    out
}

fn chunk(kind: u16, cookie: u64, len: u32, room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(20 + room);
    out.extend_from_slice(&CHUNK_MAGIC.to_be_bytes());
    out.extend_from_slice(&CHUNK_DONE.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    out
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at).map(u16::from_be_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_be_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn export(read_only: bool) -> Export {
        Export {
            name: "webstore".into(),
            description: String::new(),
            size_bytes: 1 << 30,
            read_only,
            has_map: true,
        }
    }

    fn bytes(flags: u16, kind: u16, offset: u64, len: u32) -> [u8; REQUEST_LEN] {
        let mut out = [0; REQUEST_LEN];
        out[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&flags.to_be_bytes());
        out[6..8].copy_from_slice(&kind.to_be_bytes());
        out[8..16].copy_from_slice(&77u64.to_be_bytes());
        out[16..24].copy_from_slice(&offset.to_be_bytes());
        out[24..].copy_from_slice(&len.to_be_bytes());
        out
    }

    const ALL: Agreed = Agreed { structured: true, allocation: true };

    fn asked(flags: u16, kind: u16, offset: u64, len: u32) -> Ask {
        call(&bytes(flags, kind, offset, len), &export(false), ALL).expect("a request").ask
    }

    #[test]
    fn requests_mean_what_the_protocol_says() {
        assert_eq!(asked(0, 0, 512, 1024), Ask::Read { offset: 512, len: 1024 });
        assert_eq!(asked(1, 1, 4096, 8192), Ask::Write { offset: 4096, len: 8192, fua: true });
        assert_eq!(asked(0, 2, 0, 0), Ask::Leave);
        assert_eq!(asked(0, 3, 0, 0), Ask::Flush);
        assert_eq!(asked(0, 4, 0, 1 << 30), Ask::Trim { offset: 0, len: 1 << 30, fua: false });
        assert_eq!(asked(2, 6, 0, 4096), Ask::Zero { offset: 0, len: 4096, fua: false, keep: true });
        assert_eq!(asked(8, 7, 0, 4096), Ask::Status { offset: 0, len: 4096, one: true });
        assert_eq!(asked(0, 0, 0, 0), Ask::Nothing);
    }

    #[test]
    fn what_cannot_be_is_refused_and_its_payload_read() {
        let refused = |failure, skip| Ask::Refuse { failure, skip };
        assert_eq!(asked(0, 0, (1 << 30) - 4096, 8192), refused(Failure::Invalid, 0));
        assert_eq!(asked(0, 1, 1 << 30, 4096), refused(Failure::NoSpace, 4096));
        assert_eq!(asked(0, 1, 512, 4096), refused(Failure::Invalid, 4096));
        assert_eq!(asked(0, 1, 0, MAX_PAYLOAD + 4096), refused(Failure::Invalid, MAX_PAYLOAD + 4096));
        assert_eq!(asked(0, 0, u64::MAX - 10, 4096), refused(Failure::Invalid, 0));
        assert_eq!(asked(1 << 15, 1, 0, 4096), refused(Failure::Invalid, 4096));
        assert_eq!(asked(0, 5, 0, 4096), refused(Failure::NotSupported, 0));
        let ask = |kind| call(&bytes(0, kind, 0, 4096), &export(true), ALL).expect("a request").ask;
        for (kind, skip) in [(1, 4096), (4, 0), (6, 0)] {
            assert_eq!(ask(kind), refused(Failure::NotPermitted, skip));
        }
        assert_eq!(call(&bytes(0, 1, 0, MAX_SKIPPED + 1), &export(false), ALL), None);
        assert_eq!(call(&[0; REQUEST_LEN], &export(false), ALL), None);
        let unagreed = call(&bytes(0, 7, 0, 4096), &export(false), Agreed::default()).expect("a request").ask;
        assert_eq!(unagreed, refused(Failure::Invalid, 0));
    }

    #[test]
    fn a_read_only_export_offers_nothing_that_changes_it() {
        assert_eq!(export(false).flags(), 0b1_1110_1101);
        assert_eq!(export(true).flags(), 0b1_1000_0111);
    }

    #[test]
    fn answers_have_the_protocols_layout() {
        assert_eq!(simple(7, None)[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
        assert_eq!(simple(7, Some(Failure::NoSpace))[4..8], [0, 0, 0, 28]);
        let data = data_chunk(7, 4096, 512);
        assert_eq!((data.len(), u32_at(&data, 16), u64_at(&data, 20)), (28, Some(520), Some(4096)));
        assert_eq!((u16_at(&data, 4), u16_at(&data, 6)), (Some(1), Some(1)));
        let error = error_chunk(7, Failure::Io, "frozen");
        assert_eq!(
            (u32_at(&error, 16), u32_at(&error, 20), u16_at(&error, 24)),
            (Some(12), Some(5), Some(6))
        );
        assert_eq!(hole_chunk(7, 4096, 8192).len(), 32);
        let status = status_chunk(7, &[(4096, false), (8192, true)]);
        assert_eq!((status.len(), u32_at(&status, 16)), (40, Some(20)));
        assert_eq!((u32_at(&status, 28), u32_at(&status, 36)), (Some(0), Some(3)));
    }

    proptest! {
        #[test]
        fn whatever_is_handed_on_is_within_the_volume(
            mut bytes in any::<[u8; REQUEST_LEN]>(), magic in any::<bool>(), read_only in any::<bool>(),
            small in any::<bool>(), structured in any::<bool>(), allocation in any::<bool>()
        ) {
            if magic {
                bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
                (bytes[4], bytes[6]) = (0, 0);
                bytes[7] %= 9;
            }
            if small {
                // Within the volume's first GiB and in whole blocks, mostly.
                bytes[16..20].fill(0);
                (bytes[20], bytes[22], bytes[23]) = (bytes[20] % 64, bytes[22] & 0xf0, 0);
                (bytes[24], bytes[26], bytes[27]) = (0, bytes[26] & 0xf0, 0);
            }
            let export = export(read_only);
            let agreed = Agreed { structured, allocation };
            let Some(found) = call(&bytes, &export, agreed) else { return Ok(()) };
            let within = |offset: u64, len: u32| {
                len > 0 && offset.checked_add(u64::from(len)).is_some_and(|end| end <= export.size_bytes)
            };
            let whole = |offset: u64, len: u32| offset.is_multiple_of(4096) && len.is_multiple_of(4096);
            prop_assert_eq!(found.cookie, u64_at(&bytes, 8).unwrap());
            match found.ask {
                Ask::Read { offset, len } => prop_assert!(within(offset, len) && len <= MAX_PAYLOAD),
                Ask::Write { offset, len, .. } => {
                    prop_assert!(!read_only && within(offset, len) && whole(offset, len) && len <= MAX_PAYLOAD);
                }
                Ask::Trim { offset, len, .. } | Ask::Zero { offset, len, .. } => {
                    prop_assert!(!read_only && within(offset, len) && whole(offset, len));
                }
                Ask::Status { offset, len, .. } => prop_assert!(allocation && within(offset, len)),
                Ask::Refuse { skip, .. } => prop_assert!(skip <= MAX_SKIPPED && (skip == 0 || bytes[7] == 1)),
                Ask::Flush | Ask::Nothing | Ask::Leave => {}
            }
        }
    }
}
