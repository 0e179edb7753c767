//! Two whole replicators: TLS by default, both told when they are not configured alike, and nothing written that came
//! over the wire damaged.

#[allow(dead_code, reason = "the example uses the rest")]
mod support;

use baton_replicator::api::HandshakeFailure;
use baton_replicator::control::Controller;
use baton_replicator::types::Transport;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use support::{Host, two};

const SIZE: u64 = 24 << 20;

async fn configure(alpha: &Host, beta: &Host, at_beta: &[SocketAddr], transports: [Transport; 2]) {
    alpha.configure(beta, at_beta, transports[0]).await;
    beta.configure(alpha, &[alpha.replicator.address()], transports[1]).await;
}

fn same(a: &Host, b: &Host) -> bool {
    std::fs::read(a.image()).unwrap() == std::fs::read(b.image()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_meet_in_tls_and_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let (alpha, beta, _pki) = two(dir.path(), SIZE);
    configure(&alpha, &beta, &[beta.replicator.address()], [Transport::Tls; 2]).await;
    alpha.lead_with(&beta).await;
    for id in 1..40 {
        assert!(alpha.write(id, id * 8192 * 50, vec![id as u8; if id % 10 == 0 { 1 << 20 } else { 8192 }]));
    }
    assert!(same(&alpha, &beta));
    for host in [&alpha, &beta] {
        let link = host.until("a link", |s| s.peers[0].link.is_some()).await.peers.remove(0).link.unwrap();
        assert_eq!((link.transport.as_str(), link.address.as_str()), ("TLS 1.3", "127.0.0.1"));
        let handshakes = host.replicator.status(None, Duration::ZERO).await.handshakes;
        assert_eq!(handshakes.completed, 2);
        assert_eq!(handshakes.failed.len(), HandshakeFailure::ALL.len());
        assert_eq!(handshakes.failed.values().sum::<u64>(), 0, "{handshakes:?}");
    }
    // To plain, on running I/O: first one, then the other.
    alpha.configure(&beta, &[beta.replicator.address()], Transport::Plain).await;
    let why = |s: &baton_replicator::api::VolumeStatus| s.peers[0].reason.clone().unwrap_or_default();
    for host in [&alpha, &beta] {
        let seen = host.until("a reason", |s| why(s).contains("transport: plain")).await;
        assert!(
            why(&seen).contains("'transport: tls' on beta and 'transport: plain' on alpha"),
            "{}",
            why(&seen)
        );
    }
    beta.configure(&alpha, &[alpha.replicator.address()], Transport::Plain).await;
    let plain = |s: &baton_replicator::api::VolumeStatus| {
        s.peers[0].link.as_ref().is_some_and(|l| l.transport == "plain") && s.peers[0].reason.is_none()
    };
    alpha.until("plain", plain).await;
    beta.until("plain", plain).await;
    assert!(alpha.write(50, 0, vec![50; 4096]));
    assert!(same(&alpha, &beta));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_arrives_damaged_is_refused_and_nothing_of_it_is_written() {
    for transport in [Transport::Plain, Transport::Tls] {
        let dir = tempfile::tempdir().unwrap();
        let (alpha, beta, _pki) = two(dir.path(), SIZE);
        let wire = Wire::start(beta.replicator.address());
        configure(&alpha, &beta, &[wire.address], [transport; 2]).await;
        alpha.lead_with(&beta).await;
        assert!(alpha.write(1, 0, vec![1; 65_536]));
        let before = std::fs::read(beta.image()).unwrap();

        // From now on the wire damages every large message, whatever connection it comes by.
        wire.damages.store(true, Ordering::SeqCst);
        alpha.direct.ask(2, write(0, 2));
        let ended = |reason: &str| reason.contains("checksum of the body") || reason.contains("decrypt");
        beta.until("a reset", |s| s.peers[0].reason.as_deref().is_some_and(ended)).await;
        assert!(alpha.direct.answer(2, Duration::from_millis(200)).is_none(), "not acknowledged");
        assert!(wire.damaged.load(Ordering::SeqCst) > 0);
        assert!(std::fs::read(beta.image()).unwrap() == before, "nothing of it was written");

        // With a sound wire the same write goes through by itself.
        wire.damages.store(false, Ordering::SeqCst);
        assert_eq!(alpha.direct.answer(2, support::LIMIT).map(|r| r.is_ok()), Some(true));
        assert!(same(&alpha, &beta));
        assert_eq!(std::fs::read(beta.image()).unwrap()[100], 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_is_left_for_the_next_without_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (alpha, beta, _pki) = two(dir.path(), SIZE);
    let cable = Wire::start(beta.replicator.address());
    configure(&alpha, &beta, &[cable.address, beta.replicator.address()], [Transport::Tls; 2]).await;
    alpha.lead_with(&beta).await;
    assert!(alpha.write(1, 0, vec![1; 4096]));
    cable.dead.store(true, Ordering::SeqCst);
    for id in 2..50 {
        assert!(alpha.write(id, id * 4096, vec![id as u8; 4096]), "write {id}");
    }
    assert!(same(&alpha, &beta));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_status_names_the_missing_file() {
    let dir = tempfile::tempdir().unwrap();
    let (alpha, beta, _pki) = two(dir.path(), SIZE);
    std::fs::remove_file(dir.path().join("pki/alpha.crt")).unwrap();
    configure(&alpha, &beta, &[beta.replicator.address()], [Transport::Tls; 2]).await;
    alpha.lead_alone().await;
    let named = |s: &baton_replicator::api::VolumeStatus| {
        s.peers[0].reason.as_deref().is_some_and(|r| r.contains("alpha.crt"))
    };
    alpha.until("the file's name", named).await;
    let handshakes = alpha.replicator.status(None, Duration::ZERO).await.handshakes;
    assert!(handshakes.failed[&HandshakeFailure::Certificate] > 0);
}

fn write(offset: u64, byte: u8) -> baton_replicator::frontend::Op {
    baton_replicator::frontend::Op::Write { offset, data: vec![byte; 65_536].into() }
}

/// A wire that can damage what it carries, or die.
struct Wire {
    address: SocketAddr,
    damages: Arc<AtomicBool>,
    damaged: Arc<AtomicUsize>,
    dead: Arc<AtomicBool>,
}

impl Wire {
    fn start(to: SocketAddr) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self {
            address: socket.local_addr().unwrap(),
            damages: Arc::default(),
            damaged: Arc::default(),
            dead: Arc::default(),
        };
        let (damages, damaged, dead) = (wire.damages.clone(), wire.damaged.clone(), wire.dead.clone());
        std::thread::spawn(move || {
            for near in socket.incoming() {
                let Ok(near) = near else { return };
                if dead.load(Ordering::SeqCst) {
                    continue; // Closed at once.
                }
                let Ok(far) = TcpStream::connect(to) else { return };
                for (from, to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                    let (damages, damaged, dead) = (damages.clone(), damaged.clone(), dead.clone());
                    std::thread::spawn(move || pump(from, to, &damages, &damaged, &dead));
                }
            }
        });
        wire
    }
}

fn pump(
    mut from: TcpStream,
    mut to: TcpStream,
    damages: &AtomicBool,
    damaged: &AtomicUsize,
    dead: &AtomicBool,
) {
    let mut buffer = vec![0; 131_072];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if dead.load(Ordering::SeqCst) {
            break;
        }
        // Only blocks are as large.
        if n > 8192 && damages.load(Ordering::SeqCst) {
            buffer[n / 2] ^= 0x10;
            damaged.fetch_add(1, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
