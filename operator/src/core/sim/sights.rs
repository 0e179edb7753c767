//! Interesting states that a campaign of random faults must have reached: a simulation that never gets there proves
//! nothing about them.

/// Something worth having seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Sight {
    FirstStart,
    /// A silent leader was taken over while its key stood.
    FastTakeover,
    /// After the key had gone.
    SlowTakeover,
    /// Of what a leader that could neither serve nor reach etcd had given up.
    ReleasedTakeover,
    ReleasedItself,
    /// A set whose members had all lost their memory was led again.
    PowerLossStart,
    Fenced,
    EntitledAgain,
    ResumedInPlace,
    /// An earlier takeover of its own, found in the record.
    NamedLeader,
    DeposedByHeartbeat,
    DeposedByRecord,
    /// A transaction took effect after its sender had given it up.
    LateCommit,
    /// One was refused because its sender had settled it.
    LateRefused,
    /// An admission took effect, and its answer was lost.
    AdmissionUnanswered,
    /// An admission whose outcome was unknown had not happened.
    AdmissionUndone,
    Removed,
    GuardFailed,
    UnknownOutcome,
    KeyWrittenAgain,
    HandedOver,
    HandoverFailed,
    HandoverBrokenOff,
    CampaignGivenUp,
    Resigned,
    CandidatesWritten,
    TargetCleared,
    ServedWithoutDisk,
    GaveUpWithoutDisk,
    LongPromise,
    ForeignEtcd,
    RewroteEtcd,
    TrustedAgain,
    /// Nobody served after etcd had been restored, and a person put the record right.
    PersonRecovered,
    /// A leader went on without its lease, by the promises of all candidates.
    ServedWithoutLease,
    CrashedAtAStep,
    EngineAnsweredLate,
    TakeoverWithoutWatch,
    LeasesLivedThroughAnElection,
    LeaseEndedAfterAStall,
    /// A machine whose clock had stood still woke up beside its successor.
    StaleAfterStandstill,
    /// The group failed to start or run.
    Failed,
}

use Sight as S;

impl Sight {
    pub(super) const ALL: [Self; 42] = [
        S::FirstStart,
        S::FastTakeover,
        S::SlowTakeover,
        S::ReleasedTakeover,
        S::ReleasedItself,
        S::PowerLossStart,
        S::Fenced,
        S::EntitledAgain,
        S::ResumedInPlace,
        S::NamedLeader,
        S::DeposedByHeartbeat,
        S::DeposedByRecord,
        S::LateCommit,
        S::LateRefused,
        S::AdmissionUnanswered,
        S::AdmissionUndone,
        S::Removed,
        S::GuardFailed,
        S::UnknownOutcome,
        S::KeyWrittenAgain,
        S::HandedOver,
        S::HandoverFailed,
        S::HandoverBrokenOff,
        S::CampaignGivenUp,
        S::Resigned,
        S::CandidatesWritten,
        S::TargetCleared,
        S::ServedWithoutDisk,
        S::GaveUpWithoutDisk,
        S::LongPromise,
        S::ForeignEtcd,
        S::RewroteEtcd,
        S::TrustedAgain,
        S::PersonRecovered,
        S::ServedWithoutLease,
        S::CrashedAtAStep,
        S::EngineAnsweredLate,
        S::TakeoverWithoutWatch,
        S::LeasesLivedThroughAnElection,
        S::LeaseEndedAfterAStall,
        S::StaleAfterStandstill,
        S::Failed,
    ];

    /// What the core tells people, and what it means.
    const TOLD: [(&'static str, Self); 19] = [
        ("took over what was released", S::ReleasedTakeover),
        ("released epoch", S::ReleasedItself),
        (" -> fenced", S::Fenced),
        ("entitled again", S::EntitledAgain),
        ("resumes in place", S::ResumedInPlace),
        ("etcd names this node the leader", S::NamedLeader),
        (" was heard, this was", S::DeposedByHeartbeat),
        ("deposed: etcd says", S::DeposedByRecord),
        ("whether it happened has to be settled", S::UnknownOutcome),
        ("the group was handed over to this node", S::HandedOver),
        ("handover failed, resumes", S::HandoverFailed),
        ("handover broken off", S::HandoverBrokenOff),
        ("campaigning -> standby", S::CampaignGivenUp),
        ("goes on through its peers", S::ServedWithoutDisk),
        ("nobody to go on through", S::GaveUpWithoutDisk),
        ("a longer absence for its restart", S::LongPromise),
        ("no automatic takeover, re-creation or removal", S::ForeignEtcd),
        ("is trusted again", S::TrustedAgain),
        (" -> failed", S::Failed),
    ];
}

/// Which of them one run has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sights(u64);

impl Sights {
    pub(super) fn add(&mut self, sight: Sight) {
        self.0 |= 1 << sight as u8;
    }

    pub(super) fn join(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub(super) fn has(self, sight: Sight) -> bool {
        self.0 & (1 << sight as u8) != 0
    }

    /// What an event of the core says.
    pub(super) fn read(&mut self, text: &str) {
        for (part, sight) in Sight::TOLD {
            if !self.has(sight) && text.contains(part) {
                self.add(sight);
            }
        }
    }
}

#[test]
fn every_sight_is_listed_once() {
    for (i, sight) in Sight::ALL.into_iter().enumerate() {
        assert_eq!(sight as usize, i, "{sight:?}");
    }
    let mut seen = Sights::default();
    seen.read("serving -> fenced: no promise of n1");
    assert!(seen.has(Sight::Fenced) && !seen.has(Sight::Failed));
}
