//! Drives the real demo cluster, breaks it, and judges it by what clients saw.
//!
//! | module | owns |
//! | --- | --- |
//! | [`config`] | names and addresses of the cluster under test |
//! | [`shell`], [`docker`], [`http`] | the three ways to reach it: commands, the engine, the agents' API |
//! | [`status`], [`cluster`] | what the agents say, waiting for it, and healing |
//! | [`faults`] | power cut, pulled cable, blocked replication, frozen processes, etcd down; each undone on drop |
//! | [`netns`] | acting inside a host's network namespace, and watching who holds the address |
//! | [`prober`], [`writer`], [`journal`], [`gaps`] | the clients, their history, and its analysis |
//! | [`watch`] | all of them around one change of leadership: who answered, held and acknowledged when |
//! | [`monitoring`] | Prometheus, Alertmanager, mail and webhook |
//! | [`replicas`] | the two backing files at rest |
//! | [`side`] | real binaries in containers of their own, for bad input |
//! | [`retry`] | again until it succeeds |
//! | [`page`] | pages of the documentation that benches write |
//! | [`scenario`], [`report`] | the frame of a scenario and the measured figures |
//!
//! The scenarios themselves are in `tests/scenarios`. They run one after another against one cluster that
//! `make test` has brought up; if this process dies, the next scenario's healing undoes its faults.

pub mod browser;
pub mod cluster;
pub mod config;
pub mod docker;
pub mod faults;
pub mod gaps;
pub mod http;
pub mod identity;
pub mod journal;
pub mod monitoring;
pub mod netns;
pub mod page;
pub mod prober;
pub mod replicas;
pub mod report;
pub mod retry;
pub mod scenario;
pub mod shell;
pub mod side;
pub mod status;
pub mod watch;
pub mod writer;
