//! A small world for engines: disks with volatile caches, metadata files that tear, links that cut and stall,
//! processes that die. Everything in it is decided by one seeded generator.

use crate::bugs::{Bug, LATE, WRITES_LATE};
use baton_replicator::api::{
    Backing, Desired, DiscardRequest, Membership, PeerConfig, VerifyRequest, VerifyStatus, VolumeConfig,
};
use baton_replicator::core::digest::digests;
use baton_replicator::core::engine::{
    Action, Engine, Event, Fault, FrontOp, LOG_IDLE, SessionId, Setup, StoreOp, Token, VERIFY_CHUNK,
};
use baton_replicator::core::frame::{Frame, Message, PROTOCOL};
use baton_replicator::core::meta::{ACTLOG_AT, BITMAP_AT};
use baton_replicator::core::range::Range;
use baton_replicator::core::split_brain::AfterSplitBrain;
use baton_replicator::types::{
    BootId, DiskState, Epoch, Generation, GroupName, Instant, Member, NodeName, Protocol, Role, TermId,
    Transport, VolumeName,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub const BLOCK: u64 = 4096;
/// 2026-11-21 20:00:00 UTC.
pub const WALL_S: u64 = 1_795_291_200;

/// xorshift64*: deterministic and good enough.
pub struct Random(pub u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

/// Blocks are remembered by the number in their first eight bytes.
#[derive(Clone, Default)]
pub struct Disk {
    durable: Vec<u64>,
    cache: BTreeMap<u64, u64>,
}

impl Disk {
    /// Blocks hold something that nobody wrote.
    fn junk(&mut self, blocks: std::ops::Range<u64>) {
        blocks.for_each(|block| self.harden(block, 0xbad << 40 | block));
    }
    /// A block rots, durably and unnoticed.
    pub fn rot(&mut self, block: u64) {
        let value = self.get(block) ^ 0xdead_0000_0000_0000;
        self.cache.remove(&block);
        self.harden(block, value);
    }
    pub fn get(&self, block: u64) -> u64 {
        self.cache.get(&block).copied().unwrap_or_else(|| self.durable(block))
    }
    /// What a power cut leaves for certain.
    pub fn durable(&self, block: u64) -> u64 {
        self.durable.get(block as usize).copied().unwrap_or(0)
    }
    fn harden(&mut self, block: u64, value: u64) {
        if self.durable.len() <= block as usize {
            self.durable.resize(block as usize + 1, 0);
        }
        self.durable[block as usize] = value;
    }
    fn put(&mut self, block: u64, value: u64) {
        self.cache.insert(block, value);
    }
    fn flush(&mut self) {
        for (block, value) in std::mem::take(&mut self.cache) {
            self.harden(block, value);
        }
    }
    fn power_cut(&mut self, random: &mut Random) {
        for (block, value) in std::mem::take(&mut self.cache) {
            if random.chance(500) {
                self.harden(block, value);
            }
        }
    }
    fn apply(&mut self, op: &StoreOp) -> Bytes {
        match op {
            StoreOp::Read(range) => {
                let mut data = vec![0u8; range.bytes() as usize];
                for (i, block) in range.blocks().enumerate() {
                    data[i * 4096..i * 4096 + 8].copy_from_slice(&self.get(block).to_le_bytes());
                }
                return data.into();
            }
            StoreOp::Write(offset, data) => {
                for (i, chunk) in data.chunks(4096).enumerate() {
                    let value = u64::from_le_bytes(chunk[..8].try_into().expect("eight bytes"));
                    self.put(offset / BLOCK + i as u64, value);
                }
            }
            StoreOp::Digest(range, piece) => {
                // What tells blocks apart is in their first eight bytes.
                let short: Vec<u8> = range.blocks().flat_map(|b| self.get(b).to_le_bytes()).collect();
                return digests(&short, (*piece / BLOCK * 8) as usize);
            }
            StoreOp::Discard(range) | StoreOp::Zero(range) => range.blocks().for_each(|b| self.put(b, 0)),
            StoreOp::Flush => self.flush(),
        }
        Bytes::new()
    }
}

/// A block's payload.
pub fn data(value: u64, blocks: u64) -> Bytes {
    let mut bytes = vec![0u8; (blocks * BLOCK) as usize];
    for i in 0..blocks as usize {
        bytes[i * 4096..i * 4096 + 8].copy_from_slice(&value.to_le_bytes());
    }
    bytes.into()
}

/// Tag, length of a whole new file, writes.
pub type MetaJob = (u64, Option<u64>, Vec<(u64, Bytes)>);

pub struct Node {
    pub name: NodeName,
    pub engine: Option<Engine>,
    pub disk: Disk,
    pub meta: Vec<u8>,
    pub host_boot: u64,
    pub store: Vec<(u64, StoreOp)>,
    /// Metadata transactions; with a length, a whole new file.
    pub metas: VecDeque<MetaJob>,
    pub events: VecDeque<Event>,
    pub dials: BTreeSet<usize>,
    pub replies: Vec<(u64, Result<Bytes, ()>)>,
    pub done: BTreeMap<u64, Result<(), String>>,
    pub next_tick: Instant,
    pub device: bool,
    /// Its size.
    pub device_size: u64,
    /// The size that its agent has configured.
    pub size: u64,
    /// What its backing store holds; larger ones cannot be had.
    pub store_size: u64,
    pub most: u64,
    /// What is found on the device, and how often it was made larger.
    pub filesystem: Option<String>,
    pub filled: u64,
    /// A holder keeps the device when the process dies.
    pub keeps: bool,
    /// It has kept it: what was not answered waits.
    pub left: bool,
    /// It has been taken over since this was last looked at: what waits comes again.
    pub taken_over: bool,
    /// A front end cannot be started.
    pub no_device: bool,
    /// Held back: neither disk nor network of this node moves.
    pub paused: bool,
    /// Metadata transactions do not end.
    pub meta_held: bool,
    /// What its agent says of the in-sync set.
    pub membership: Membership,
    /// Store commands do not end.
    pub store_held: bool,
    /// Store commands fail.
    pub broken: bool,
    /// Metadata transactions fail.
    pub meta_broken: bool,
    /// The store does not answer.
    pub hangs: bool,
    /// Writes find no space.
    pub no_space: bool,
    /// It is of the release before: its Hello says version 1, and it does not understand more.
    pub old: bool,
    /// It is of a release with this protocol version.
    pub speaks: u16,
    /// Its answers to questions for digests are lost.
    pub mute: bool,
    /// There is no room for a copy of its disk.
    pub no_room: bool,
    /// Copies of data that it gave up.
    pub copies: Vec<(Generation, Disk)>,
    /// The peers that its agent has configured.
    pub peers: BTreeSet<usize>,
    /// Metadata that was called durable and is not: see [`Bug::MetadataEarly`].
    promised: VecDeque<Vec<(u64, Bytes)>>,
}

impl Node {
    /// The protocol version it knows.
    fn version(&self) -> u16 {
        if self.old { 1 } else { self.speaks }
    }

    fn new(name: NodeName, peers: BTreeSet<usize>, size: u64, now: Instant) -> Self {
        Self {
            name,
            engine: None,
            disk: Disk::default(),
            meta: Vec::new(),
            host_boot: 1,
            store: Vec::new(),
            metas: VecDeque::new(),
            events: VecDeque::new(),
            dials: BTreeSet::new(),
            replies: Vec::new(),
            done: BTreeMap::new(),
            next_tick: now,
            device: false,
            device_size: 0,
            size,
            store_size: size,
            most: u64::MAX,
            filesystem: None,
            filled: 0,
            keeps: false,
            left: false,
            taken_over: false,
            no_device: false,
            paused: false,
            meta_held: false,
            membership: Membership::Member,
            store_held: false,
            broken: false,
            meta_broken: false,
            hangs: false,
            no_space: false,
            old: false,
            speaks: PROTOCOL,
            mute: false,
            no_room: false,
            copies: Vec::new(),
            peers,
            promised: VecDeque::new(),
        }
    }
}

/// A frame as the transport has it.
type Encoded = (u16, Vec<u8>, Bytes);

pub struct Link {
    pub ends: [(usize, SessionId); 2],
    pub open: [bool; 2],
    /// Frames on their way to end 0 and end 1.
    pub queues: [VecDeque<Encoded>; 2],
}

pub struct World {
    pub random: Random,
    pub now: Instant,
    pub nodes: Vec<Node>,
    pub links: Vec<Link>,
    pub cut: BTreeSet<(usize, usize)>,
    pub stalled: BTreeSet<(usize, usize)>,
    pub size: u64,
    /// How much time passes per step.
    pub pace: u64,
    /// See `Setup`; for engines started from now on.
    pub log_idle: Duration,
    pub verify_chunk: u64,
    /// Bounds of resync in configurations made from now on: most (0: none) and least bytes per second.
    pub rate: (u64, u64),
    pub log: Vec<String>,
    pub alarms: Vec<String>,
    /// Nodes that are not reached by C; for engines started or configured from now on.
    pub protocols: BTreeMap<usize, Protocol>,
    /// What resolves split brains; for engines started from now on.
    pub after_split_brain: AfterSplitBrain,
    /// Disks that are exchanged are not blank.
    pub used_disks: bool,
    /// What is wrong with all of it.
    pub bug: Option<Bug>,
    /// What was acknowledged before its time, by the primary's session and number: see [`Bug`].
    early: BTreeSet<(SessionId, u64)>,
    /// Questions that are held back, and behind how many writes still: [`Bug::AskedLate`].
    late: Vec<(usize, SessionId, Encoded, u32)>,
    last_session: u64,
    pub last_token: u64,
}

pub fn name(i: usize) -> NodeName {
    let known = ["alpha", "beta", "gamma"].get(i).map_or_else(|| format!("host{i}"), ToString::to_string);
    NodeName::new(known).expect("a name")
}

pub fn epoch(number: u64) -> Epoch {
    Epoch { number, term: TermId(number * 77) }
}

impl World {
    pub fn new(nodes: usize, size: u64, seed: u64) -> Self {
        Self::with_idle(nodes, size, seed, LOG_IDLE)
    }

    pub fn with_idle(nodes: usize, size: u64, seed: u64, log_idle: Duration) -> Self {
        Self::with(nodes, size, seed, log_idle, VERIFY_CHUNK)
    }

    pub fn with(nodes: usize, size: u64, seed: u64, log_idle: Duration, verify_chunk: u64) -> Self {
        let mut world = Self {
            random: Random::new(seed),
            now: Instant(1_000_000_000),
            nodes: Vec::new(),
            links: Vec::new(),
            cut: BTreeSet::new(),
            stalled: BTreeSet::new(),
            size,
            pace: 1,
            log_idle,
            verify_chunk,
            rate: (0, 1 << 40),
            log: Vec::new(),
            alarms: Vec::new(),
            protocols: BTreeMap::new(),
            after_split_brain: AfterSplitBrain::default(),
            used_disks: false,
            bug: None,
            early: BTreeSet::new(),
            late: Vec::new(),
            last_session: 0,
            last_token: 0,
        };
        for i in 0..nodes {
            let peers = (0..nodes).filter(|p| *p != i).collect();
            world.nodes.push(Node::new(name(i), peers, size, world.now));
        }
        for i in 0..nodes {
            world.create(i);
            world.start(i);
        }
        world
    }

    fn create(&mut self, i: usize) {
        let (len, writes) = self.setup(i).create().expect("creates");
        let mut file = vec![0; len as usize];
        write_all(&mut file, &writes);
        self.nodes[i].meta = file;
    }

    /// A person removes what a node that is down has of the volume.
    pub fn wipe(&mut self, i: usize) {
        assert!(!self.is_up(i), "its process uses it");
        self.nodes[i].disk = Disk::default();
        self.nodes[i].store_size = self.nodes[i].size;
        if self.used_disks {
            let blocks = self.nodes[i].size / BLOCK;
            self.nodes[i].disk.junk(0..blocks);
        }
        self.create(i);
    }

    /// A machine that was never part of anything, with an empty disk. It does not run yet.
    pub fn join(&mut self, peers: BTreeSet<usize>) -> usize {
        let i = self.nodes.len();
        self.nodes.push(Node::new(name(i), peers, self.size, self.now));
        self.create(i);
        i
    }

    /// Its agent configures other peers. Says whether the agent would look again.
    pub fn reconfigure(&mut self, i: usize, peers: BTreeSet<usize>) -> Result<bool, String> {
        let config = self.config(&peers, self.nodes[i].size);
        let now = self.now;
        let actions = self.nodes[i].engine.as_mut().expect("it runs").reconfigure(config, now)?;
        self.nodes[i].peers = peers;
        let told = actions.contains(&Action::StatusChanged);
        self.carry_out(i, actions);
        Ok(told)
    }

    /// Its agent configures a larger volume; it need not run.
    pub fn grow(&mut self, i: usize, size: u64) -> Result<(), String> {
        let before = std::mem::replace(&mut self.nodes[i].size, size);
        if !self.is_up(i) {
            return Ok(());
        }
        let peers = self.nodes[i].peers.clone();
        self.reconfigure(i, peers).map(|_| ()).inspect_err(|_| self.nodes[i].size = before)
    }

    /// What a growth waits for, as this node sees it; none: there is none.
    pub fn growth(&self, i: usize) -> Option<String> {
        self.engine(i).status().growth.map(|g| g.waits)
    }

    fn config(&self, peers: &BTreeSet<usize>, size_bytes: u64) -> VolumeConfig {
        let address = "127.0.0.1:1".parse().expect("an address");
        VolumeConfig {
            volume: VolumeName::new("vol").expect("a name"),
            group: GroupName::new("web").expect("a name"),
            size_bytes,
            backing: Backing::File("/x".into()),
            metadata: "/x".into(),
            peers: peers
                .iter()
                .map(|p| PeerConfig { node: name(*p), address, alternatives: Vec::new() })
                .collect(),
            protocol: Protocol::C,
            protocols: self.protocols.iter().map(|(i, p)| (name(*i), *p)).collect(),
            after_split_brain: self.after_split_brain,
            transport: Transport::Tls,
            peer_timeout_ms: 500,
            resync_rate: self.rate.0,
            resync_min_rate: self.rate.1,
            target_latency_us: 0,
            disk_timeout_ms: 30_000,
            front_end: Default::default(),
        }
    }

    fn setup(&mut self, i: usize) -> Setup {
        Setup {
            node: name(i),
            config: self.config(&self.nodes[i].peers, self.nodes[i].size),
            host_boot: format!("boot-{}", self.nodes[i].host_boot),
            seed: self.random.next(),
            log_idle: self.log_idle,
            verify_chunk: self.verify_chunk,
            held: self.nodes.get(i).is_some_and(|n| n.left),
        }
    }

    pub fn start(&mut self, i: usize) {
        let setup = self.setup(i);
        let setup = if self.nodes[i].engine.is_none() { setup } else { panic!("it runs") };
        let (engine, actions) = setup.attach(&self.nodes[i].meta.clone(), self.now).expect("attaches");
        self.nodes[i].engine = Some(engine);
        self.nodes[i].next_tick = self.now;
        self.carry_out(i, actions);
    }

    /// The process dies; with `power`, the host's caches too.
    pub fn crash(&mut self, i: usize, power: bool) {
        let random = &mut self.random;
        let node = &mut self.nodes[i];
        node.engine = None;
        for (_, op) in std::mem::take(&mut node.store) {
            let write = !matches!(op, StoreOp::Flush);
            if write && random.chance(500) {
                node.disk.apply(&op);
            }
        }
        // What was handed in may be written in part, also torn at sectors when the power fails.
        for (_, whole, writes) in std::mem::take(&mut node.metas) {
            if let Some(len) = whole {
                // It has its name, or not; what was to follow was meant for it.
                if random.chance(500) {
                    node.meta = vec![0; len as usize];
                    write_all(&mut node.meta, &writes);
                    continue;
                }
                break;
            }
            for (offset, bytes) in writes {
                for (i, sector) in bytes.chunks(512).enumerate() {
                    let keep = if power { random.chance(500) } else { i > 0 || random.chance(500) };
                    if !keep && !power {
                        break;
                    }
                    if keep {
                        let at = offset as usize + i * 512;
                        node.meta[at..at + sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
        if power {
            node.disk.power_cut(random);
            node.host_boot += 1;
        }
        node.events.clear();
        node.dials.clear();
        node.replies.clear();
        node.done.clear();
        node.left = node.keeps && !power && (node.device || node.left);
        node.device = false;
        node.taken_over = false;
        node.paused = false;
        node.promised.clear();
        self.drop_links(|ends| ends[0] == i || ends[1] == i);
        self.log.push(format!("{:?} {} {}", self.now, name(i), if power { "lost power" } else { "crashed" }));
    }

    fn drop_links(&mut self, which: impl Fn([usize; 2]) -> bool) {
        for l in 0..self.links.len() {
            if which([self.links[l].ends[0].0, self.links[l].ends[1].0]) {
                for end in 0..2 {
                    self.close_end(l, end, "connection lost");
                }
            }
        }
        self.links.retain(|l| l.open != [false; 2]);
    }

    fn close_end(&mut self, link: usize, end: usize, reason: &str) {
        let link = &mut self.links[link];
        if link.open[end] {
            link.open[end] = false;
            link.queues[end].clear();
            let (node, session) = link.ends[end];
            if self.nodes[node].engine.is_some() {
                let event = Event::SessionClosed { session, reason: reason.to_owned() };
                self.nodes[node].events.push_back(event);
            }
        }
    }

    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
        self.drop_links(|ends| (ends[0].min(ends[1]), ends[0].max(ends[1])) == (a.min(b), a.max(b)));
    }

    pub fn mend(&mut self, a: usize, b: usize) {
        self.cut.remove(&(a.min(b), a.max(b)));
        self.stalled.remove(&(a.min(b), a.max(b)));
    }

    pub fn give(&mut self, i: usize, event: Event) {
        let now = self.now;
        let Some(engine) = self.nodes[i].engine.as_mut() else { return };
        // The world began at this time of the wall clock.
        engine.wall_clock(WALL_S + now.0 / 1_000_000_000);
        let actions = engine.handle(event, now);
        self.carry_out(i, actions);
    }

    fn carry_out(&mut self, i: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Store { tag, op } => self.nodes[i].store.push((tag, op)),
                Action::Meta { tag, writes } => self.nodes[i].metas.push_back((tag, None, writes)),
                Action::MetaReplace { tag, len, writes } => {
                    self.nodes[i].metas.push_back((tag, Some(len), writes));
                }
                Action::Grow { size, .. } => {
                    let node = &mut self.nodes[i];
                    let room = size <= node.most;
                    if room && size > node.store_size {
                        // As on a logical volume: who had the blocks before has left something.
                        node.disk.junk(node.store_size / BLOCK..size / BLOCK);
                        node.store_size = size;
                    }
                    let result = if room { Ok(()) } else { Err(format!("there are {} bytes", node.most)) };
                    node.events.push_back(Event::Grown(result));
                }
                Action::Resize(size) => {
                    assert!(size >= self.nodes[i].device_size, "a device never shrinks");
                    self.nodes[i].device_size = size;
                    self.nodes[i].events.push_back(Event::Resized(Ok(())));
                }
                Action::GrowFilesystem(_) => {
                    self.nodes[i].filled += 1;
                    self.nodes[i].events.push_back(Event::FilesystemGrown(Ok(())));
                }
                Action::Send { session, frame } => {
                    if self.acknowledges_early(i, session, &frame) {
                        continue;
                    }
                    if self.nodes[i].mute && matches!(frame.message, Message::Digests { .. }) {
                        continue;
                    }
                    let mut frame = frame;
                    if let Message::Hello(greeting) = &mut frame.message {
                        greeting.protocol = greeting.protocol.min(self.nodes[i].version());
                    }
                    if self.bug == Some(Bug::AskedLate) && matches!(frame.message, Message::Digest { .. }) {
                        self.late.push((i, session, frame.encode(), WRITES_LATE));
                        continue;
                    }
                    self.on_its_way(i, session, frame.encode());
                    if matches!(frame.message, Message::Write { .. } | Message::Zero { .. }) {
                        self.asks_late(i, session);
                    }
                }
                Action::Close { session, .. } => {
                    for l in 0..self.links.len() {
                        for end in 0..2 {
                            if self.links[l].ends[end] == (i, session) {
                                self.links[l].open[end] = false;
                            }
                        }
                    }
                }
                Action::Dial { peer, wanted } => {
                    let peer = self.nodes.iter().position(|n| n.name == peer).expect("a node");
                    if wanted {
                        self.nodes[i].dials.insert(peer);
                    } else {
                        self.nodes[i].dials.remove(&peer);
                    }
                }
                Action::Reply { id, result } => self.nodes[i].replies.push((id, result)),
                Action::StartFrontEnd => {
                    let result = if self.nodes[i].no_device {
                        Err("no loop device".to_owned())
                    } else {
                        Ok("/dev/loop7".into())
                    };
                    let size = self.engine(i).exportable();
                    let left = self.nodes[i].left && self.nodes[i].device_size > size;
                    assert!(!left, "{} has forgotten how large its device is", name(i));
                    self.nodes[i].device_size = size;
                    self.nodes[i].device = result.is_ok();
                    self.nodes[i].taken_over = std::mem::take(&mut self.nodes[i].left) && result.is_ok();
                    self.nodes[i].events.push_back(Event::FrontEndStarted(result));
                }
                Action::StopFrontEnd { .. } => {
                    self.nodes[i].device = false;
                    self.nodes[i].left = false;
                    self.nodes[i].events.push_back(Event::FrontEndStopped(Ok(())));
                }
                Action::Probe(_) => {
                    let found = self.nodes[i].filesystem.clone();
                    self.nodes[i].events.push_back(Event::Probed(found));
                }
                Action::Done { token, result } => {
                    self.nodes[i].done.insert(token.0, result.map_err(|p| p.to_string()));
                }
                Action::Keep(generation) => {
                    let result = match self.nodes[i].no_room {
                        true => Err("no room".to_owned()),
                        false => Ok(format!("copy-{generation}")),
                    };
                    if result.is_ok() {
                        let copy = self.nodes[i].disk.clone();
                        self.nodes[i].copies.push((generation, copy));
                    }
                    self.nodes[i].events.push_back(Event::Kept(result));
                }
                Action::StatusChanged => {}
                Action::Note(_) => {}
                Action::Alarm(text) => self.alarms.push(format!("{}: {text}", name(i))),
            }
        }
    }

    /// Answers for the peer what a bug takes for done; says whether this is the peer's own answer, which comes too late.
    fn acknowledges_early(&mut self, i: usize, session: SessionId, frame: &Frame) -> bool {
        let (write, copy) = (self.bug == Some(Bug::AcknowledgedEarly), self.bug == Some(Bug::CleanedEarly));
        let received = self.bug == Some(Bug::AcknowledgedOnReceipt);
        match &frame.message {
            Message::Write { seq, .. } | Message::Zero { seq, .. } if write => {
                self.answer(i, session, frame, *seq)
            }
            Message::Copy { seq, .. } | Message::CopyZero { seq, .. } if copy => {
                self.answer(i, session, frame, *seq)
            }
            Message::Ack(seq) if write || copy || received => {
                let mut primary = self.links.iter().filter_map(|link| {
                    (0..2).find(|end| link.ends[*end] == (i, session)).map(|end| link.ends[1 - end].1)
                });
                return primary.next().is_some_and(|primary| self.early.remove(&(primary, *seq)));
            }
            _ => {}
        }
        false
    }

    fn on_its_way(&mut self, i: usize, session: SessionId, frame: Encoded) {
        for link in &mut self.links {
            for end in 0..2 {
                if link.ends[end] == (i, session) && link.open[end] && link.open[1 - end] {
                    link.queues[1 - end].push_back(frame.clone());
                }
            }
        }
    }

    /// A write has gone out: the questions that were held back for it follow.
    fn asks_late(&mut self, i: usize, session: SessionId) {
        for late in self.late.iter_mut().filter(|l| (l.0, l.1) == (i, session)) {
            late.3 -= 1;
        }
        self.ask_late(|left| left == 0);
    }

    fn ask_late(&mut self, due: impl Fn(u32) -> bool) {
        let (now, later) = std::mem::take(&mut self.late).into_iter().partition(|l| due(l.3));
        self.late = later;
        let now: Vec<(usize, SessionId, Encoded, u32)> = now;
        now.into_iter().for_each(|(i, session, frame, _)| self.on_its_way(i, session, frame));
    }

    /// Answers in the peer's name as soon as its process has a write in memory; its own answer is swallowed later.
    fn acknowledges_on_receipt(&mut self, link: usize, end: usize, frame: &Frame) {
        let (Message::Write { seq, .. } | Message::Zero { seq, .. }) = &frame.message else { return };
        if self.bug == Some(Bug::AcknowledgedOnReceipt) {
            let primary = self.links[link].ends[1 - end].1;
            self.early.insert((primary, *seq));
            let answer = Frame { epoch: frame.epoch, message: Message::Ack(*seq) };
            self.links[link].queues[1 - end].push_back(answer.encode());
        }
    }

    fn answer(&mut self, i: usize, session: SessionId, frame: &Frame, seq: u64) {
        self.early.insert((session, seq));
        let frame = Frame { epoch: frame.epoch, message: Message::Ack(seq) };
        self.nodes[i].events.push_back(Event::Frame { session, frame });
    }

    /// A required peer does not answer: the bug drops it.
    fn drops_peers(&mut self, i: usize) {
        let status = self.engine(i).status();
        let silent = |m: &Member| status.peers.iter().any(|p| p.node == m.node && !p.resynced);
        if self.bug == Some(Bug::PeerDropped)
            && status.role == Role::Primary
            && status.required.iter().any(silent)
        {
            let rest = status.required.iter().filter(|m| !silent(m)).cloned().collect();
            self.desire(i, Role::Primary, status.epoch.number, rest, false);
        }
    }

    pub fn engine(&self, i: usize) -> &Engine {
        self.nodes[i].engine.as_ref().expect("it runs")
    }

    pub fn is_up(&self, i: usize) -> bool {
        self.nodes[i].engine.is_some()
    }

    pub fn boot(&self, i: usize) -> BootId {
        self.engine(i).boot()
    }

    pub fn member(&self, i: usize) -> Member {
        Member { node: name(i), boot: self.boot(i) }
    }

    /// Sends a command; the token is in `done` when it is answered.
    pub fn desire(&mut self, i: usize, role: Role, number: u64, required: Vec<Member>, force: bool) -> u64 {
        self.last_token += 1;
        let token = self.last_token;
        let (epoch, accept_data_loss, order) = (epoch(number), false, self.now.0);
        let membership = self.nodes[i].membership;
        let desired = Desired { epoch, role, required, accept_data_loss, force, order, membership };
        self.give(i, Event::Desired { token: Token(token), desired });
        token
    }

    pub fn request(&mut self, i: usize, id: u64, op: FrontOp) {
        self.give(i, Event::Request { id, op });
    }

    /// One small thing happens somewhere. False if nothing could.
    pub fn step(&mut self) -> bool {
        self.now = self.now.plus(Duration::from_micros((20 + self.random.below(200)) * self.pace));
        let due = (0..self.nodes.len()).find(|i| self.is_up(*i) && self.nodes[*i].next_tick <= self.now);
        if let Some(i) = due {
            self.nodes[i].next_tick = self.now.plus(Duration::from_millis(50));
            self.ask_late(|_| true);
            self.give(i, Event::Tick);
            self.drops_peers(i);
            return true;
        }
        // As many tries as sixteen nodes need, and more if there are more.
        let tries = self.nodes.len().max(16) * 4;
        let start = self.random.below(tries as u64) as usize;
        for k in 0..tries {
            if self.try_one(start + k) {
                return true;
            }
        }
        false
    }

    fn try_one(&mut self, choice: usize) -> bool {
        let i = choice / 4 % self.nodes.len();
        if !self.is_up(i) || self.nodes[i].paused {
            return false;
        }
        match choice % 4 {
            0 => match self.nodes[i].events.pop_front() {
                Some(event) => {
                    self.give(i, event);
                    true
                }
                None => self.open_session(i),
            },
            1 if self.nodes[i].store_held => false,
            1 => self.finish_store(i),
            2 if self.nodes[i].meta_held => false,
            2 => self.finish_meta(i),
            _ => self.deliver(i),
        }
    }

    /// The oldest metadata transaction becomes durable.
    pub fn finish_meta(&mut self, i: usize) -> bool {
        let Some((tag, whole, writes)) = self.nodes[i].metas.pop_front() else { return false };
        let node = &mut self.nodes[i];
        if node.meta_broken {
            let result = Err("cannot write: I/O error".to_owned());
            self.give(i, Event::MetaDone { tag, result });
            return true;
        }
        if let Some(len) = whole {
            node.meta = vec![0; len as usize];
            write_all(&mut node.meta, &writes);
            self.give(i, Event::MetaDone { tag, result: Ok(()) });
            return true;
        }
        let writes = match self.bug {
            Some(Bug::MetadataEarly) => {
                node.promised.push_back(writes);
                let oldest = if node.promised.len() > LATE { node.promised.pop_front() } else { None };
                oldest.unwrap_or_default()
            }
            Some(Bug::LogForgotten) => {
                writes.into_iter().filter(|(at, _)| !(ACTLOG_AT..BITMAP_AT).contains(at)).collect()
            }
            _ => writes,
        };
        write_all(&mut node.meta, &writes);
        self.give(i, Event::MetaDone { tag, result: Ok(()) });
        true
    }

    fn finish_store(&mut self, i: usize) -> bool {
        if self.nodes[i].store.is_empty() || self.nodes[i].hangs {
            return false;
        }
        let at = self.random.below(self.nodes[i].store.len() as u64) as usize;
        let (tag, op) = self.nodes[i].store.remove(at);
        let node = &mut self.nodes[i];
        let result = if node.broken {
            Err(Fault::Failed("cannot write: I/O error".to_owned()))
        } else if node.no_space && matches!(op, StoreOp::Write(..) | StoreOp::Zero(_)) {
            Err(Fault::Full("cannot write: no space left on device".to_owned()))
        } else if op == StoreOp::Flush && self.bug == Some(Bug::FlushForgotten) {
            Ok(Bytes::new())
        } else {
            Ok(node.disk.apply(&op))
        };
        self.give(i, Event::StoreDone { tag, result });
        true
    }

    fn open_session(&mut self, i: usize) -> bool {
        let wanted: Vec<usize> = self.nodes[i].dials.iter().copied().collect();
        for peer in wanted {
            let pair = (i.min(peer), i.max(peer));
            let has = self.links.iter().any(|l| {
                (0..2).any(|end| l.ends[end].0 == i && l.ends[1 - end].0 == peer && l.open[end] && end == 0)
            });
            // The transport lets nobody in whom the volume's configuration does not name.
            let stranger = !self.nodes[peer].peers.contains(&i);
            if has
                || stranger
                || self.cut.contains(&pair)
                || self.stalled.contains(&pair)
                || !self.is_up(peer)
            {
                continue;
            }
            let ends = [i, peer].map(|n| {
                self.last_session += 1;
                (n, SessionId(self.last_session))
            });
            self.links.push(Link { ends, open: [true; 2], queues: [VecDeque::new(), VecDeque::new()] });
            for (node, session) in ends {
                let other = if node == i { peer } else { i };
                self.nodes[node].events.push_back(Event::SessionOpened { session, peer: name(other) });
            }
            return true;
        }
        false
    }

    fn deliver(&mut self, i: usize) -> bool {
        for l in 0..self.links.len() {
            for end in 0..2 {
                let link = &mut self.links[l];
                let (node, session) = link.ends[end];
                if node != i || !link.open[end] {
                    continue;
                }
                let pair = (link.ends[0].0.min(link.ends[1].0), link.ends[0].0.max(link.ends[1].0));
                if self.stalled.contains(&pair) {
                    continue;
                }
                // Its session must be known to the engine before its frames are.
                let opening =
                    |e: &Event| matches!(e, Event::SessionOpened { session: s, .. } if *s == session);
                if self.nodes[i].events.iter().any(opening) {
                    continue;
                }
                if let Some((kind, head, body)) = link.queues[end].pop_front() {
                    let version = self.nodes[i].version();
                    let too_new =
                        kind > last_kind(version) || matches!(kind, 1 | 2) && u16::from(head[16]) > version;
                    let frame = Frame::decode(kind, &head, body).expect("our own frames decode");
                    self.acknowledges_on_receipt(l, end, &frame);
                    self.give(
                        i,
                        match too_new {
                            true => Event::Nonsense { session, reason: "version".into() },
                            false => Event::Frame { session, frame },
                        },
                    );
                    return true;
                }
                if !link.open[1 - end] {
                    self.close_end(l, end, "closed by the peer");
                    self.links.retain(|l| l.open != [false; 2]);
                    return true;
                }
            }
        }
        false
    }

    /// Steps until `done`, or panics with `what` after `limit` of the world's time.
    pub fn until(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now.plus(limit);
        while !done(self) {
            assert!(self.now < end, "{what} did not happen; {}", self.describe());
            self.step();
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now.plus(time);
        while self.now < end {
            self.step();
        }
    }

    pub fn describe(&self) -> String {
        let nodes: Vec<String> = self
            .nodes
            .iter()
            .map(|n| match &n.engine {
                None => format!("{}: down", n.name),
                Some(engine) => {
                    let s = engine.status();
                    let peers: Vec<String> = s
                        .peers
                        .iter()
                        .map(|p| {
                            format!(
                                "{}={:?}({:?}, {:?}, dirty {})",
                                p.node, p.connection, p.reason, p.boot, p.dirty_bytes
                            )
                        })
                        .collect();
                    format!(
                        "{}: {:?} {:?} {:?} epoch {} gen {} boot {} frozen {:?} required {:?} [{}]",
                        n.name,
                        s.role,
                        s.disk,
                        (s.size_bytes, n.size, n.device_size, s.growth.map(|g| g.waits)),
                        s.epoch,
                        s.generation,
                        s.boot,
                        s.frozen,
                        s.required,
                        peers.join(", ")
                    )
                }
            })
            .collect();
        let tail = self.log.len().saturating_sub(40);
        format!(
            "now {:?}\n{}\n{}\nalarms {:?}",
            self.now,
            nodes.join("\n"),
            self.log[tail..].join("\n"),
            self.alarms
        )
    }

    /// How many sessions there have ever been, both ends counted.
    pub fn sessions(&self) -> u64 {
        self.last_session
    }

    pub fn is_attached(&self, i: usize) -> bool {
        self.is_up(i) && self.engine(i).status().disk != DiskState::Attaching
    }

    pub fn reply(&mut self, i: usize, id: u64) -> Option<Result<Bytes, ()>> {
        let at = self.nodes[i].replies.iter().position(|(r, _)| *r == id)?;
        Some(self.nodes[i].replies.remove(at).1)
    }

    /// `alpha` promoted for the first time at epoch 1, allowed to serve for ever.
    pub fn promote_first(&mut self, i: usize) {
        self.until("attach", Duration::from_secs(5), |w| w.is_attached(i));
        let token = self.desire(i, Role::Primary, 1, Vec::new(), false);
        self.serve(i, 1, Duration::from_secs(1_000_000));
        self.until("promotion", Duration::from_secs(5), |w| w.nodes[i].done.contains_key(&token));
        assert_eq!(self.nodes[i].done[&token], Ok(()));
    }

    pub fn serve(&mut self, i: usize, number: u64, span: Duration) {
        let until = self.now.plus(span);
        self.give(i, Event::ServeUntil { epoch: epoch(number), until });
    }

    pub fn peer(&self, i: usize, peer: usize) -> baton_replicator::api::PeerStatus {
        let status = self.engine(i).status();
        status.peers.into_iter().find(|p| p.node == name(peer)).expect("a peer")
    }

    /// Writes a block and says whether it was acknowledged within 300 ms.
    pub fn write(&mut self, i: usize, block: u64, value: u64) -> bool {
        let id = 1_000_000 + value;
        self.request(i, id, FrontOp::Write(block * BLOCK, data(value, 1)));
        let end = self.now.plus(Duration::from_millis(300));
        while self.now < end {
            if let Some(result) = self.reply(i, id) {
                return result.is_ok();
            }
            self.step();
        }
        false
    }

    /// Flushes and says whether it was acknowledged within 300 ms.
    pub fn flush(&mut self, i: usize) -> bool {
        let id = 2_000_000 + self.now.0;
        self.request(i, id, FrontOp::Flush);
        let end = self.now.plus(Duration::from_millis(300));
        while self.now < end {
            if let Some(result) = self.reply(i, id) {
                return result.is_ok();
            }
            self.step();
        }
        false
    }

    /// Resynced, required, settled: what an agent does before it writes the admission to etcd.
    pub fn admit(&mut self, i: usize, peer: usize, number: u64) {
        self.until("resync", Duration::from_secs(60), |w| w.peer(i, peer).resynced);
        let mut required = self.engine(i).status().required;
        required.retain(|m| m.node != name(peer));
        required.push(self.member(peer));
        self.desire(i, Role::Primary, number, required, false);
        self.until("settling", Duration::from_secs(5), |w| w.peer(i, peer).settled);
    }

    /// A person gives the data of `i` up; the token is in `done` when it is answered.
    pub fn discard(&mut self, i: usize, snapshot: bool) -> u64 {
        self.last_token += 1;
        let token = self.last_token;
        self.give(i, Event::Discard { token: Token(token), request: DiscardRequest { snapshot } });
        token
    }

    /// Begins a verify; its answer.
    pub fn verify(&mut self, i: usize, id: u64, repair: bool) -> Result<(), String> {
        self.last_token += 1;
        let token = self.last_token;
        self.give(i, Event::Verify { token: Token(token), request: VerifyRequest { id, repair } });
        self.nodes[i].done[&token].clone()
    }

    /// Pauses resyncs, or lets them go on.
    pub fn pause_resync(&mut self, i: usize, paused: bool) {
        self.last_token += 1;
        let token = self.last_token;
        self.give(i, Event::PauseResync { token: Token(token), paused });
        assert_eq!(self.nodes[i].done[&token], Ok(()));
    }

    /// The running or the last verify.
    pub fn verified(&self, i: usize) -> VerifyStatus {
        self.engine(i).status().verify.expect("one was begun")
    }

    pub fn range(&self, first: u64, blocks: u64) -> Range {
        Range::new(first * BLOCK, blocks * BLOCK).expect("a range")
    }
}

/// The last kind of frame that a version knows.
fn last_kind(version: u16) -> u16 {
    match version {
        1 => 22,
        2 => 24,
        3 => 26,
        _ => u16::MAX,
    }
}

fn write_all(file: &mut [u8], writes: &[(u64, Bytes)]) {
    for (offset, bytes) in writes {
        file[*offset as usize..*offset as usize + bytes.len()].copy_from_slice(bytes);
    }
}
