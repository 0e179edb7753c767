//! The states of a node towards a group, and the one table of legal changes. The drawing is in the parent
//! module.

/// Where a node stands towards a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// The agent has started; earlier requests are being settled, nothing is acknowledged.
    Joining,
    /// Does not lead; acknowledges the leader.
    Standby,
    /// Has stopped acknowledging and takes over as soon as its promises have run out.
    Campaigning,
    /// Leads, but may not serve yet.
    Waiting,
    /// Entitled; the group is being started.
    Starting,
    /// Entitled; the group runs.
    Serving,
    /// Leads, but a promise has run out: addresses off, containers paused.
    Fenced,
    /// Stops the group for another node, or to give it up.
    HandingOver,
    /// Leads, but the group could not be started or kept running.
    Failed,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Joining,
        Self::Standby,
        Self::Campaigning,
        Self::Waiting,
        Self::Starting,
        Self::Serving,
        Self::Fenced,
        Self::HandingOver,
        Self::Failed,
    ];

    /// This node is the leader as far as it knows.
    #[must_use]
    pub fn leads(self) -> bool {
        match self {
            Self::Joining | Self::Standby | Self::Campaigning => false,
            Self::Waiting
            | Self::Starting
            | Self::Serving
            | Self::Fenced
            | Self::HandingOver
            | Self::Failed => true,
        }
    }

    /// The legality table.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        let to: &[Self] = match self {
            Self::Joining => &[Self::Standby, Self::Waiting],
            Self::Standby => &[Self::Campaigning, Self::Waiting],
            Self::Campaigning => &[Self::Standby, Self::Waiting],
            Self::Waiting => &[Self::Standby, Self::Starting, Self::HandingOver],
            Self::Starting => &[Self::Standby, Self::Serving, Self::Fenced, Self::Failed, Self::HandingOver],
            Self::Serving => &[Self::Standby, Self::Fenced, Self::Failed, Self::HandingOver],
            Self::Fenced => &[Self::Standby, Self::Starting],
            Self::HandingOver => &[Self::Standby, Self::Waiting, Self::Fenced],
            Self::Failed => &[Self::Standby, Self::Starting, Self::Fenced, Self::HandingOver],
        };
        to.contains(&next)
    }

    /// The word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Standby => "standby",
            Self::Campaigning => "campaigning",
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Fenced => "fenced",
            Self::HandingOver => "handing over",
            Self::Failed => "failed",
        }
    }
}
