//! The wire between the hosts: nothing readable on it, no stranger let in, certificates renewed under a running session.

use crate::bad_input::secret_file;
use crate::{MOVE_BESIDE, let_pass};
use baton_e2e::config::REPLICATION_PORT;
use baton_e2e::docker::{self, Role};
use baton_e2e::netns::{self, Netns};
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::shell;
use baton_operator::security::identity::Kind;
use baton_operator::security::pki::{Pki, Request};
use baton_replicator::tls::TlsFiles;
use baton_replicator::transport::{Credentials, Dialer, DialerConfig, Secret, TransportEvent};
use baton_replicator::types::{NodeName, Transport, VolumeName};
use rustix::net::{AddressFamily, RecvFlags, SocketType, eth, recv, socket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Rows are written for this long while somebody listens.
const LISTENED: Duration = Duration::from_secs(4);
/// A stranger is refused in two round trips; a loaded machine gets some more.
const REFUSED: Duration = Duration::from_secs(10);
/// Writes do not wait for a renewal: the pause that a loaded machine makes now and then.
const PAUSE: Duration = Duration::from_millis(500);
/// Agents scrape their replicator twice a second.
const SEEN: Duration = Duration::from_secs(5);
const MYSQL: u16 = 3306;

#[test]
fn nothing_readable_on_the_wire() {
    scenario("nothing readable on the wire", |t, leader| {
        let standby = t.config.other(leader);
        for host in [leader, &standby] {
            let link = link(t, host);
            t.expect("status says TLS 1.3", link["transport"] == "TLS 1.3", &link);
        }
        // Every row names its run, so that it is in each page and log record that is replicated.
        let marker = "wiretap";
        let tap = Tap::start(t.namespace(leader), marker);
        let mut writer = t.writer(marker, None);
        let_pass(LISTENED);
        let end = Instant::now() + REFUSED;
        while writer.journal().acks.len() <= 50 && Instant::now() < end {
            let_pass(Duration::from_millis(100));
        }
        writer.stop();
        let acknowledged = writer.journal().acks.len();
        let heard = tap.stop();
        t.expect("rows were written", acknowledged > 50, acknowledged);
        t.expect("the tap reads what is in the clear", heard.of_clients > 0, heard.of_clients);
        let at_least = acknowledged as u64 * 512;
        t.expect("blocks went by the replication port", heard.bytes > at_least, heard.bytes);
        t.expect("none of them readable", heard.of_replication == 0, heard.of_replication);
    });
}

#[test]
fn a_stranger_is_refused() {
    scenario("a stranger's certificate", |t, leader| {
        let standby = t.config.other(leader);
        let epoch = t.epoch_of(leader);
        let count = || failures(t, &standby, "certificate");
        let before = count();
        // Somebody who has the cluster's secret, and a certificate with the leader's name of his own making.
        let dir = tempfile::tempdir().expect("a directory");
        let pki = Pki::new(dir.path());
        pki.init(&t.config.cluster, 10).unwrap_or_else(|e| panic!("{e}"));
        let request = Request { kind: Kind::Node, name: leader.to_owned(), addresses: Vec::new(), days: 5 };
        pki.issue(&request).unwrap_or_else(|e| panic!("{e}"));
        // He trusts whoever answers.
        let handed_out = baton_e2e::identity::handed_out(&t.config.project);
        std::fs::copy(handed_out.join("ca.crt"), dir.path().join("ca.crt")).expect("the authority");
        let node = |name: &str| NodeName::new(name).expect("a node");
        let volume = t.status(leader).unwrap_or_else(|e| panic!("{e:#}")).volume()["volume"].clone();
        let (sender, events) = mpsc::channel();
        let sink = Arc::new(move |event| drop(sender.send(event)));
        let config = DialerConfig {
            addresses: vec![(t.config.host(&standby).address, REPLICATION_PORT).into()],
            transport: Transport::Tls,
            secret: Secret::load(&secret_file(t, leader)).unwrap_or_else(|e| panic!("{e}")),
            credentials: Credentials::new(node(leader), TlsFiles::of_node(dir.path(), leader)),
            node: node(leader),
            peer: node(&standby),
            volume: VolumeName::new(volume.as_str().unwrap_or_default()).expect("a volume"),
            peer_timeout: Duration::from_secs(3),
            log: Arc::default(),
        };
        let dialer = Dialer::start(config, sink);
        // One dial may end otherwise on a busy machine: it dials on.
        let end = Instant::now() + REFUSED;
        let mut said = String::from("nothing");
        while !said.contains("the peer refuses this node's certificate") && Instant::now() < end {
            said = match events.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(TransportEvent::DialFailed { reason, .. }) => reason,
                other => format!("{other:?}"),
            };
        }
        t.expect("refused", said.contains("the peer refuses this node's certificate"), &said);
        drop(dialer);
        let end = Instant::now() + SEEN;
        while count() <= before && Instant::now() < end {
            let_pass(Duration::from_millis(100));
        }
        t.expect("counted by reason", count() > before, format!("{before} before, {} now", count()));
        let link = link(t, &standby);
        t.expect("the session goes on", link["transport"] == "TLS 1.3", &link);
        t.stayed("no takeover", leader, epoch);
    });
}

#[test]
fn renewal_under_load() {
    scenario("renewal under load", |t, leader| {
        let standby = t.config.other(leader);
        let mut writer = t.writer("renewal", None);
        let_pass(Duration::from_secs(1));
        let begin = Instant::now();
        renew(t, &[leader, &standby]);
        let_pass(Duration::from_secs(2));
        let pause = writer.journal().gap(begin, Instant::now());
        t.at_most("longest pause of writes while certificates are replaced", pause, PAUSE);
        // The other way round everything is dialed anew, with the new ones.
        let begin = Instant::now();
        t.move_to(&standby);
        writer.wait_ack(Instant::now(), baton_e2e::cluster::WHOLE);
        t.tell(
            "longest pause of writes by a move after it",
            baton_e2e::report::ms(writer.journal().gap(begin, Instant::now())),
        );
        t.tell("a move may take", baton_e2e::report::ms(MOVE_BESIDE));
        writer.stop();
        for host in [leader, &standby] {
            let replicator =
                docker::part(&t.config, host, Role::Replicator).unwrap_or_else(|e| panic!("{e:#}"));
            let log = docker::log_tail(&replicator.name, 2000);
            let used = log.contains("new connections use the renewed certificate");
            t.expect("the renewed certificate is used", used, host);
            let link = link(t, host);
            t.expect("in TLS 1.3", link["transport"] == "TLS 1.3", &link);
        }
        t.audit(&writer.journal());
    });
}

/// How a host's replica is connected, once it is.
fn link(t: &Scenario, host: &str) -> serde_json::Value {
    t.wait_for("a link in the status", baton_e2e::cluster::WHOLE, |view| {
        let link = view.of(host)?.volume()["peers"][0]["link"].clone();
        if link.is_object() { Ok(link) } else { Err(format!("{host} shows no link")) }
    })
}

/// `baton_replication_handshake_failures_total` of a host.
fn failures(t: &Scenario, host: &str, reason: &str) -> u64 {
    let status = t.status(host).unwrap_or_else(|e| panic!("{e:#}"));
    status.0["handshakes"]["failed"][reason].as_u64().unwrap_or_default()
}

/// Has the demo's authority sign the hosts' certificates anew.
fn renew(t: &Scenario, hosts: &[&str]) {
    let pki = format!("{}-pki", t.config.project);
    let environment = [
        format!("BATON_CLUSTER={}", t.config.cluster),
        format!("BATON_SUBNET={}", t.config.vip.to_string().trim_end_matches(".100")),
    ];
    let image = shell::run(&["docker", "inspect", "--format", "{{.Image}}", &pki]);
    let image = image.unwrap_or_else(|e| panic!("{e:#}"));
    let mut command = vec!["docker", "run", "--rm", "--network", "none", "--cap-drop", "ALL"];
    command.extend(["--cap-add", "CHOWN", "--volumes-from", &pki]);
    command.extend(["-e", &environment[0], "-e", &environment[1], image.trim(), "make-pki"]);
    command.extend(hosts);
    shell::run(&command).unwrap_or_else(|e| panic!("{e:#}"));
}

/// What somebody on a host's wires hears.
#[derive(Default)]
struct Heard {
    /// Bytes of packets from and to the replication port.
    bytes: u64,
    /// Packets with the marker, from and to that port.
    of_replication: u64,
    /// And of clients of the database, which talk in the clear.
    of_clients: u64,
}

struct Tap {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Heard>,
}

impl Tap {
    /// Listens to every interface of a host.
    fn start(namespace: Netns, marker: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (sender, ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            netns::enter(Some(&namespace));
            // Without the link's header: a packet begins with that of IP.
            let all =
                socket(AddressFamily::PACKET, SocketType::DGRAM, Some(eth::ALL)).expect("a packet socket");
            let wait = Some(Duration::from_millis(100));
            rustix::net::sockopt::set_socket_timeout(&all, rustix::net::sockopt::Timeout::Recv, wait)
                .expect("a timeout");
            // What is missed is not heard, which the figures would show.
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&all, 8 << 20);
            sender.send(()).expect("somebody waits");
            let (mut heard, mut packet) = (Heard::default(), vec![0; 65_536]);
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((n, _)) = recv(&all, &mut packet[..], RecvFlags::empty()) {
                    heard.packet(&packet[..n], marker.as_bytes());
                }
            }
            heard
        });
        ready.recv().expect("the tap listens");
        Self { stop, thread }
    }

    fn stop(self) -> Heard {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the tap ends in order")
    }
}

impl Heard {
    /// Counts a packet if it is TCP over IPv4.
    fn packet(&mut self, packet: &[u8], marker: &[u8]) {
        const TCP: u8 = 6;
        let (Some(first), Some(&TCP)) = (packet.first(), packet.get(9)) else { return };
        let ports = usize::from(first & 0x0f) * 4;
        let Some(ports) = packet.get(ports..ports + 4) else { return };
        let is = |port: u16| [&ports[..2], &ports[2..]].contains(&&port.to_be_bytes()[..]);
        let marked = u64::from(packet.windows(marker.len()).any(|w| w == marker));
        if is(REPLICATION_PORT) {
            self.bytes += packet.len() as u64;
            self.of_replication += marked;
        } else if is(MYSQL) {
            self.of_clients += marked;
        }
    }
}
