//! Every trap that needs no data path, by name: harmless with its rule, and a failure without it.

use super::world::{Options, World};

#[test]
fn first_start_serves_and_admits_the_standby() {
    let mut w = World::new(Options::default());
    assert!(w.until(6000, |w| w.server().is_some()), "{}", w.story());
    assert!(w.until(6000, |w| w.in_sync() == ["n0", "n1"]), "{}", w.story());
    assert!(w.until(1000, |w| w.acked.len() > 20), "writes are acknowledged\n{}", w.story());
}
