//! Users of a front end: a block device, and a client of the NBD protocol of our own, which can also misbehave.

use super::device::BlockDevice;
use crate::frontend::{Device, FrontEnd, FrontEndKind};
use crate::store::AlignedBuf;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// What somebody does with a volume; errors are the system's numbers.
pub trait Disk: Send {
    fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, i32>;
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), i32>;
    fn flush(&mut self) -> Result<(), i32>;
    fn discard(&mut self, offset: u64, len: u64) -> Result<(), i32>;
    fn zero(&mut self, offset: u64, len: u64) -> Result<(), i32>;
}

/// `front_end` is aborted when its device does not answer.
pub fn open(kind: FrontEndKind, front_end: &Arc<dyn FrontEnd>, device: &Device) -> Box<dyn Disk> {
    match kind {
        FrontEndKind::Fuse => Box::new(BlockDevice::open(front_end, &device.local_path)),
        FrontEndKind::Nbd => Box::new(NbdClient::connect(&device.local_path, true).unwrap()),
    }
}

pub(super) fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)
}

pub(super) fn number(e: io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

/// For a process that is not the server below it.
impl Disk for File {
    fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, i32> {
        let mut buf = AlignedBuf::zeroed(len);
        self.read_exact_at(&mut buf, offset).map_err(number)?;
        Ok(buf.to_vec())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), i32> {
        self.write_all_at(&AlignedBuf::copy_of(data), offset).map_err(number)
    }

    fn flush(&mut self) -> Result<(), i32> {
        self.sync_all().map_err(number)
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<(), i32> {
        // Of a block device; fallocate would make it write-zeroes.
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.as_raw_fd());
        let (offset, len) = (offset.to_string(), len.to_string());
        let done = Command::new("blkdiscard")
            .args(["--force", "--offset", &offset, "--length", &len, &path])
            .stdin(Stdio::null())
            .output()
            .map_err(number)?;
        done.status.success().then_some(()).ok_or(libc::EIO)
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<(), i32> {
        let how = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        fallocate(self, how, offset, len).map_err(|e| e.raw_os_error())
    }
}

/// A client that says what the protocol has, one request at a time. Written from the protocol's document, not from the
/// server: what both got wrong would go unnoticed otherwise. Real clients are in `frontend/nbd/tests.rs`.
pub struct NbdClient {
    pub stream: UnixStream,
    pub structured: bool,
    pub size: u64,
    pub flags: u16,
    cookie: u64,
    /// Where the read in flight begins.
    read_at: u64,
}

fn bad(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}

impl NbdClient {
    pub fn connect(socket: &Path, structured: bool) -> io::Result<Self> {
        let mut client = Self::greet(socket)?;
        client.structured = structured;
        if structured {
            assert_eq!(client.option(8, &[])?.0, 1, "structured replies");
        }
        let go = [&8u32.to_be_bytes()[..], b"webstore", &[0, 1, 0, 3]].concat();
        client.send_option(7, &go)?;
        loop {
            match client.option_reply()? {
                (1, _) => return Ok(client),
                (3, info) if info[..2] == [0, 0] => {
                    client.size = u64::from_be_bytes(info[2..10].try_into().unwrap());
                    client.flags = u16::from_be_bytes(info[10..12].try_into().unwrap());
                }
                (3, _) => {}
                (other, _) => return Err(bad(&format!("GO was answered with {other:#x}"))),
            }
        }
    }

    /// Connected, and nothing chosen.
    pub fn greet(socket: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        // A test that waits for an answer that never comes shall fail, not hang.
        stream.set_read_timeout(Some(super::WAIT))?;
        stream.set_write_timeout(Some(super::WAIT))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        if greeting[..16] != *b"NBDMAGICIHAVEOPT" || greeting[16..] != [0, 3] {
            return Err(bad("not the fixed newstyle greeting"));
        }
        stream.write_all(&3u32.to_be_bytes())?;
        Ok(Self { stream, structured: false, size: 0, flags: 0, cookie: 0, read_at: 0 })
    }

    pub fn send_option(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let len = u32::try_from(data.len()).unwrap();
        let head = [&b"IHAVEOPT"[..], &option.to_be_bytes(), &len.to_be_bytes(), data].concat();
        self.stream.write_all(&head)
    }

    pub fn option_reply(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let mut head = [0; 20];
        self.stream.read_exact(&mut head)?;
        if head[..8] != 0x0003_e889_0455_65a9_u64.to_be_bytes() {
            return Err(bad("not a reply to an option"));
        }
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let mut data = vec![0; word(16) as usize];
        self.stream.read_exact(&mut data)?;
        Ok((word(12), data))
    }

    /// An option with one reply.
    pub fn option(&mut self, option: u32, data: &[u8]) -> io::Result<(u32, Vec<u8>)> {
        self.send_option(option, data)?;
        self.option_reply()
    }

    pub fn send(&mut self, flags: u16, kind: u16, offset: u64, len: u32, data: &[u8]) -> io::Result<u64> {
        self.cookie += 1;
        let mut head = 0x2560_9513_u32.to_be_bytes().to_vec();
        head.extend_from_slice(&flags.to_be_bytes());
        head.extend_from_slice(&kind.to_be_bytes());
        head.extend_from_slice(&self.cookie.to_be_bytes());
        head.extend_from_slice(&offset.to_be_bytes());
        head.extend_from_slice(&len.to_be_bytes());
        head.extend_from_slice(data);
        self.stream.write_all(&head)?;
        Ok(self.cookie)
    }

    fn word(&mut self) -> io::Result<u32> {
        let mut word = [0; 4];
        self.stream.read_exact(&mut word)?;
        Ok(u32::from_be_bytes(word))
    }

    /// The answer to the request that is in flight: data of a read of `len` bytes, or an error's number.
    pub fn answer(&mut self, cookie: u64, len: usize) -> io::Result<Result<Vec<u8>, u32>> {
        let mut data = vec![0; len];
        let mut failure = None;
        loop {
            let magic = self.word()?;
            let second = self.word()?;
            let mut named = [0; 8];
            self.stream.read_exact(&mut named)?;
            if u64::from_be_bytes(named) != cookie {
                return Err(bad("the answer to another request"));
            }
            if magic == 0x6744_6698 {
                if len > 0 && self.structured {
                    return Err(bad("a read must be answered in chunks"));
                }
                if second == 0 {
                    self.stream.read_exact(&mut data)?;
                }
                return Ok(if second == 0 { Ok(data) } else { Err(second) });
            }
            if magic != 0x668e_33ef || !self.structured {
                return Err(bad("neither a reply nor a chunk that was agreed"));
            }
            let mut body = vec![0; self.word()? as usize];
            self.stream.read_exact(&mut body)?;
            let at = |from: usize| u64::from_be_bytes(body[from..from + 8].try_into().unwrap());
            match second & 0xffff {
                0 => {}
                1 | 2 => {
                    let from = (at(0) - self.read_at) as usize;
                    let hole = second & 0xffff == 2;
                    let n = if hole { (at(4) & 0xffff_ffff) as usize } else { body.len() - 8 };
                    let place = data.get_mut(from..from + n).ok_or_else(|| bad("data nobody asked for"))?;
                    if hole { place.fill(0) } else { place.copy_from_slice(&body[8..]) }
                }
                5 => data = body,
                0x8001 => failure = Some(u32::from_be_bytes(body[..4].try_into().unwrap())),
                other => return Err(bad(&format!("chunk of kind {other:#x}"))),
            }
            if second >> 16 & 1 == 1 {
                return Ok(failure.map_or(Ok(data), Err));
            }
        }
    }

    pub fn call(
        &mut self,
        flags: u16,
        kind: u16,
        offset: u64,
        len: u32,
        data: &[u8],
    ) -> Result<Vec<u8>, i32> {
        let wanted = if kind == 0 { len as usize } else { 0 };
        self.read_at = offset;
        let answer = self.send(flags, kind, offset, len, data).and_then(|cookie| self.answer(cookie, wanted));
        answer.map_err(number)?.map_err(|e| e as i32)
    }
}

impl Disk for NbdClient {
    fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, i32> {
        self.call(0, 0, offset, len as u32, &[])
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), i32> {
        self.call(0, 1, offset, data.len() as u32, data).map(drop)
    }

    fn flush(&mut self) -> Result<(), i32> {
        self.call(0, 3, 0, 0, &[]).map(drop)
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<(), i32> {
        self.call(0, 4, offset, len as u32, &[]).map(drop)
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<(), i32> {
        // Not to be given back.
        self.call(2, 6, offset, len as u32, &[]).map(drop)
    }
}
