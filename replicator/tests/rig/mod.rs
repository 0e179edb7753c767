//! Two replicators as processes, each with its holder, and what plays their agents.

use baton_replicator::api::{
    Backing, Desired, Membership, PeerConfig, PeerStatus, ServeUntil, Status, VerifyRequest, VolumeConfig,
    VolumeStatus,
};
use baton_replicator::clock;
use baton_replicator::frontend::stale;
use baton_replicator::types::{
    Epoch, FrontEndKind, GroupName, Instant as Clock, Member, NodeName, Protocol, Role, TermId, Transport,
    VolumeName,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const SIZE: u64 = 64 << 20;
pub const WAIT: Duration = Duration::from_secs(60);

pub fn available() -> bool {
    let ok = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !ok {
        eprintln!("SKIPPED: needs root and /dev/fuse");
    }
    ok
}

pub fn epoch(number: u64) -> Epoch {
    Epoch { number, term: TermId(number) }
}

pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + WAIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited too long for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

/// What a replica of a test is made of.
#[derive(Clone)]
pub struct Replica {
    pub size_bytes: u64,
    /// None: a file.
    pub device: Option<PathBuf>,
    /// Where its files are. None: in the host's own directory.
    pub dir: Option<PathBuf>,
}

impl Default for Replica {
    fn default() -> Self {
        Self { size_bytes: SIZE, device: None, dir: None }
    }
}

/// A replicator of its own mount namespace, as in a container.
pub struct Host {
    pub node: NodeName,
    pub dir: PathBuf,
    replica: Replica,
    pub program: PathBuf,
    pub address: SocketAddr,
    /// Its volume has the front end `nbd`.
    pub nbd: AtomicBool,
    holder: Mutex<Child>,
}

impl Host {
    pub fn start(dir: &Path, name: &str, replica: Replica) -> Self {
        // Free a moment ago; the listener of each worker takes the same again.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self::start_at(address, dir, name, replica)
    }

    /// The same, after it was there before.
    pub fn start_at(address: SocketAddr, dir: &Path, name: &str, replica: Replica) -> Self {
        let dir = dir.join(name);
        for part in ["run", "dev"] {
            std::fs::create_dir_all(dir.join(part)).unwrap();
        }
        // A file of its own, which a test may replace.
        let program = dir.join("baton-replicator");
        std::fs::copy(env!("CARGO_BIN_EXE_baton-replicator"), &program).unwrap();
        let secret = dir.join("secret");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&secret).unwrap();
        file.write_all(b"a secret of more than thirty-two bytes, for tests").unwrap();
        // Each start of a host is one of its boots.
        std::fs::write(dir.join("boot"), format!("{:032x}", rand::random::<u128>())).unwrap();
        let path = |part: &str| dir.join(part).display().to_string();
        let holder = Command::new("unshare")
            .args(["-m", "--propagation", "private", "--"])
            .arg(&program)
            .args(["--node", name, "--listen", &address.to_string(), "--secret-file", &path("secret")])
            .args(["--boot-id-file", &path("boot")])
            .args(["--state-dir", &path(""), "--run-dir", &path("run"), "--device-dir", &path("dev")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let node = NodeName::new(name).unwrap();
        let nbd = AtomicBool::new(false);
        let host = Self { node, dir, replica, program, address, nbd, holder: Mutex::new(holder) };
        wait_for("the control socket", || host.status());
        host
    }

    pub fn image(&self) -> PathBuf {
        self.replica.dir.as_ref().unwrap_or(&self.dir).join("webstore.img")
    }

    pub fn metadata(&self) -> PathBuf {
        self.replica.dir.as_ref().unwrap_or(&self.dir).join("webstore.meta")
    }

    /// The worker's process, once there is one.
    pub fn worker(&self) -> rustix::process::Pid {
        wait_for("a worker", || {
            let id = self.holder.lock().unwrap().id();
            let text = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
            rustix::process::Pid::from_raw(text.split_whitespace().next()?.parse().ok()?)
        })
    }

    /// Holder and worker.
    pub fn processes(&self) -> [u32; 2] {
        let worker = self.worker().as_raw_nonzero().get();
        [self.holder.lock().unwrap().id(), u32::try_from(worker).expect("a process id")]
    }

    /// As if the host were gone: nobody starts the worker again. What is in its files stays.
    pub fn crash(&self) {
        for pid in self.processes() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            // The worker ends with its holder, perhaps before it is its turn.
            let killed = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            assert!(matches!(killed, Ok(()) | Err(rustix::io::Errno::SRCH)), "{killed:?}");
        }
        wait_for("its end", || self.ended());
    }

    /// The worker neither runs nor ends until it is killed or told to go on.
    pub fn stop_worker(&self) {
        rustix::process::kill_process(self.worker(), rustix::process::Signal::STOP).unwrap();
    }

    pub fn kill_worker(&self) {
        rustix::process::kill_process(self.worker(), rustix::process::Signal::KILL).unwrap();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.holder.lock().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// How the holder ended, if it has.
    pub fn ended(&self) -> Option<std::process::ExitStatus> {
        self.holder.lock().unwrap().try_wait().unwrap()
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(self.dir.join("run/replicator.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let code = answer.split(' ').nth(1)?.parse().ok()?;
        Some((code, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    pub fn status(&self) -> Option<Status> {
        let (_, body) = self.call("GET", "/v1/status", "")?;
        serde_json::from_str(&body).ok()
    }

    pub fn volume(&self) -> Option<VolumeStatus> {
        self.status()?.volumes.into_iter().next()
    }

    pub fn configure(&self, peers: &[(&NodeName, SocketAddr)]) -> Option<u16> {
        let peer = |(node, address): &(&NodeName, SocketAddr)| PeerConfig {
            node: (*node).clone(),
            address: *address,
            alternatives: Vec::new(),
        };
        let config = VolumeConfig {
            volume: VolumeName::new("webstore").unwrap(),
            group: GroupName::new("web").unwrap(),
            size_bytes: self.replica.size_bytes,
            backing: match &self.replica.device {
                Some(device) => Backing::Device(device.clone()),
                None => Backing::File(self.image()),
            },
            metadata: self.metadata(),
            peers: peers.iter().map(peer).collect(),
            protocol: Protocol::C,
            protocols: Default::default(),
            after_split_brain: Default::default(),
            transport: Transport::Plain,
            peer_timeout_ms: 10_000,
            resync_rate: 0,
            resync_min_rate: 4 << 20,
            target_latency_us: 0,
            disk_timeout_ms: 30_000,
            front_end: match self.nbd.load(Ordering::SeqCst) {
                true => FrontEndKind::Nbd,
                false => FrontEndKind::Fuse,
            },
        };
        let body = serde_json::to_string(&config).unwrap();
        self.call("PUT", "/v1/volumes/webstore", &body).map(|a| a.0)
    }

    /// Serves a snapshot for backup, or ends that: HTTP status and body.
    pub fn export(&self, method: &str) -> (u16, String) {
        self.call(method, "/v1/volumes/webstore/export", "").expect("an answer")
    }

    /// Compares all replicas, without repair.
    pub fn verify(&self, id: u64) -> Option<u16> {
        let body = serde_json::to_string(&VerifyRequest { id, repair: false }).unwrap();
        self.call("POST", "/v1/volumes/webstore/verify", &body).map(|a| a.0)
    }

    pub fn desire(&self, role: Role, number: u64, required: Vec<Member>, force: bool) -> Option<u16> {
        let desired = Desired {
            epoch: epoch(number),
            role,
            required,
            accept_data_loss: false,
            force,
            order: 0,
            membership: Membership::Member,
        };
        let body = serde_json::to_string(&desired).unwrap();
        self.call("PUT", "/v1/volumes/webstore/desired", &body).map(|a| a.0)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let holder = self.holder.get_mut().unwrap();
        let _ = holder.kill();
        let _ = holder.wait();
        let tag = stale::node_tag(&self.dir, &self.node).unwrap();
        let left = || stale::clean(&tag, &self.dir.join("run"), &self.dir.join("dev"), &[]);
        let end = Instant::now() + WAIT;
        while !left().is_empty() && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Says again and again that `host` may serve in the epoch of this number, as long as it `may`.
fn vouch(host: &Host, number: u64, stop: Arc<AtomicBool>, may: Arc<AtomicBool>) -> JoinHandle<()> {
    let socket = host.dir.join("run/serve-until.sock");
    thread::spawn(move || {
        let sender = UnixDatagram::unbound().unwrap();
        while !stop.load(Ordering::SeqCst) {
            if may.load(Ordering::SeqCst) {
                let until = Clock(clock::now().0).plus(Duration::from_secs(1));
                let group = GroupName::new("web").unwrap();
                let said = ServeUntil { group, epoch: epoch(number), until };
                let _ = sender.send_to(&serde_json::to_vec(&said).unwrap(), &socket);
            }
            thread::sleep(Duration::from_millis(100));
        }
    })
}

/// What an agent does, as far as these tests need one: vouches, attaches the volume, makes it what it should be.
pub struct Agent {
    stop: Arc<AtomicBool>,
    pub vouches: Arc<AtomicBool>,
    /// Role and epoch; none: nothing is said.
    pub wanted: Arc<Mutex<Option<(Role, u64)>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Agent {
    /// Of `host`, which leads in the epoch of this number, with `peers` as the members that must have every write.
    pub fn start(host: &Arc<Host>, peers: &[Arc<Host>], number: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let vouches = Arc::new(AtomicBool::new(true));
        let wanted = Arc::new(Mutex::new(Some((Role::Primary, number))));
        let voucher = vouch(host, number, Arc::clone(&stop), Arc::clone(&vouches));
        let (on, says, host, peers) =
            (Arc::clone(&stop), Arc::clone(&wanted), Arc::clone(host), peers.to_vec());
        let decider = thread::spawn(move || {
            while !on.load(Ordering::SeqCst) {
                Self::decide(&host, &peers, *says.lock().unwrap());
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, vouches, wanted, threads: vec![voucher, decider] }
    }

    /// Each host knows all others.
    fn configure(host: &Host, all: &[&Host]) {
        let others: Vec<_> =
            all.iter().filter(|h| h.node != host.node).map(|h| (&h.node, h.address)).collect();
        host.configure(&others);
    }

    fn decide(host: &Host, peers: &[Arc<Host>], wanted: Option<(Role, u64)>) {
        let all: Vec<&Host> = std::iter::once(host).chain(peers.iter().map(|p| &**p)).collect();
        let Some(mine) = host.status() else { return };
        let statuses: Vec<Option<Status>> = peers.iter().map(|p| p.status()).collect();
        for (peer, status) in peers.iter().zip(&statuses) {
            if status.as_ref().is_some_and(|s| s.volumes.is_empty()) {
                Self::configure(peer, &all);
            }
        }
        let Some(mine) = mine.volumes.first() else {
            return Self::configure(host, &all);
        };
        let Some((role, number)) = wanted else { return };
        // One who does not answer stays what it is; nothing is decided before all have a volume.
        let mut required = Vec::new();
        for (peer, status) in peers.iter().zip(&statuses) {
            let Some(theirs) = status.as_ref().and_then(|s| s.volumes.first()) else { return };
            let member = Member { node: peer.node.clone(), boot: theirs.boot };
            let admitted = mine.required.contains(&member);
            // A member once it has everything; after that it stays one.
            let known = theirs.generation.0 != 0 && theirs.epoch == epoch(number);
            if admitted || known || mine.peers.iter().any(|p| p.node == peer.node && p.resynced) {
                required.push(member);
            }
        }
        let same =
            |other: &[Member]| other.len() == required.len() && required.iter().all(|m| other.contains(m));
        let done = match role {
            Role::Primary => mine.role == role && same(&mine.required),
            Role::Secondary => mine.role == role && !mine.held,
        };
        if !done {
            host.desire(role, number, if role == Role::Primary { required } else { Vec::new() }, true);
        }
    }
}

impl Agent {
    /// It says nothing more, and has let go of its hosts.
    pub fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

/// A mounted filesystem, unmounted at the end.
pub struct Mounted(pub PathBuf);

impl Mounted {
    pub fn new(device: &Path, dir: PathBuf) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        run("mount", &[device.to_str().unwrap(), dir.to_str().unwrap()]);
        Self(dir)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}

/// Alpha leads and beta is a member; so are any more.
pub struct Pair {
    pub mounted: Option<Mounted>,
    pub agent: Agent,
    pub alpha: Arc<Host>,
    pub beta: Arc<Host>,
    pub more: Vec<Arc<Host>>,
    pub device: PathBuf,
    dir: tempfile::TempDir,
}

/// The names of hosts.
const NAMES: [&str; 4] = ["alpha", "beta", "gamma", "delta"];

impl Pair {
    pub fn start() -> Self {
        let mut pair = Self::bare(Default::default(), 1);
        run("mkfs.ext4", &["-q", "-F", "-b", "4096", pair.device.to_str().unwrap()]);
        pair.mounted = Some(Mounted::new(&pair.device, pair.dir.path().join("mnt")));
        pair
    }

    /// The same without a filesystem, on replicas of the test's choice (alpha's and beta's), in the epoch of this number.
    pub fn bare(replicas: [Replica; 2], number: u64) -> Self {
        Self::of(replicas.to_vec(), number)
    }

    /// The same with up to four replicas.
    pub fn of(replicas: Vec<Replica>, number: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let start = |(name, replica): (&&str, Replica)| Arc::new(Host::start(dir.path(), name, replica));
        let mut hosts: Vec<Arc<Host>> = NAMES.iter().zip(replicas).map(start).collect();
        let alpha = hosts.remove(0);
        let agent = Agent::start(&alpha, &hosts, number);
        let device = led(&alpha, hosts.len());
        let beta = hosts.remove(0);
        Self { mounted: None, agent, alpha, beta, more: hosts, device, dir }
    }

    /// All hosts but alpha.
    pub fn secondaries(&self) -> Vec<Arc<Host>> {
        std::iter::once(&self.beta).chain(&self.more).cloned().collect()
    }

    /// Where the hosts are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// All replicas hold the same, once everything is flushed. For replicas in files.
    pub fn assert_equal(&self) {
        assert_equal(&self.alpha, &self.secondaries());
    }

    /// Alpha's replica is primary and flows, after so many restarts of its worker.
    pub fn flows(&self, restarts: u64) {
        wait_for("alpha to be primary again", || {
            let status = self.alpha.status()?;
            let volume = status.volumes.first()?;
            let flows = volume.role == Role::Primary && volume.frozen.is_none() && volume.device.is_some();
            (flows && status.worker_restarts == restarts).then_some(())
        });
    }
}

/// Waits until this host leads and so many peers are in sync; its device as another container sees it: by the host's name.
pub fn led(host: &Host, peers: usize) -> PathBuf {
    let settled = || {
        let volume = host.volume().filter(|v| v.peers.iter().filter(|p| p.settled).count() == peers)?;
        std::fs::read_link(volume.device?).ok()
    };
    wait_for("all peers to be in sync", settled)
}

/// The leader's replica and all others hold the same, once everything is flushed.
pub fn assert_equal(leader: &Host, others: &[Arc<Host>]) {
    wait_for("everything to be copied", || {
        let volume = leader.volume()?;
        let done = |p: &PeerStatus| p.settled && p.dirty_bytes == 0 && p.unacked_bytes == 0;
        (volume.peers.len() == others.len() && volume.peers.iter().all(done)).then_some(())
    });
    let one = std::fs::read(leader.image()).unwrap();
    for host in others {
        let other = std::fs::read(host.image()).unwrap();
        let differs = one.iter().zip(&other).position(|(a, b)| a != b);
        assert_eq!((one.len(), differs), (other.len(), None), "{}", host.node);
    }
}

/// Unmounts at the end, at once.
pub struct Unmount(pub PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).stderr(Stdio::null()).status();
    }
}
