//! The handshake's table over any two identities: nothing with data of its own is overwritten unless that data is in the
//! source's past or it was given up, and bits are trusted only for the data they count from.

use super::bytes::Choices;
use crate::core::handshake::{Identity, Refusal, Verdict, decide};
use crate::core::split_brain::{AfterSplitBrain, OnePrimary, Parted, ZeroPrimaries};
use crate::types::Generation;

/// An identity of few generations, so that they meet.
pub(super) fn identity(c: &mut Choices<'_>) -> Identity {
    let mut generation = || Generation(u64::from(c.below(8)));
    let (now, pending, base) = (generation(), generation(), generation());
    let history = (0..c.below(4)).map(|_| Generation(u64::from(c.below(8)))).collect();
    let flags = c.byte();
    Identity {
        generation: now,
        pending,
        history,
        base,
        tracking: flags & 1 != 0,
        inconsistent: flags & 2 != 0,
        partial: flags & 4 != 0,
        yields: flags & 8 != 0,
        parted: Parted { at_s: 0, epoch: 0, blocks: (flags & 16 != 0).then_some(u64::from(flags)) },
        policy: AfterSplitBrain {
            zero_primaries: if flags & 32 != 0 {
                ZeroPrimaries::DiscardLeastChanges
            } else {
                ZeroPrimaries::Disconnect
            },
            one_primary: if flags & 64 != 0 { OnePrimary::DiscardSecondary } else { OnePrimary::Disconnect },
            ..AfterSplitBrain::default()
        },
    }
}

/// Runs it.
pub fn run(data: &[u8]) {
    let mut c = Choices::new(data);
    let (source, target) = (identity(&mut c), identity(&mut c));
    const NONE: Generation = Generation(0);
    let past = |side: &Identity, g: Generation| {
        g != NONE && (side.generation == g || side.pending == g || side.history.contains(&g))
    };
    match decide(&source, &target) {
        verdict @ (Verdict::Bitmap | Verdict::Full) => {
            assert!(source.generation != NONE && !source.inconsistent, "{source:?} cannot be a source");
            if verdict == Verdict::Bitmap {
                let counts = source.base == target.generation || source.base == target.pending;
                assert!(source.tracking && counts && source.base != NONE || target.generation == source.base);
                assert!(source.tracking, "{source:?} has no bitmap");
            } else if target.generation != NONE && !target.partial && !target.yields {
                assert!(past(&source, target.generation), "{source:?} would overwrite {target:?}");
            }
        }
        Verdict::Refuse(Refusal::SplitBrain) => {
            assert!(!past(&source, target.generation) && !past(&target, source.generation));
            assert!(!target.yields, "{target:?} was given up");
        }
        Verdict::Refuse(_) => {}
    }
}
