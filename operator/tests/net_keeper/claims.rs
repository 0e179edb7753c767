//! Another machine with the same address: heard, told, and announced against.

use crate::SOON;
use crate::fixture::{Capture, Heard, Heartbeat, Net, VIP4, VIP6, group, ip, mac_of, run, vips, wait_for};
use crate::undisturbed::undisturbed_as_root;
use baton_operator::net::{KeeperEvent, announce, frames};
use futures::executor::block_on;
use socket2::{Domain, Socket, Type};
use std::net::IpAddr;
use std::time::Duration;

/// Five seconds without a claim, and a second until the next question.
const OVER: Duration = Duration::from_secs(8);

fn claimed(by: frames::Mac, of: IpAddr) -> impl Fn(&KeeperEvent) -> bool {
    move |e| matches!(e, KeeperEvent::Conflict { address, mac, .. } if *address == of && *mac == by)
}

#[test]
fn one_that_has_it_already_is_noticed_when_it_is_taken() {
    undisturbed_as_root(|| {
        let net = Net::with_neighbour("cfirst");
        run(&format!(
            "set -e; ip -n {0} addr add {VIP4}/24 dev vb; ip -n {0} addr add {VIP6}/64 dev vb nodad",
            net.there
        ));
        let capture = Capture::start(&net);
        let (keeper, events) = net.keeper();
        let _heartbeat = Heartbeat::start(&keeper);
        block_on(keeper.hold(group(), vips())).expect("taken all the same");
        let other = mac_of(&net.there, "vb");
        for address in [VIP4, VIP6].map(ip) {
            wait_for(SOON, "noticed", || events.count(claimed(other, address)) == 1);
        }
        wait_for(SOON, "shown", || keeper.addresses().iter().all(|a| a.up && a.conflict == Some(other)));
        wait_for(Duration::from_secs(3), "the whole burst", || capture.heard().requests >= 5);
        let Heard { requests, advertisements, .. } = capture.heard();
        wait_for(Duration::from_secs(3), "announced on", || {
            let now = capture.heard();
            now.requests > requests + 1 && now.advertisements > advertisements + 1
        });
        run(&format!("ip -n {0} addr del {VIP4}/24 dev vb; ip -n {0} addr del {VIP6}/64 dev vb", net.there));
        wait_for(OVER, "over", || events.count(|e| matches!(e, KeeperEvent::ConflictOver { .. })) == 2);
        wait_for(SOON, "shown", || keeper.addresses().iter().all(|a| a.up && a.conflict.is_none()));
        assert_eq!(events.count(|e| matches!(e, KeeperEvent::Conflict { .. })), 2, "each told once");
    });
}

#[test]
fn one_that_announces_it_later_is_answered_with_an_announcement() {
    undisturbed_as_root(|| {
        let net = Net::with_neighbour("clater");
        let capture = Capture::start(&net);
        let (keeper, events) = net.keeper();
        let _heartbeat = Heartbeat::start(&keeper);
        block_on(keeper.hold(group(), vips())).expect("hold");
        let burst = Heard { requests: 5, replies: 5, advertisements: 5 };
        wait_for(Duration::from_secs(3), "the whole burst", || capture.heard() == burst);
        assert_eq!(
            events.count(|e| matches!(e, KeeperEvent::Conflict { .. })),
            0,
            "our own frames are no claims"
        );

        let index = run(&format!("ip netns exec {} cat /sys/class/net/vb/ifindex", net.there));
        let index = index.trim().parse().expect("index");
        let stranger = [2, 0, 0, 0, 0, 9];
        Net::inside(&net.there, move || {
            let socket = Socket::new(Domain::PACKET, Type::RAW, None).expect("packet socket");
            for frame in [VIP4, VIP6].iter().flat_map(|a| frames::announcement(stranger, ip(a))) {
                socket.send_to(&frame, &announce::link_address(index)).expect("sent");
            }
        });
        for address in [VIP4, VIP6].map(ip) {
            wait_for(SOON, "noticed", || events.count(claimed(stranger, address)) == 1);
        }
        wait_for(SOON, "announced again", || {
            let now = capture.heard();
            now.requests > burst.requests && now.advertisements > burst.advertisements
        });
        wait_for(OVER, "over", || events.count(|e| matches!(e, KeeperEvent::ConflictOver { .. })) == 2);
    });
}
