//! Ports: are Baton's own free or held by Baton, and do the peers' answer?

use super::report::Finding;
use crate::status::ClusterStatus;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

const FAMILY: &str = "ports";
/// A host on the same site answers in a millisecond.
const CONNECT: Duration = Duration::from_secs(1);

/// The ports of this host (DESIGN: processes and ports of a host).
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub api: u16,
    pub heartbeat: u16,
    pub replication: u16,
}

/// What runs here already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Running {
    pub agent: bool,
    pub replicator: bool,
}

pub(super) async fn own(ports: Ports, running: Running) -> Vec<Finding> {
    let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let tcp = async |port| TcpListener::bind(any(port)).await.map(drop);
    vec![
        judge_own("TCP", ports.api, "API", tcp(ports.api).await, running.agent),
        judge_own(
            "UDP",
            ports.heartbeat,
            "heartbeats",
            UdpSocket::bind(any(ports.heartbeat)).await.map(drop),
            running.agent,
        ),
        judge_own("TCP", ports.replication, "replication", tcp(ports.replication).await, running.replicator),
    ]
}

fn judge_own(kind: &str, port: u16, what: &str, bound: io::Result<()>, ours: bool) -> Finding {
    let check = format!("{kind} {port} ({what})");
    match bound {
        Ok(()) => Finding::ok(FAMILY, check, "free"),
        Err(e) if e.kind() == ErrorKind::AddrInUse && ours => {
            Finding::ok(FAMILY, check, "held by Baton, which answers")
        }
        Err(e) if e.kind() == ErrorKind::AddrInUse => Finding::failed(
            FAMILY,
            check,
            "held by something else, or by a Baton that does not answer",
            format!("See who holds it: ss -lnp | grep ':{port} '. Stop it, or give Baton another port."),
        ),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Finding::skipped(
            FAMILY,
            check,
            "a port below 1024 needs NET_BIND_SERVICE; run this as the agent runs",
        ),
        Err(e) => {
            Finding::failed(FAMILY, check, format!("cannot be bound: {e}"), "Check the host's addresses.")
        }
    }
}

/// One peer.
pub(super) async fn peer(
    name: &str,
    address: IpAddr,
    replication: &[IpAddr],
    ports: Ports,
    status: Option<&ClusterStatus>,
) -> Vec<Finding> {
    let links = replication.iter().map(|ip| SocketAddr::from((*ip, ports.replication)));
    let (api, blocks, beats) = tokio::join!(
        connect((address, ports.api).into()),
        futures::future::join_all(links.map(async |to| (to, connect(to).await))),
        datagram((address, ports.heartbeat).into())
    );
    let heard = status.and_then(|s| s.nodes.iter().find(|n| n.name.as_str() == name)).map(|n| n.alive);
    let mut all = vec![judge_peer(name, "agent", (address, ports.api).into(), api)];
    all.extend(blocks.into_iter().map(|(to, found)| judge_peer(name, "replicator", to, found)));
    all.push(judge_heartbeats(name, (address, ports.heartbeat).into(), beats, heard));
    all
}

async fn connect(to: SocketAddr) -> io::Result<()> {
    match tokio::time::timeout(CONNECT, TcpStream::connect(to)).await {
        Ok(outcome) => outcome.map(drop),
        Err(_) => Err(ErrorKind::TimedOut.into()),
    }
}

/// A datagram that no agent takes for a heartbeat (it is empty). Err if the host says that nobody listens.
async fn datagram(to: SocketAddr) -> io::Result<()> {
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    socket.send(&[]).await?;
    let mut answer = [0; 16];
    // A refusal comes at once, by ICMP; silence is what a listening agent gives.
    match tokio::time::timeout(Duration::from_millis(300), socket.recv(&mut answer)).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

fn judge_peer(name: &str, part: &str, to: SocketAddr, outcome: io::Result<()>) -> Finding {
    let check = format!("{name}'s {part}");
    match outcome {
        Ok(()) => Finding::ok(FAMILY, check, format!("TCP {to} accepts connections")),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Finding::warning(
            FAMILY,
            check,
            format!("the host answers, but nobody listens on TCP {to}"),
            format!("Start the {part} on {name}, or open the port in a firewall that rejects."),
        ),
        Err(e) => Finding::failed(
            FAMILY,
            check,
            format!("TCP {to} cannot be reached: {e}"),
            format!("Is {name} up? Open TCP {} between the hosts.", to.port()),
        ),
    }
}

fn judge_heartbeats(name: &str, to: SocketAddr, sent: io::Result<()>, heard: Option<bool>) -> Finding {
    let check = format!("{name}'s heartbeats");
    match (heard, sent) {
        (Some(true), _) => Finding::ok(FAMILY, check, "the agent here hears them"),
        (Some(false), Err(e)) if e.kind() == ErrorKind::ConnectionRefused => Finding::failed(
            FAMILY,
            check,
            format!("the agent here does not hear them, and nobody listens on UDP {to}"),
            format!("Start the agent on {name}."),
        ),
        (Some(false), _) => Finding::failed(
            FAMILY,
            check,
            "the agent here does not hear them",
            format!("Start the agent on {name}, and open UDP {} in both directions.", to.port()),
        ),
        (None, Err(e)) if e.kind() == ErrorKind::ConnectionRefused => Finding::warning(
            FAMILY,
            check,
            format!("the host answers, but nobody listens on UDP {to}"),
            format!("Start the agent on {name}."),
        ),
        (None, Err(e)) => Finding::failed(
            FAMILY,
            check,
            format!("UDP {to} cannot be reached: {e}"),
            format!("Check the route to {name}."),
        ),
        (None, Ok(())) => Finding::skipped(
            FAMILY,
            check,
            format!(
                "a datagram to UDP {to} was not refused; whether it arrives is seen once the agent runs here"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn own_ports() {
        let judge = |e: Option<ErrorKind>, ours| {
            judge_own("TCP", 7480, "API", e.map_or(Ok(()), |k| Err(k.into())), ours).verdict
        };
        assert_eq!(judge(None, false), Verdict::Ok);
        assert_eq!(judge(Some(ErrorKind::AddrInUse), true), Verdict::Ok);
        assert_eq!(judge(Some(ErrorKind::AddrInUse), false), Verdict::Failed);
        assert_eq!(judge(Some(ErrorKind::PermissionDenied), false), Verdict::Skipped);
        assert_eq!(judge(Some(ErrorKind::AddrNotAvailable), false), Verdict::Failed);
    }

    #[test]
    fn peers() {
        let to = SocketAddr::from(([10, 0, 0, 2], 7480));
        let outcome = |e: Option<ErrorKind>| e.map_or(Ok(()), |k| Err(io::Error::from(k)));
        let tcp = |e| judge_peer("beta", "agent", to, outcome(e)).verdict;
        assert_eq!(tcp(None), Verdict::Ok);
        assert_eq!(tcp(Some(ErrorKind::ConnectionRefused)), Verdict::Warning);
        assert_eq!(tcp(Some(ErrorKind::TimedOut)), Verdict::Failed);
        let beats = |e, heard| judge_heartbeats("beta", to, outcome(e), heard).verdict;
        assert_eq!(beats(Some(ErrorKind::ConnectionRefused), Some(true)), Verdict::Ok, "heard is heard");
        assert_eq!(beats(None, Some(false)), Verdict::Failed);
        assert_eq!(beats(Some(ErrorKind::ConnectionRefused), Some(false)), Verdict::Failed);
        assert_eq!(beats(Some(ErrorKind::ConnectionRefused), None), Verdict::Warning);
        assert_eq!(beats(None, None), Verdict::Skipped, "silence proves nothing");
    }

    #[tokio::test]
    async fn real_sockets() {
        let held = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = held.local_addr().unwrap().port();
        let found = own(Ports { api: port, heartbeat: 0, replication: 0 }, Running::default()).await;
        let verdicts: Vec<Verdict> = found.iter().map(|f| f.verdict).collect();
        assert_eq!(verdicts, [Verdict::Failed, Verdict::Ok, Verdict::Ok]);
        let local = IpAddr::from([127, 0, 0, 1]);
        let closed = { UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port() };
        let found =
            peer("beta", local, &[local], Ports { api: port, heartbeat: closed, replication: port }, None)
                .await;
        assert_eq!(found[0].verdict, Verdict::Ok, "{found:?}");
        assert_eq!(found[2].verdict, Verdict::Warning, "{found:?}");
    }
}
