//! The handshake's table over any two identities: nothing with data of its own is overwritten unless that data is in the
//! source's past, and bits are trusted only for the data they count from.

use super::bytes::Choices;
use crate::core::handshake::{Identity, Refusal, Verdict, decide};
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
            } else if target.generation != NONE && !target.partial {
                assert!(past(&source, target.generation), "{source:?} would overwrite {target:?}");
            }
        }
        Verdict::Refuse(Refusal::SplitBrain) => {
            assert!(!past(&source, target.generation) && !past(&target, source.generation));
        }
        Verdict::Refuse(_) => {}
    }
}
