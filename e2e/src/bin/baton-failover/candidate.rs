//! What is compared.

use std::time::Duration;

/// A program with its settings, and what it keeps alive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Candidate {
    /// Baton, a group without data on both nodes (`standby: hot`).
    Hot,
    /// The same with `profile: fast`.
    HotFast,
    /// The same with the timers given: half of that profile's silence.
    HotShort,
    /// Baton, a replicated volume with MariaDB on it, and Apache.
    Data,
    /// The same with `profile: fast`.
    DataFast,
    /// One advertisement a second.
    Keepalived,
    /// One every 100 ms.
    KeepalivedTuned,
    /// Corosync's token timeout of 3 s.
    Pacemaker,
    /// 500 ms.
    PacemakerTuned,
    /// A heartbeat every 2 s, dead after 10 s.
    Heartbeat,
    /// 100 ms and 500 ms.
    HeartbeatTuned,
}

/// A program that is not Baton.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// VRRP.
    Keepalived,
    /// With Corosync.
    Pacemaker,
    /// Of Linux-HA.
    Heartbeat,
}

impl Candidate {
    /// In the order of the tables.
    pub const ALL: [Self; 11] = [
        Self::Hot,
        Self::HotFast,
        Self::HotShort,
        Self::Data,
        Self::DataFast,
        Self::Keepalived,
        Self::KeepalivedTuned,
        Self::Pacemaker,
        Self::PacemakerTuned,
        Self::Heartbeat,
        Self::HeartbeatTuned,
    ];

    /// As it is called on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::HotFast => "hot-fast",
            Self::HotShort => "hot-short",
            Self::Data => "data",
            Self::DataFast => "data-fast",
            Self::Keepalived => "keepalived",
            Self::KeepalivedTuned => "keepalived-tuned",
            Self::Pacemaker => "pacemaker",
            Self::PacemakerTuned => "pacemaker-tuned",
            Self::Heartbeat => "heartbeat",
            Self::HeartbeatTuned => "heartbeat-tuned",
        }
    }

    /// For the tables.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Hot => "Baton, `standby: hot`",
            Self::HotFast => "Baton, `standby: hot`, `profile: fast`",
            Self::HotShort => "Baton, `standby: hot`, `deadtime: 250ms`",
            Self::Data => "Baton, volume + Apache + MariaDB",
            Self::DataFast => "Baton, volume + Apache + MariaDB, `profile: fast`",
            Self::Keepalived => "keepalived (1 s)",
            Self::KeepalivedTuned => "keepalived (100 ms)",
            Self::Pacemaker => "Pacemaker + Corosync (token 3 s)",
            Self::PacemakerTuned => "Pacemaker + Corosync (token 500 ms)",
            Self::Heartbeat => "Heartbeat (2 s, 10 s)",
            Self::HeartbeatTuned => "Heartbeat (100 ms, 500 ms)",
        }
    }

    /// Which program, if it is not Baton.
    pub const fn peer(self) -> Option<Peer> {
        match self {
            Self::Hot | Self::HotFast | Self::HotShort | Self::Data | Self::DataFast => None,
            Self::Keepalived | Self::KeepalivedTuned => Some(Peer::Keepalived),
            Self::Pacemaker | Self::PacemakerTuned => Some(Peer::Pacemaker),
            Self::Heartbeat | Self::HeartbeatTuned => Some(Peer::Heartbeat),
        }
    }

    /// There is a database to write to.
    pub const fn data(self) -> bool {
        matches!(self, Self::Data | Self::DataFast)
    }

    /// After so much silence another one may take over, by its settings: for VRRP three advertisements and a skew, for
    /// Corosync the token and the consensus of 1.2 tokens.
    pub const fn silence(self) -> Duration {
        Duration::from_millis(match self {
            Self::Hot | Self::Data => 1500,
            Self::HotFast | Self::DataFast | Self::HeartbeatTuned => 500,
            Self::HotShort => 250,
            Self::Keepalived => 3600,
            Self::KeepalivedTuned => 360,
            Self::Pacemaker => 6600,
            Self::PacemakerTuned => 1100,
            Self::Heartbeat => 10_000,
        })
    }

    /// It is watched under full load: Baton's but those with default timers, and every setting of a peer that they are compared with.
    pub const fn under_load(self) -> bool {
        !matches!(self, Self::Hot | Self::Data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn names_are_those_of_the_command_line_and_all_are_listed() {
        let listed: Vec<_> = Candidate::ALL.iter().map(|c| c.name().to_owned()).collect();
        let known: Vec<_> = Candidate::value_variants()
            .iter()
            .map(|c| c.to_possible_value().unwrap().get_name().to_owned())
            .collect();
        assert_eq!(listed, known);
    }
}
