//! Rules left out or bent: random faults alone must notice, each within so many seeds.
//!
//! | not among them | why, and what notices |
//! | --- | --- |
//! | `Release` | without it nobody serves while one card is dead, and that ends when it is mended: trap `one_card_fails` |
//! | `Vouch` | a core that hangs leaves the group as it is, and the hang ends when it is mended: trap `hung_core` |
//! | `Gap` | costs a takeover that was not needed, and harms nothing else: trap `clock_gap_standby` |
//! | `RecreateEpoch` | the key must vanish under a new leader while the old one sees etcd again and has not read it: trap `lost_key` |
//! | `WinnerAlone` | what the loser has more than the winner was never acknowledged, and the writes here are not overwritten: trap `slow_winner_keeps_loser` |
//! | `WrittenRecord` | one seed in some ten thousand: trap `foreign_etcd_is_trusted_when_the_leader_has_written_its_record_not_before` |
//! | `EpochReset` | no two epochs of one leader lie so close here: `a_promise_for_one_epoch_is_none_for_the_next` in `promises` |

use super::seeds::{each, one};
use crate::core::rules::{Detail, Rule, Rules};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Where the search begins, and within how many seeds each must be found: about four times as many as it took from the
/// first one when this was written, because every change of the core changes which seed it is. The rarer ones begin not far
/// before a seed that is known to notice: each run of `make test` pays for the way there.
const FOUND: [(Rules, u64, u64); 16] = [
    (Rules::bending(Detail::Deadtime), 1, 200),
    (Rules::without(Rule::Boot), 1, 200),
    (Rules::bending(Detail::SendTime), 1, 200),
    (Rules::without(Rule::StartAck), 1, 200),
    (Rules::without(Rule::AnyAck), 1, 200),
    (Rules::bending(Detail::MemberStays), 1, 200),
    (Rules::without(Rule::Union), 1, 1000),
    (Rules::bending(Detail::Earliest), 1, 1000),
    (Rules::without(Rule::PowerLoss), 1, 1000),
    (Rules::without(Rule::Settle), 600, 3000),
    (Rules::without(Rule::Identity), 200, 5000),
    (Rules::without(Rule::Candidates), 1100, 5000),
    (Rules::without(Rule::Reread), 1200, 5000),
    (Rules::without(Rule::LeaseKey), 4000, 10_000),
    (Rules::without(Rule::LeaveDiskless), 2000, 10_000),
    (Rules::without(Rule::Incarnation), 4800, 20_000),
];
/// Unoptimised code looks for those alone that are found within so many.
const TASTE: u64 = 200;

/// The first seed that goes wrong with these rules, and is fine with all of them.
fn found(bad: Rules, from: u64, within: u64) -> Option<u64> {
    // An assertion of the core that fails has noticed, too.
    let wrong =
        |seed, rules| catch_unwind(AssertUnwindSafe(|| one(seed, rules, true))).map_or(true, |r| r.is_err());
    let run = |seed| wrong(seed, bad) && !wrong(seed, Rules::default());
    let all = each(from..from + within, run, |wrong| *wrong);
    all.into_iter().find(|(_, wrong)| *wrong).map(|(seed, _)| seed)
}

#[test]
fn random_faults_notice_a_rule_that_is_missing() {
    let tried = FOUND.into_iter().filter(|(_, _, within)| !cfg!(debug_assertions) || *within <= TASTE);
    let mut missed = Vec::new();
    for (bad, from, within) in tried {
        let seed = found(bad, from, within);
        println!("{bad:?}: seed {seed:?}");
        if seed.is_none() {
            missed.push((bad, from, within));
        }
    }
    assert!(missed.is_empty(), "so many seeds do not notice: {missed:?}");
}
