//! Which datagrams of one stream have been seen: refuses replays, counts what was lost.
//!
//! The sender numbers the datagrams of each stream (one link, one destination) without gaps. A number seen before, or
//! too old to tell, is a replay or a copy that the network made; either way it is dropped.

/// Datagrams behind the newest that are still told apart: more than six seconds of beats and answers at the default
/// keepalive; a network that holds one back longer has lost it.
const WIDTH: u64 = 128;

/// The window of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    newest: u64,
    /// Bit n: number `newest - n` was seen.
    seen: u128,
}

/// What a datagram is by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbered {
    /// Not seen before.
    New {
        /// Numbers skipped: lost, or still under way.
        skipped: u64,
    },
    /// One that was counted as lost.
    Late,
    /// Seen before, or too old to tell.
    Seen,
}

impl Window {
    /// Takes the number of a datagram.
    pub fn take(&mut self, number: u64) -> Numbered {
        if self.seen == 0 {
            // The first of a stream: what went before it is not known, so it was not lost.
            *self = Self { newest: number, seen: 1 };
            return Numbered::New { skipped: 0 };
        }
        if number > self.newest {
            let ahead = number - self.newest;
            self.seen = if ahead < WIDTH { self.seen << ahead | 1 } else { 1 };
            self.newest = number;
            return Numbered::New { skipped: ahead - 1 };
        }
        let behind = self.newest - number;
        if behind >= WIDTH || self.seen >> behind & 1 == 1 {
            return Numbered::Seen;
        }
        self.seen |= 1 << behind;
        Numbered::Late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn in_order_skipped_late_and_replayed() {
        let mut w = Window::default();
        assert_eq!(w.take(7), Numbered::New { skipped: 0 });
        assert_eq!(w.take(8), Numbered::New { skipped: 0 });
        assert_eq!(w.take(11), Numbered::New { skipped: 2 });
        assert_eq!(w.take(8), Numbered::Seen);
        assert_eq!(w.take(10), Numbered::Late);
        assert_eq!(w.take(10), Numbered::Seen);
        assert_eq!(w.take(500), Numbered::New { skipped: 488 });
        assert_eq!(w.take(500 - WIDTH), Numbered::Seen, "too old to tell");
        assert_eq!(w.take(501 - WIDTH), Numbered::Late);
    }

    proptest! {
        /// Whatever the order, no number is taken twice.
        #[test]
        fn no_number_is_taken_twice(numbers in proptest::collection::vec(0u64..300, 1..400)) {
            let mut w = Window::default();
            let mut taken = BTreeSet::new();
            for n in numbers {
                if w.take(n) != Numbered::Seen {
                    prop_assert!(taken.insert(n), "{n} twice");
                }
            }
        }

        /// Without a replay every number is counted once: what was skipped is either late or lost.
        #[test]
        fn skipped_is_late_plus_lost(lost in proptest::collection::btree_set(1u64..1000, 0..200)) {
            let mut w = Window::default();
            let mut skipped = 0;
            for n in (0..=1000).filter(|n| !lost.contains(n)) {
                if let Numbered::New { skipped: more } = w.take(n) {
                    skipped += more;
                }
            }
            prop_assert_eq!(skipped, lost.len() as u64);
        }
    }
}
