//! A user of a block device that is a process of its own.
//!
//! The tests' process is the FUSE server below the device. If one of its own threads waited in the kernel for that
//! device, the table of file descriptors would live as long as the thread, and with it `/dev/fuse`: a killed test would
//! wait for itself for ever. So a child has the device open and is told what to do through a socket. Every wait for it is
//! bounded; when one runs out, the connection is aborted, which ends whatever the child waits for, and the test fails.

use super::disk::{Disk, number, open_direct};
use super::{WAIT, wait_at_most};
use crate::frontend::FrontEnd;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// Names the device to the child.
const DEVICE: &str = "BATON_TEST_DEVICE";
/// Kind, offset and length of an order; the data of a write follows.
const ORDER_LEN: usize = 17;

const READ: u8 = 0;
const WRITE: u8 = 1;
const FLUSH: u8 = 2;
const DISCARD: u8 = 3;
const ZERO: u8 = 4;

/// Open until it is dropped.
pub struct BlockDevice {
    front_end: Arc<dyn FrontEnd>,
    path: PathBuf,
    /// None: closed, which the child takes for the end.
    orders: Option<UnixStream>,
    child: Child,
}

impl BlockDevice {
    pub fn open(front_end: &Arc<dyn FrontEnd>, path: &Path) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(WAIT)).unwrap();
        ours.set_write_timeout(Some(WAIT)).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "frontend::conformance::device::user", "--nocapture"])
            .env(DEVICE, path)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut device = Self { front_end: front_end.clone(), path: path.into(), orders: Some(ours), child };
        device.answer(0).expect("the device can be opened");
        device
    }

    fn order(&mut self, kind: u8, offset: u64, len: u64, data: &[u8]) -> Result<Vec<u8>, i32> {
        let head = [&[kind][..], &offset.to_le_bytes(), &len.to_le_bytes()].concat();
        let sent = self.stream().write_all(&head).and_then(|()| self.stream().write_all(data));
        self.checked(sent);
        self.answer(if kind == READ { len as usize } else { 0 })
    }

    fn answer(&mut self, len: usize) -> Result<Vec<u8>, i32> {
        let mut code = [0; 4];
        let read = self.stream().read_exact(&mut code);
        self.checked(read);
        let code = i32::from_le_bytes(code);
        if code != 0 {
            return Err(code);
        }
        let mut data = vec![0; len];
        let read = self.stream().read_exact(&mut data);
        self.checked(read);
        Ok(data)
    }

    fn stream(&mut self) -> &mut UnixStream {
        self.orders.as_mut().expect("open until it is dropped")
    }

    fn checked(&self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            self.front_end.stop(true);
            panic!("whoever uses {} gave no answer within {WAIT:?}: {error}", self.path.display());
        }
    }
}

impl Drop for BlockDevice {
    /// When it returns, the device is closed.
    fn drop(&mut self) {
        self.orders = None;
        if std::thread::panicking() {
            self.front_end.stop(true);
        }
        let child = &mut self.child;
        let mut ended = || child.try_wait().is_ok_and(|status| status.is_some());
        if wait_at_most(WAIT, &mut ended) {
            return;
        }
        self.front_end.stop(true);
        let _ = self.child.kill();
        let child = &mut self.child;
        let ended = wait_at_most(WAIT, || child.try_wait().is_ok_and(|status| status.is_some()));
        let message = format!("whoever used {} did not end ({ended} after an abort)", self.path.display());
        if std::thread::panicking() { eprintln!("{message}") } else { panic!("{message}") }
    }
}

impl Disk for BlockDevice {
    fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, i32> {
        self.order(READ, offset, len as u64, &[])
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), i32> {
        self.order(WRITE, offset, data.len() as u64, data).map(drop)
    }

    fn flush(&mut self) -> Result<(), i32> {
        self.order(FLUSH, 0, 0, &[]).map(drop)
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<(), i32> {
        self.order(DISCARD, offset, len, &[]).map(drop)
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<(), i32> {
        self.order(ZERO, offset, len, &[]).map(drop)
    }
}

/// Not a test by itself: the child of [`BlockDevice::open`].
#[test]
fn user() {
    let Some(path) = std::env::var_os(DEVICE) else { return };
    let orders = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    // Ends with an error when the test has dropped its end, or died.
    let _ = obey(Path::new(&path), orders);
}

fn obey(path: &Path, mut orders: UnixStream) -> io::Result<()> {
    let opened = open_direct(path).map_err(number);
    orders.write_all(&opened.as_ref().map_or_else(|code| *code, |_| 0).to_le_bytes())?;
    let Ok(mut file) = opened else { return Ok(()) };
    loop {
        let mut head = [0; ORDER_LEN];
        orders.read_exact(&mut head)?;
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (kind, offset, len) = (head[0], word(1), word(9));
        let mut data = vec![0; if kind == WRITE { len as usize } else { 0 }];
        orders.read_exact(&mut data)?;
        let done = match kind {
            READ => Disk::read(&mut file, offset, len as usize),
            WRITE => Disk::write(&mut file, offset, &data).map(|()| Vec::new()),
            FLUSH => Disk::flush(&mut file).map(|()| Vec::new()),
            DISCARD => Disk::discard(&mut file, offset, len).map(|()| Vec::new()),
            ZERO => Disk::zero(&mut file, offset, len).map(|()| Vec::new()),
            other => panic!("order {other}"),
        };
        match done {
            Ok(data) => {
                orders.write_all(&0i32.to_le_bytes())?;
                orders.write_all(&data)?;
            }
            Err(code) => orders.write_all(&code.to_le_bytes())?,
        }
    }
}

/// The orders themselves, on a file: no device is needed for that.
#[test]
fn a_child_does_what_it_is_told_and_ends_when_it_is_dropped() {
    struct Nothing;
    impl FrontEnd for Nothing {
        fn reply(&self, _: u64, _: Result<bytes::Bytes, crate::frontend::Errno>) {}
        fn stop(&self, _: bool) {}
        fn resize(&self, _: u64) {}
        fn pending(&self) -> usize {
            0
        }
    }
    let dir = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    let front_end: Arc<dyn FrontEnd> = Arc::new(Nothing);
    let mut device = BlockDevice::open(&front_end, &path);
    device.write(4096, &[1; 8192]).unwrap();
    device.flush().unwrap();
    let read = device.read(0, 16384).unwrap();
    assert!(read[..4096].iter().all(|b| *b == 7) && read[4096..12288].iter().all(|b| *b == 1));
    assert_eq!(device.read(1 << 20, 4096), Err(libc::EIO), "beyond the end");
    assert_eq!(device.read(1, 4096), Err(libc::EINVAL), "errors keep their number");
    let child = format!("/proc/{}", device.child.id());
    assert!(Path::new(&child).exists());
    drop(device);
    assert!(!Path::new(&child).exists());
}
