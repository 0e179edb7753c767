//! What happens to two replicas that both went on alone: DRBD's `after-sb-*` policies as a table over what both sides
//! *sent*, and the sentence that tells a person how things stand.
//!
//! Only the side that loses acts: it keeps a copy of its data where it can, records durably that this data may be
//! overwritten, and says so in its next greeting; the primary then copies everything (never by a bitmap: what a bitmap
//! counts from is exactly what is in doubt). A primary's data is in use and is never the one that is given up.

use super::handshake::{Identity, Refusal};
use crate::types::{NodeName, VolumeName};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// DRBD's `after-sb-0pri`: whose data is given up if that were decided by the data alone. Two replicas without a primary
/// never meet in Baton, so this is what [`OnePrimary::Consensus`] asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZeroPrimaries {
    /// Nobody's.
    #[default]
    Disconnect,
    /// The one whose data was led by the later leadership when the sides parted.
    DiscardYoungerPrimary,
    /// The one whose data was led by the earlier leadership when the sides parted.
    DiscardOlderPrimary,
    /// The one that wrote nothing since, if there is one.
    DiscardZeroChanges,
    /// The one that wrote fewer blocks since.
    DiscardLeastChanges,
}

/// DRBD's `after-sb-1pri`: one side is primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnePrimary {
    /// They stay apart until a person decides.
    #[default]
    Disconnect,
    /// The secondary's data is given up if the rule for zero primaries says so too.
    Consensus,
    /// The secondary's data is given up.
    DiscardSecondary,
}

/// DRBD's `after-sb-2pri`. Both sides' data is in use, so there is one answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TwoPrimaries {
    /// They stay apart; the one of the older epoch is demoted by its agent, and then there is one.
    #[default]
    Disconnect,
}

/// What resolves a split brain by itself. By default nothing does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AfterSplitBrain {
    /// By the data alone.
    pub zero_primaries: ZeroPrimaries,
    /// One side is primary: what every meeting in Baton is.
    pub one_primary: OnePrimary,
    /// Both are.
    pub two_primaries: TwoPrimaries,
}

/// When and under whom this replica's data went on without the peer's, and how much was written since.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parted {
    /// Seconds since 1970 by this node's clock, for people; 0: not known, or not parted.
    pub at_s: u64,
    /// Number of the epoch that led this data then; 0: not known.
    pub epoch: u64,
    /// Blocks in the bitmap towards the peer: at most this many were written since. None: it counts from nowhere.
    pub blocks: Option<u64>,
}

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The one that greets first.
    Source,
    /// The one that answers.
    Target,
}

/// Who is primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Primaries {
    /// Nobody.
    Zero,
    /// This side.
    One(Side),
    /// Both.
    Two,
}

/// Whose data the policies give up; none: nobody's.
#[must_use]
pub fn victim(primaries: Primaries, source: &Identity, target: &Identity) -> Option<Side> {
    if source.policy != target.policy {
        return None; // A change of the specification is on its way: neither is the one in force.
    }
    let policy = source.policy;
    match primaries {
        Primaries::Zero => by_data(policy.zero_primaries, source, target),
        Primaries::One(primary) => {
            let secondary = match primary {
                Side::Source => Side::Target,
                Side::Target => Side::Source,
            };
            match policy.one_primary {
                OnePrimary::Disconnect => None,
                OnePrimary::DiscardSecondary => Some(secondary),
                OnePrimary::Consensus => {
                    by_data(policy.zero_primaries, source, target).filter(|side| *side == secondary)
                }
            }
        }
        Primaries::Two => match policy.two_primaries {
            TwoPrimaries::Disconnect => None,
        },
    }
}

fn by_data(rule: ZeroPrimaries, source: &Identity, target: &Identity) -> Option<Side> {
    let smaller = |source: u64, target: u64| match source.cmp(&target) {
        std::cmp::Ordering::Less => Some(Side::Source),
        std::cmp::Ordering::Greater => Some(Side::Target),
        std::cmp::Ordering::Equal => None,
    };
    let (ours, theirs) = (source.parted, target.parted);
    let epochs = (ours.epoch != 0 && theirs.epoch != 0).then_some((ours.epoch, theirs.epoch));
    // Two counts can be compared, and trusted to be complete, only if they begin at the same data.
    let blocks = ours.blocks.zip(theirs.blocks).filter(|_| source.base == target.base);
    match rule {
        ZeroPrimaries::Disconnect => None,
        ZeroPrimaries::DiscardOlderPrimary => epochs.and_then(|(s, t)| smaller(s, t)),
        ZeroPrimaries::DiscardYoungerPrimary => epochs.and_then(|(s, t)| smaller(t, s)),
        ZeroPrimaries::DiscardZeroChanges => match blocks? {
            // Nothing is lost whichever it is.
            (_, 0) => Some(Side::Target),
            (0, _) => Some(Side::Source),
            (_, _) => None,
        },
        ZeroPrimaries::DiscardLeastChanges => blocks.and_then(|(s, t)| smaller(s, t)),
    }
}

/// How things stand between this replica and a peer that refuses it or is refused, and what ends it.
#[must_use]
pub fn story(
    refusal: Refusal,
    volume: &VolumeName,
    here: (&NodeName, Parted),
    there: (&NodeName, Parted),
    secondary: &NodeName,
) -> String {
    let mut text = refusal.to_string();
    if !refusal.can_be_resolved() {
        return text;
    }
    let ((here, ours), (there, theirs)) = (here, there);
    if refusal == Refusal::SplitBrain {
        let known = [ours.at_s, theirs.at_s].into_iter().filter(|at| *at != 0).min();
        if let Some(at) = known {
            // Writing to a string does not fail.
            let _ = write!(text, "; they parted at {}", utc(at));
        }
        if let (Some(ours), Some(theirs)) = (ours.blocks, theirs.blocks) {
            let _ = write!(
                text,
                "; since then {here} wrote at most {ours} blocks of 4 KiB and {there} at most {theirs}"
            );
        }
    }
    let _ =
        write!(text, "; 'baton volume resolve {volume} --discard {secondary}' gives {secondary}'s data up");
    text
}

/// `2026-11-21 20:15:00 UTC`.
#[must_use]
pub fn utc(unix_s: u64) -> String {
    // Days of the civil calendar, in years that begin on the first of March (Howard Hinnant's algorithm).
    let (days, second) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Generation;

    const ZERO: [ZeroPrimaries; 5] = [
        ZeroPrimaries::Disconnect,
        ZeroPrimaries::DiscardYoungerPrimary,
        ZeroPrimaries::DiscardOlderPrimary,
        ZeroPrimaries::DiscardZeroChanges,
        ZeroPrimaries::DiscardLeastChanges,
    ];
    const ONE: [OnePrimary; 3] =
        [OnePrimary::Disconnect, OnePrimary::Consensus, OnePrimary::DiscardSecondary];

    fn side(epoch: u64, blocks: Option<u64>, policy: AfterSplitBrain) -> Identity {
        let parted = Parted { at_s: 1, epoch, blocks };
        Identity { base: Generation(3), parted, policy, ..Identity::default() }
    }

    /// Every rule by the data, with what each side may say.
    #[test]
    fn the_table_by_the_data() {
        use Side::{Source, Target};
        use ZeroPrimaries as Z;
        type Said = (u64, Option<u64>);
        let rows: Vec<(Z, Said, Said, Option<Side>)> = vec![
            (Z::Disconnect, (1, Some(0)), (2, Some(9)), None),
            (Z::DiscardYoungerPrimary, (1, Some(5)), (2, Some(5)), Some(Target)),
            (Z::DiscardYoungerPrimary, (2, Some(5)), (1, Some(5)), Some(Source)),
            (Z::DiscardYoungerPrimary, (2, Some(5)), (2, Some(5)), None),
            (Z::DiscardYoungerPrimary, (0, Some(5)), (2, Some(5)), None),
            (Z::DiscardYoungerPrimary, (1, Some(5)), (0, Some(5)), None),
            (Z::DiscardOlderPrimary, (1, Some(5)), (2, Some(5)), Some(Source)),
            (Z::DiscardOlderPrimary, (2, Some(5)), (1, Some(5)), Some(Target)),
            (Z::DiscardOlderPrimary, (2, Some(5)), (2, Some(5)), None),
            (Z::DiscardOlderPrimary, (2, Some(5)), (0, Some(5)), None),
            (Z::DiscardZeroChanges, (1, Some(5)), (2, Some(0)), Some(Target)),
            (Z::DiscardZeroChanges, (1, Some(0)), (2, Some(5)), Some(Source)),
            (Z::DiscardZeroChanges, (1, Some(0)), (2, Some(0)), Some(Target)),
            (Z::DiscardZeroChanges, (1, Some(1)), (2, Some(5)), None),
            (Z::DiscardZeroChanges, (1, Some(1)), (2, None), None),
            (Z::DiscardZeroChanges, (1, None), (2, Some(0)), None),
            (Z::DiscardLeastChanges, (1, Some(5)), (2, Some(4)), Some(Target)),
            (Z::DiscardLeastChanges, (1, Some(4)), (2, Some(5)), Some(Source)),
            (Z::DiscardLeastChanges, (1, Some(4)), (2, Some(4)), None),
            (Z::DiscardLeastChanges, (1, None), (2, Some(4)), None),
            (Z::DiscardLeastChanges, (1, Some(4)), (2, None), None),
        ];
        for (rule, s, t, expected) in rows {
            let policy = AfterSplitBrain { zero_primaries: rule, ..AfterSplitBrain::default() };
            let (source, target) = (side(s.0, s.1, policy), side(t.0, t.1, policy));
            assert_eq!(victim(Primaries::Zero, &source, &target), expected, "{rule:?} {s:?} {t:?}");
            // Counts from different data say nothing about each other.
            let other = Identity { base: Generation(4), ..target };
            let counts = matches!(rule, Z::DiscardZeroChanges | Z::DiscardLeastChanges);
            let found = victim(Primaries::Zero, &source, &other);
            assert_eq!(found, expected.filter(|_| !counts), "{rule:?} {s:?} {t:?}, other bases");
        }
    }

    /// Every combination of policies and primaries: a primary's data is never given up, and nothing is by default.
    #[test]
    fn the_table_by_primaries() {
        let mut given_up = 0;
        for zero_primaries in ZERO {
            for one_primary in ONE {
                let policy = AfterSplitBrain { zero_primaries, one_primary, ..AfterSplitBrain::default() };
                for (s, t) in [((1, 5), (2, 0)), ((2, 0), (1, 5)), ((1, 5), (2, 6)), ((2, 5), (1, 4))] {
                    let (source, target) = (side(s.0, Some(s.1), policy), side(t.0, Some(t.1), policy));
                    let by_data = victim(Primaries::Zero, &source, &target);
                    for (primary, secondary) in [(Side::Source, Side::Target), (Side::Target, Side::Source)] {
                        let expected = match one_primary {
                            OnePrimary::Disconnect => None,
                            OnePrimary::DiscardSecondary => Some(secondary),
                            OnePrimary::Consensus if by_data == Some(secondary) => Some(secondary),
                            OnePrimary::Consensus => None,
                        };
                        let found = victim(Primaries::One(primary), &source, &target);
                        assert_eq!(found, expected, "{policy:?} {primary:?}");
                        given_up += u32::from(found.is_some());
                    }
                    assert_eq!(victim(Primaries::Two, &source, &target), None);
                    // While only one side has the policy, nobody acts on it.
                    let before = Identity { policy: AfterSplitBrain::default(), ..target };
                    if policy != AfterSplitBrain::default() {
                        for primaries in [Primaries::Zero, Primaries::One(Side::Source), Primaries::Two] {
                            assert_eq!(victim(primaries, &source, &before), None);
                        }
                    }
                }
            }
        }
        assert_eq!(AfterSplitBrain::default().one_primary, OnePrimary::Disconnect);
        assert!(given_up > 40, "the policies do something: {given_up}");
    }

    #[test]
    fn the_story_names_time_counts_and_the_command() {
        let (alpha, beta) = (NodeName::new("alpha").expect("a name"), NodeName::new("beta").expect("a name"));
        let volume = VolumeName::new("webstore").expect("a name");
        let ours = Parted { at_s: 1_795_291_800, epoch: 2, blocks: Some(12) };
        let theirs = Parted { at_s: 1_795_291_500, epoch: 1, blocks: Some(9) };
        let text = story(Refusal::SplitBrain, &volume, (&alpha, ours), (&beta, theirs), &beta);
        assert_eq!(
            text,
            "split brain: both sides have data that the other never had; they parted at 2026-11-21 20:05:00 UTC; since \
             then alpha wrote at most 12 blocks of 4 KiB and beta at most 9; 'baton volume resolve webstore --discard \
             beta' gives beta's data up"
        );
        // A peer of the release before says neither when nor how much.
        let text = story(Refusal::SplitBrain, &volume, (&alpha, ours), (&beta, Parted::default()), &beta);
        assert!(text.contains("20:10:00") && !text.contains("blocks") && text.contains("resolve webstore"));
        let text = story(Refusal::Unrelated, &volume, (&alpha, ours), (&beta, theirs), &beta);
        assert!(!text.contains("parted") && text.contains("--discard beta"));
        let text = story(Refusal::SourceInconsistent, &volume, (&alpha, ours), (&beta, theirs), &beta);
        assert!(!text.contains("resolve"), "giving up the other side's data would not help");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_799, "2000-02-29 23:59:59 UTC"),
            (1_798_761_599, "2026-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(unix), text);
        }
    }
}
