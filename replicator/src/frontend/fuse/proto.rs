//! The part of the FUSE protocol (linux/fuse.h) that one file behind a loop device needs. Pure: bytes in, bytes
//! out. The kernel is trusted for its layout, not for its values.

use crate::frontend::field::field;
use std::sync::atomic::{AtomicU64, Ordering};

/// Largest write and read: `/proc/sys/fs/fuse/max_pages_limit` is 256 pages by default, and loop sends at most
/// 512 KiB to 1280 KiB (DATAPATH A4).
pub(super) const MAX_IO: u32 = 1 << 20;
/// Requests in flight. The default of 12 costs a factor of ten with a server that takes a millisecond; more than
/// the loop device's 128 are not asked for.
const MAX_BACKGROUND: u16 = 256;
/// How long the kernel may keep attributes and names: only a growth changes them, and makes the kernel ask again.
const TTL_S: u64 = 3600;

pub(super) const IN_HEADER: usize = 40;
pub(super) const WRITE_IN: usize = 40;

const ROOT: u64 = 1;
const FILE: u64 = 2;

const FUSE_ASYNC_READ: u32 = 1 << 0;
const FUSE_BIG_WRITES: u32 = 1 << 5;
const FUSE_ASYNC_DIO: u32 = 1 << 15;
const FUSE_MAX_PAGES: u32 = 1 << 22;

const FUSE_INIT_EXT: u32 = 1 << 30;
/// In the upper half: the kernel can send requests again that a reader of the connection has taken (Linux 6.9).
const FUSE_HAS_RESEND: u32 = 1 << (39 - 32);
/// Notification: send them again.
const FUSE_NOTIFY_RESEND: i32 = 7;

const FOPEN_DIRECT_IO: u32 = 1 << 0;
const FOPEN_NOFLUSH: u32 = 1 << 5;
const FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;

const FALLOC_KEEP_SIZE: u32 = 0x1;
const FALLOC_PUNCH_HOLE: u32 = 0x2;
const FALLOC_ZERO_RANGE: u32 = 0x10;

/// What the kernel asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ask<'a> {
    Init {
        minor: u32,
        flags: u32,
        /// The upper half; zero if the kernel has none.
        more: u32,
        max_readahead: u32,
    },
    Lookup {
        parent: u64,
        name: &'a [u8],
    },
    Getattr {
        node: u64,
    },
    Open {
        node: u64,
    },
    Read {
        offset: u64,
        len: u32,
    },
    Write {
        offset: u64,
        len: u32,
    },
    Fsync,
    Discard {
        offset: u64,
        len: u64,
    },
    Zero {
        offset: u64,
        len: u64,
    },
    Statfs,
    /// Done by saying so.
    Fine,
    /// Takes no answer.
    Silent,
    /// Not for us, with the error to say so.
    Not(i32),
}

/// Reads a request: its id and what it asks. None if it is too short to be one.
pub(super) fn parse(bytes: &[u8]) -> Option<(u64, Ask<'_>)> {
    let body = bytes.get(IN_HEADER..)?;
    let (opcode, unique, node) = (u32_at(bytes, 4)?, u64_at(bytes, 8)?, u64_at(bytes, 16)?);
    let ask = match opcode {
        1 => Ask::Lookup { parent: node, name: body.split(|b| *b == 0).next()? },
        3 => Ask::Getattr { node },
        14 => Ask::Open { node },
        15 => Ask::Read { offset: u64_at(body, 8)?, len: u32_at(body, 16)? },
        16 => Ask::Write { offset: u64_at(body, 8)?, len: u32_at(body, 16)? },
        17 => Ask::Statfs,
        20 => Ask::Fsync,
        26 => {
            let flags = u32_at(body, 12)?;
            let more = if flags & FUSE_INIT_EXT == 0 { 0 } else { u32_at(body, 16)? };
            Ask::Init { minor: u32_at(body, 4)?, max_readahead: u32_at(body, 8)?, flags, more }
        }
        43 => {
            let (offset, len, mode) = (u64_at(body, 8)?, u64_at(body, 16)?, u32_at(body, 24)?);
            match mode {
                m if m == FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE => Ask::Discard { offset, len },
                m if m & !FALLOC_KEEP_SIZE == FALLOC_ZERO_RANGE => Ask::Zero { offset, len },
                // Never ENOSYS: the kernel would not ask again for as long as the connection lives.
                _ => Ask::Not(libc::EOPNOTSUPP),
            }
        }
        // RELEASE, FLUSH, OPENDIR's twin RELEASEDIR, DESTROY
        18 | 25 | 29 | 38 => Ask::Fine,
        // FORGET, BATCH_FORGET, and INTERRUPT: every request is answered anyway
        2 | 36 | 42 => Ask::Silent,
        _ => Ask::Not(libc::ENOSYS),
    };
    Some((unique, ask))
}

/// The one file and its directory.
pub(super) struct Tree {
    pub name: String,
    pub size_bytes: AtomicU64,
}

impl Tree {
    pub fn new(name: String, size_bytes: u64) -> Self {
        Self { name, size_bytes: AtomicU64::new(size_bytes) }
    }

    pub fn size(&self) -> u64 {
        self.size_bytes.load(Ordering::SeqCst)
    }

    /// The answer to what needs no data; none for what does.
    pub fn answer(&self, ask: &Ask<'_>) -> Option<Result<Vec<u8>, i32>> {
        Some(match ask {
            Ask::Init { minor, flags, max_readahead, more: _ } => Ok(init(*minor, *flags, *max_readahead)),
            Ask::Lookup { parent: ROOT, name } if *name == self.name.as_bytes() => {
                let mut out = Vec::with_capacity(128);
                put64(&mut out, &[FILE, 0, TTL_S, TTL_S, 0]);
                self.attr(FILE, &mut out);
                Ok(out)
            }
            Ask::Lookup { .. } => Err(libc::ENOENT),
            Ask::Getattr { node: node @ (ROOT | FILE) } => {
                let mut out = Vec::with_capacity(104);
                put64(&mut out, &[TTL_S, 0]);
                self.attr(*node, &mut out);
                Ok(out)
            }
            Ask::Open { node: FILE } => {
                let mut out = Vec::with_capacity(16);
                put64(&mut out, &[0]);
                // No FLUSH on close: a process that dies with the file open must not wait for its own server.
                put32(&mut out, &[FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES | FOPEN_NOFLUSH, 0]);
                Ok(out)
            }
            Ask::Getattr { .. } | Ask::Open { .. } => Err(libc::ENOENT),
            Ask::Statfs => {
                let mut out = Vec::with_capacity(80);
                put64(&mut out, &[self.size() / 4096, 0, 0, 1, 0]);
                put32(&mut out, &[4096, 255, 4096, 0, 0, 0, 0, 0, 0, 0]);
                Ok(out)
            }
            Ask::Fine => Ok(Vec::new()),
            Ask::Not(errno) => Err(*errno),
            Ask::Silent => return None,
            Ask::Read { .. } | Ask::Write { .. } | Ask::Fsync | Ask::Discard { .. } | Ask::Zero { .. } => {
                return None;
            }
        })
    }

    /// `struct fuse_attr`, 88 bytes.
    fn attr(&self, node: u64, out: &mut Vec<u8>) {
        let (size, mode, links) = if node == FILE {
            (self.size(), libc::S_IFREG | 0o600, 1)
        } else {
            (0, libc::S_IFDIR | 0o700, 2)
        };
        put64(out, &[node, size, size / 512, 0, 0, 0]);
        put32(out, &[0, 0, 0, mode, links, 0, 0, 0, 4096, 0]);
    }
}

/// The kernel can resend, by what it offered in its INIT.
pub(super) fn can_resend(more: u32) -> bool {
    more & FUSE_HAS_RESEND != 0
}

/// Asks the kernel to send everything again that was read and not answered: `struct fuse_out_header` with a number
/// of a notification in place of an error, for no request.
pub(super) fn resend() -> [u8; 16] {
    out_header(0, -FUSE_NOTIFY_RESEND, 0)
}

/// `struct fuse_init_out`, 64 bytes.
fn init(minor: u32, flags: u32, max_readahead: u32) -> Vec<u8> {
    let wanted = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO | FUSE_MAX_PAGES;
    let mut out = Vec::with_capacity(64);
    put32(&mut out, &[7, minor.min(38), max_readahead, flags & wanted]);
    out.extend_from_slice(&MAX_BACKGROUND.to_le_bytes());
    out.extend_from_slice(&(MAX_BACKGROUND / 4 * 3).to_le_bytes());
    put32(&mut out, &[MAX_IO, 1]);
    out.extend_from_slice(&((MAX_IO / 4096) as u16).to_le_bytes());
    out.resize(64, 0);
    out
}

/// `struct fuse_out_header`.
pub(super) fn out_header(unique: u64, errno: i32, body_len: usize) -> [u8; 16] {
    let mut h = [0; 16];
    h[0..4].copy_from_slice(&((16 + body_len) as u32).to_le_bytes());
    h[4..8].copy_from_slice(&(-errno).to_le_bytes());
    h[8..16].copy_from_slice(&unique.to_le_bytes());
    h
}

/// `struct fuse_write_out`.
pub(super) fn write_out(len: u32) -> [u8; 8] {
    let mut out = [0; 8];
    out[..4].copy_from_slice(&len.to_le_bytes());
    out
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_ne_bytes)
}

fn put64(out: &mut Vec<u8>, values: &[u64]) {
    values.iter().for_each(|v| out.extend_from_slice(&v.to_ne_bytes()));
}

fn put32(out: &mut Vec<u8>, values: &[u32]) {
    values.iter().for_each(|v| out.extend_from_slice(&v.to_ne_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put32(&mut bytes, &[(IN_HEADER + body.len()) as u32, opcode]);
        put64(&mut bytes, &[77, node, 0, 0]);
        bytes.resize(IN_HEADER, 0);
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn answers_have_the_kernels_sizes() {
        let tree = Tree::new("disk".into(), 1 << 30);
        let len = |ask| tree.answer(&ask).unwrap().unwrap().len();
        assert_eq!(len(Ask::Init { minor: 45, flags: u32::MAX, more: 0, max_readahead: 131_072 }), 64);
        assert_eq!(len(Ask::Lookup { parent: 1, name: b"disk" }), 128);
        assert_eq!(len(Ask::Getattr { node: 2 }), 104);
        assert_eq!(len(Ask::Open { node: 2 }), 16);
        assert_eq!(len(Ask::Statfs), 80);
        assert_eq!(tree.answer(&Ask::Lookup { parent: 1, name: b"other" }), Some(Err(libc::ENOENT)));
        assert_eq!(tree.answer(&Ask::Silent), None);
    }

    #[test]
    fn only_what_the_kernel_offers_is_accepted() {
        let flags = |offered| u32_at(&init(31, offered, 0), 12).unwrap();
        assert_eq!(flags(0), 0);
        assert_eq!(flags(u32::MAX) & FUSE_ASYNC_DIO, FUSE_ASYNC_DIO);
        assert_eq!(u32_at(&init(31, 0, 0), 4), Some(31));
    }

    #[test]
    fn whether_requests_can_be_resent_stands_in_the_upper_flags() {
        let init = |flags: u32, more: u32| {
            let mut body = Vec::new();
            put32(&mut body, &[7, 45, 0, flags, more]);
            match parse(&request(26, 0, &body)) {
                Some((77, Ask::Init { more, .. })) => can_resend(more),
                other => panic!("{other:?}"),
            }
        };
        assert!(init(1 << 30, 1 << 7));
        assert!(!init(1 << 30, 0));
        assert!(!init(0, 1 << 7), "without the extension the upper half is not there");
        assert_eq!(resend(), [16, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn requests_are_read_and_short_or_strange_ones_survived() {
        let mut fallocate = Vec::new();
        put64(&mut fallocate, &[0, 4096, 8192]);
        let fallocate_as = |mode: u32| {
            let mut body = fallocate.clone();
            put32(&mut body, &[mode, 0]);
            request(43, 2, &body)
        };
        let discard = Ask::Discard { offset: 4096, len: 8192 };
        let zero = Ask::Zero { offset: 4096, len: 8192 };
        assert_eq!(parse(&fallocate_as(0x3)), Some((77, discard)));
        assert_eq!(parse(&fallocate_as(0x11)), Some((77, zero)));
        assert_eq!(parse(&fallocate_as(0)), Some((77, Ask::Not(libc::EOPNOTSUPP))));
        assert_eq!(parse(&request(1, 1, b"disk\0")), Some((77, Ask::Lookup { parent: 1, name: b"disk" })));
        assert_eq!(parse(&request(999, 1, b"")), Some((77, Ask::Not(libc::ENOSYS))));
        let full = fallocate_as(0x3);
        for n in 0..full.len() - 4 {
            assert_eq!(parse(&full[..n]), None, "{n} bytes");
        }
    }
}
