//! The peer that anyone could set up today: `qemu-storage-daemon` with a quorum node over a local file and an NBD export of a
//! second qemu-storage-daemon, attached through its FUSE export and a loop device.
//!
//! It promises what Baton's protocol C promises while both copies are there: `vote-threshold=2` acknowledges a write when
//! both have it, and `read-pattern=fifo` reads the local one. Direct I/O on both files, TCP between the two.
//!
//! Before QEMU 10.1 the FUSE export uses one buffer for all requests: a write that arrives while another one is being
//! carried out may overwrite its data (fixed by "fuse: Copy write buffer content before polling", July 2025). The jobs do not
//! look at the data, so they run as fast as it can; a database needs [`Quorum::one_at_a_time`].

use crate::os::{self, Loop, Mounted, Server};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PROGRAM: &str = "qemu-storage-daemon";
const START: Duration = Duration::from_secs(20);

/// The mirror; fields are dropped in this order.
pub struct Quorum {
    point: PathBuf,
    /// Its block device.
    pub device: Loop,
    local: Server,
    remote: Server,
}

impl Quorum {
    /// Starts both daemons on files of this size, with io_uring where this QEMU and this kernel have it.
    ///
    /// # Errors
    /// Something does not start; the message says where its log is.
    pub fn start(dir: &Path, size: u64) -> Result<Self> {
        Self::with(dir, size, "io_uring").or_else(|error| {
            os::go_on()?;
            Self::with(dir, size, "threads").context(format!("{error:#}; and without io_uring"))
        })
    }

    fn with(dir: &Path, size: u64, aio: &str) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let (local_image, remote_image) = (dir.join("local.image"), dir.join("remote.image"));
        for image in [&local_image, &remote_image] {
            File::create(image)?.set_len(size)?;
        }
        let file = |name: &str, path: &Path| {
            format!("driver=file,node-name={name},filename={},cache.direct=on,aio={aio}", path.display())
        };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(PROGRAM);
        command.args(["--blockdev", &file("copy", &remote_image)]);
        command.args(["--nbd-server", &format!("addr.type=inet,addr.host=127.0.0.1,addr.port={port}")]);
        command.args(["--export", "type=nbd,id=out,node-name=copy,name=copy,writable=on"]);
        let log = dir.join("log");
        let see = || format!("see {}", log.display());
        let mut remote = Server::start(&command, &log)?;
        let mut answers = || remote.lives().is_err() || TcpStream::connect(("127.0.0.1", port)).is_ok();
        os::wait_for("qemu's NBD server", START, || answers().then_some(())).with_context(see)?;
        remote.lives().with_context(see)?;

        let point = dir.join("fuse");
        File::create(&point)?;
        let nbd = format!(
            "driver=nbd,node-name=far,server.type=inet,server.host=127.0.0.1,server.port={port},export=copy"
        );
        let mut command = Command::new(PROGRAM);
        command.args(["--blockdev", &file("near", &local_image)]).args(["--blockdev", &nbd]);
        let quorum =
            "driver=quorum,node-name=both,children.0=near,children.1=far,vote-threshold=2,read-pattern=fifo";
        command.args(["--blockdev", quorum]);
        let export = "type=fuse,id=out,node-name=both,writable=on,growable=off,allow-other=auto";
        command.args(["--export", &format!("{export},mountpoint={}", point.display())]);
        let mut local = Server::start(&command, &log)?;
        let mut served = || local.lives().is_err() || fs::metadata(&point).is_ok_and(|m| m.len() == size);
        os::wait_for("qemu's FUSE export", START, || served().then_some(())).with_context(see)?;
        local.lives().with_context(see)?;
        Ok(Self { device: Loop::attach(&point)?, point, local, remote })
    }

    /// The kernel gives the FUSE export one request at a time, so that none overwrites another's data.
    ///
    /// # Errors
    /// The kernel does not let us.
    pub fn one_at_a_time(&self) -> Result<()> {
        let control = self.point.with_extension("control");
        fs::create_dir_all(&control)?;
        os::quick("mount", &["-t", "fusectl", "none", &control.display().to_string()])?;
        let mounted = Mounted(control);
        let connection = mounted.0.join(fs::metadata(&self.point)?.st_dev().to_string());
        fs::write(connection.join("max_background"), "1").context("set the FUSE export's max_background")
    }

    /// An error if a daemon has ended.
    pub fn is_well(&mut self) -> Result<()> {
        self.local.lives()?;
        self.remote.lives()
    }
}

/// Its version, for the page.
pub fn version() -> Option<String> {
    let text = os::quick(PROGRAM, &["--version"]).ok()?;
    Some(text.lines().next()?.replace("qemu-storage-daemon version ", "qemu-storage-daemon "))
}
