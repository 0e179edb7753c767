//! What two replicas that meet should do, as a table over what they *sent* each other.
//!
//! Only a primary initiates, so one side is always the source. Both sides evaluate the same call on the same
//! two [`Identity`] values, and the target compares its own verdict with the one it is told: they cannot
//! decide differently.

use super::split_brain::{AfterSplitBrain, Parted};
use crate::types::Generation;

/// What one side says about its data. "You" is the other side.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// Generation of the data.
    pub generation: Generation,
    /// A generation being introduced, zero if none: the data of both is the same.
    pub pending: Generation,
    /// Earlier generations, newest first.
    pub history: Vec<Generation>,
    /// The generation of *your* data that my bitmap towards you counts from.
    pub base: Generation,
    /// `base` and that bitmap are valid.
    pub tracking: bool,
    /// My data is a mixture.
    pub inconsistent: bool,
    /// My data is an unfinished full sync: nothing of its own is in it.
    pub partial: bool,
    /// My data may be overwritten: a person or a policy gave it up.
    pub yields: bool,
    /// When mine went on without yours, and how much was written since.
    pub parted: Parted,
    /// What shall happen when both went on alone.
    pub policy: AfterSplitBrain,
}

impl Identity {
    /// What a peer of a release before split brains were resolved is told of it.
    #[must_use]
    pub fn for_older(self) -> Self {
        let (parted, policy) = (Parted::default(), AfterSplitBrain::default());
        Self { yields: false, parted, policy, ..self }
    }
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Copy the blocks in the union of both bitmaps (maybe none).
    Bitmap,
    /// Copy everything: also whenever data is given up, because a bitmap that both sides agree on is what is missing then.
    Full,
    /// Do nothing, stay apart, say why.
    Refuse(Refusal),
}

/// Why two replicas stay apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refusal {
    /// A primary without data.
    #[error("the primary has no data")]
    SourceEmpty,
    /// A primary whose data is a mixture.
    #[error("the primary's data is inconsistent")]
    SourceInconsistent,
    /// The secondary's data descends from the primary's.
    #[error("the secondary's data is newer than the primary's")]
    TargetNewer,
    /// Both went on alone from a common generation.
    #[error("split brain: both sides have data that the other never had")]
    SplitBrain,
    /// No common generation.
    #[error("the replicas have no generation in common: unrelated data")]
    Unrelated,
}

impl Refusal {
    /// It ends when the secondary's data is given up.
    #[must_use]
    pub fn can_be_resolved(self) -> bool {
        match self {
            Self::TargetNewer | Self::SplitBrain | Self::Unrelated => true,
            Self::SourceEmpty | Self::SourceInconsistent => false,
        }
    }
}

/// The table: what has no common past, or went on alone, is overwritten only if it was given up, and then as a whole.
#[must_use]
pub fn decide(source: &Identity, target: &Identity) -> Verdict {
    match by_descent(source, target) {
        Verdict::Refuse(refusal) if refusal.can_be_resolved() && target.yields => Verdict::Full,
        verdict => verdict,
    }
}

/// The table without what anybody gave up.
fn by_descent(source: &Identity, target: &Identity) -> Verdict {
    const NONE: Generation = Generation(0);
    // A pending generation names the same data as the one it will replace.
    let same_data =
        source.base == target.generation || (source.base != NONE && source.base == target.pending);
    let fits = source.tracking && same_data;
    let knows = |side: &Identity, g: Generation| {
        g != NONE && (side.generation == g || side.pending == g || side.history.contains(&g))
    };
    if source.generation == NONE {
        Verdict::Refuse(Refusal::SourceEmpty)
    } else if source.inconsistent {
        Verdict::Refuse(Refusal::SourceInconsistent)
    } else if target.generation == NONE {
        Verdict::Full
    } else if fits {
        Verdict::Bitmap
    } else if target.partial || knows(source, target.generation) {
        Verdict::Full
    } else if knows(target, source.generation) {
        Verdict::Refuse(Refusal::TargetNewer)
    } else if target.history.iter().any(|g| knows(source, *g)) {
        Verdict::Refuse(Refusal::SplitBrain)
    } else {
        Verdict::Refuse(Refusal::Unrelated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(generation: u64, history: &[u64]) -> Identity {
        let history = history.iter().map(|g| Generation(*g)).collect();
        Identity { generation: Generation(generation), history, ..Identity::default() }
    }

    fn tracking(base: u64, id: Identity) -> Identity {
        Identity { base: Generation(base), tracking: true, ..id }
    }

    fn pending(generation: u64, id: Identity) -> Identity {
        Identity { pending: Generation(generation), ..id }
    }

    /// One row per situation: name, source, target, verdict.
    #[test]
    fn the_table_row_by_row() {
        use Refusal::*;
        use Verdict::*;
        let inconsistent = |id: Identity| Identity { inconsistent: true, ..id };
        let yields = |id: Identity| Identity { yields: true, ..id };
        let partial = |id: Identity| Identity { partial: true, inconsistent: true, ..id };
        let rows: Vec<(&str, Identity, Identity, Verdict)> = vec![
            ("both empty", side(0, &[]), side(0, &[]), Refuse(SourceEmpty)),
            ("empty primary, secondary with data", side(0, &[]), side(5, &[]), Refuse(SourceEmpty)),
            ("mixed primary", inconsistent(side(5, &[4])), side(4, &[]), Refuse(SourceInconsistent)),
            ("new secondary", side(5, &[4]), side(0, &[]), Full),
            (
                "new secondary, though the bitmap says it counts from zero",
                tracking(0, side(5, &[])),
                side(0, &[]),
                Full,
            ),
            ("same generation, bitmap fits", tracking(5, side(5, &[4])), side(5, &[4]), Bitmap),
            ("same generation, bitmap unsuitable", tracking(3, side(5, &[4, 3])), side(5, &[4, 3]), Full),
            ("same generation, never tracked", side(5, &[4]), side(5, &[4]), Full),
            (
                "bitmap counts from the secondary's generation",
                tracking(4, side(5, &[4])),
                side(4, &[3]),
                Bitmap,
            ),
            (
                "secondary's generation is history, bitmap counts from another",
                tracking(4, side(5, &[4, 3])),
                side(3, &[]),
                Full,
            ),
            (
                "interrupted bitmap sync goes on",
                tracking(4, side(5, &[4])),
                inconsistent(side(4, &[])),
                Bitmap,
            ),
            ("interrupted full sync goes on", tracking(77, side(5, &[])), partial(side(77, &[])), Bitmap),
            ("full sync begun by another source", tracking(4, side(5, &[4])), partial(side(77, &[])), Full),
            (
                "the primary died while introducing 6, both have it pending",
                pending(6, tracking(5, side(5, &[]))),
                pending(6, side(5, &[])),
                Bitmap,
            ),
            (
                "6 is in force there and only pending here",
                pending(6, tracking(5, side(5, &[]))),
                side(6, &[5]),
                Full,
            ),
            (
                "6 was introduced to a member that was taken out before it came into force",
                tracking(5, side(7, &[5])),
                pending(6, side(5, &[])),
                Bitmap,
            ),
            (
                "old primary had 6 pending, the new one tracks it as 6",
                tracking(6, side(7, &[6, 5])),
                pending(6, side(5, &[])),
                Bitmap,
            ),
            (
                "old primary had 6 pending, the new one never saw it",
                tracking(5, side(7, &[5])),
                pending(6, side(5, &[])),
                Bitmap,
            ),
            (
                "secondary went on from the primary's data",
                side(4, &[3]),
                side(5, &[4, 3]),
                Refuse(TargetNewer),
            ),
            ("both went on from 3", tracking(3, side(4, &[3])), side(5, &[3]), Refuse(SplitBrain)),
            ("nothing in common", side(4, &[3]), side(9, &[8]), Refuse(Unrelated)),
            ("zero is nobody's common ancestor", side(4, &[]), side(9, &[]), Refuse(Unrelated)),
            (
                "both went on from 3, the secondary gave up",
                tracking(3, side(4, &[3])),
                yields(side(5, &[3])),
                Full,
            ),
            (
                "the same, and the primary's bitmap counts from just that",
                tracking(3, side(4, &[3])),
                yields(tracking(3, side(5, &[3]))),
                Full,
            ),
            ("unrelated, the secondary gave up", side(4, &[3]), yields(side(9, &[8])), Full),
            ("newer, the secondary gave up", side(4, &[3]), yields(side(5, &[4, 3])), Full),
            ("it gave up, and the bitmap fits", tracking(4, side(5, &[4])), yields(side(4, &[3])), Bitmap),
            (
                "an empty primary takes nothing from who gave up",
                side(0, &[]),
                yields(side(5, &[])),
                Refuse(SourceEmpty),
            ),
            (
                "nor does one whose data is a mixture",
                inconsistent(side(5, &[4])),
                yields(side(9, &[])),
                Refuse(SourceInconsistent),
            ),
            (
                "that the primary gave up is nothing to the secondary",
                yields(side(4, &[3])),
                side(5, &[3]),
                Refuse(SplitBrain),
            ),
        ];
        for (name, source, target, verdict) in rows {
            assert_eq!(decide(&source, &target), verdict, "{name}");
        }
    }

    /// Bits are trusted only for the data they count from; nothing with data of its own is overwritten unless
    /// that data is in the source's past.
    #[test]
    fn exhaustive_over_small_identities() {
        let mut all = Vec::new();
        for generation in 0..4 {
            for past in 0..4 {
                for base in 0..4 {
                    let history: &[u64] = if past == 0 || past == generation { &[] } else { &[past] };
                    all.push(tracking(base, side(generation, history)));
                    all.push(side(generation, history));
                }
            }
        }
        for source in &all {
            for target in &all {
                let given_up = Identity { yields: true, ..target.clone() };
                match (decide(source, target), decide(source, &given_up)) {
                    (Verdict::Refuse(why), then) if why.can_be_resolved() => assert_eq!(then, Verdict::Full),
                    (verdict, then) => {
                        assert_eq!(verdict, then, "what a verdict is, giving up does not change")
                    }
                }
                let verdict = decide(source, target);
                if verdict == Verdict::Bitmap {
                    assert!(source.tracking && source.base == target.generation);
                }
                if verdict == Verdict::Full && target.generation != Generation(0) {
                    let known =
                        source.generation == target.generation || source.history.contains(&target.generation);
                    assert!(known, "{source:?} would overwrite {target:?}");
                }
            }
        }
    }
}
