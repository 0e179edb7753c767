//! What is compared: each candidate as a file or block device that is ready to be used.

use crate::fio;
use crate::options::Options;
use crate::os::Loop;
use crate::qemu::Quorum;
use crate::replicator::{Replicated, Setup, Transport};
use anyhow::{Context, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The candidates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Kind {
    /// The backing file.
    Raw,
    /// A loop device on it.
    Loop,
    /// Baton without a peer.
    Alone,
    /// Baton with one peer, plain TCP.
    Peer,
    /// Baton with one peer, TLS.
    Tls,
    /// QEMU's quorum.
    Qemu,
    /// The other build without a peer.
    BaseAlone,
    /// The other build with one peer, plain TCP.
    BasePeer,
    /// The other build with one peer, TLS.
    BaseTls,
}

impl Kind {
    /// Without another build.
    pub const DEFAULT: [Self; 6] = [Self::Raw, Self::Loop, Self::Alone, Self::Peer, Self::Tls, Self::Qemu];

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Raw => "raw file",
            Self::Loop => "loop",
            Self::Alone => "Baton alone",
            Self::Peer => "Baton + peer",
            Self::Tls => "Baton + peer, TLS",
            Self::Qemu => "QEMU quorum",
            Self::BaseAlone => "base alone",
            Self::BasePeer => "base + peer",
            Self::BaseTls => "base + peer, TLS",
        }
    }

    /// For programs and directories.
    pub fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Loop => "loop",
            Self::Alone => "alone",
            Self::Peer => "peer",
            Self::Tls => "tls",
            Self::Qemu => "qemu",
            Self::BaseAlone => "base-alone",
            Self::BasePeer => "base-peer",
            Self::BaseTls => "base-tls",
        }
    }

    /// Of the other build.
    pub fn is_base(self) -> bool {
        match self {
            Self::BaseAlone | Self::BasePeer | Self::BaseTls => true,
            Self::Raw | Self::Loop | Self::Alone | Self::Peer | Self::Tls | Self::Qemu => false,
        }
    }

    fn peer(self) -> Option<Transport> {
        match self {
            Self::Peer | Self::BasePeer => Some(Transport::Plain),
            Self::Tls | Self::BaseTls => Some(Transport::Tls),
            Self::Raw | Self::Loop | Self::Alone | Self::Qemu | Self::BaseAlone => None,
        }
    }
}

/// A candidate that is up.
pub struct Candidate {
    /// Which.
    pub kind: Kind,
    /// What jobs are run on.
    pub target: PathBuf,
    /// What keeps it up.
    parts: Parts,
}

enum Parts {
    Nothing,
    Loop { _attached: Loop },
    Baton(Box<Replicated>),
    Qemu(Box<Quorum>),
}

impl Candidate {
    /// Makes its files, starts it, and writes all of it once.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(kind: Kind, options: &Options, pki: &Path) -> Result<Self> {
        Self::up(kind, options, pki).with_context(|| format!("cannot start '{}'", kind.title()))
    }

    fn up(kind: Kind, options: &Options, pki: &Path) -> Result<Self> {
        let (dir, size) = (options.dir.join(kind.word()), options.size_bytes());
        std::fs::create_dir_all(&dir)?;
        let (target, parts) = match kind {
            Kind::Raw | Kind::Loop => {
                let image = dir.join("image");
                File::create(&image)?.set_len(size)?;
                if kind == Kind::Raw {
                    (image, Parts::Nothing)
                } else {
                    let attached = Loop::attach(&image)?;
                    (attached.0.clone(), Parts::Loop { _attached: attached })
                }
            }
            Kind::Qemu => {
                let quorum = Quorum::start(&dir, size)?;
                (quorum.device.0.clone(), Parts::Qemu(Box::new(quorum)))
            }
            Kind::Alone | Kind::Peer | Kind::Tls | Kind::BaseAlone | Kind::BasePeer | Kind::BaseTls => {
                let program = match &options.base {
                    Some(base) if kind.is_base() => base.clone(),
                    _ => options.program("baton-replicator")?,
                };
                let setup = Setup { program, pki: pki.into(), dir, size, peer: kind.peer() };
                let baton = Replicated::start(setup)?;
                (baton.device.clone(), Parts::Baton(Box::new(baton)))
            }
        };
        fio::fill(&target, size)?;
        Ok(Self { kind, target, parts })
    }

    /// From now on its data matters, not only its speed.
    ///
    /// # Errors
    /// It cannot keep data.
    pub fn keep_data(&self) -> Result<()> {
        match &self.parts {
            Parts::Nothing | Parts::Loop { .. } | Parts::Baton(_) => Ok(()),
            Parts::Qemu(quorum) => quorum.one_at_a_time(),
        }
    }

    /// An error if it is not what it should be any more.
    pub fn is_well(&mut self) -> Result<()> {
        let well = match &mut self.parts {
            Parts::Nothing | Parts::Loop { .. } => Ok(()),
            Parts::Baton(baton) => baton.is_well(),
            Parts::Qemu(quorum) => quorum.is_well(),
        };
        well.with_context(|| format!("'{}' is not well any more", self.kind.title()))
    }
}
