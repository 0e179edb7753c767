//! Names and addresses of the cluster under test, from the environment with the suite's own defaults.
//!
//! The suite has its own Compose project and subnet, so that it can run beside a demo. Nothing here touches
//! the cluster.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Agents' REST API.
pub const API_PORT: u16 = 7480;
/// Replication between replicators.
pub const REPLICATION_PORT: u16 = 7788;
/// Heartbeats between agents.
pub const HEARTBEAT_PORT: u16 = 694;
/// etcd's clients.
pub const ETCD_PORT: u16 = 2379;
/// The demo's only group and volume.
pub const GROUP: &str = "web";
/// See [`GROUP`].
pub const VOLUME: &str = "webstore";

/// A host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its node name and the value of the label `baton.host`.
    pub name: String,
    /// Its own address.
    pub address: Ipv4Addr,
}

/// The cluster under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Compose project.
    pub project: String,
    /// Cluster name: the label `baton.cluster` and the prefix in etcd.
    pub cluster: String,
    /// The two hosts.
    pub hosts: [Host; 2],
    /// The address that follows the group.
    pub vip: Ipv4Addr,
    /// What the prober asks for.
    pub probe_path: String,
    /// User, password and schema at the VIP's MariaDB.
    pub database: Database,
}

/// How the writer logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Account.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Schema that it may create tables in.
    pub schema: String,
}

impl Config {
    /// Reads `BATON_PROJECT`, `BATON_SUBNET` (`10.78.0` or `10.78.0.0/24`), `BATON_CLUSTER`,
    /// `BATON_E2E_PATH` and `BATON_E2E_DB` (`user:password@schema`).
    #[must_use]
    pub fn from_env() -> Self {
        let var = |name: &str, default: &str| {
            std::env::var(name).ok().filter(|v| !v.is_empty()).unwrap_or_else(|| default.to_owned())
        };
        Self::new(
            &var("BATON_PROJECT", "baton-e2e"),
            &var("BATON_SUBNET", "10.78.0"),
            &var("BATON_CLUSTER", "e2e"),
            &var("BATON_E2E_PATH", "/healthz"),
            &var("BATON_E2E_DB", "web:web@cluster"),
        )
    }

    fn new(project: &str, subnet: &str, cluster: &str, probe_path: &str, database: &str) -> Self {
        let [a, b, c] = prefix(subnet);
        let host =
            |name: &str, last: u8| Host { name: name.to_owned(), address: Ipv4Addr::new(a, b, c, last) };
        let (login, schema) = database.rsplit_once('@').unwrap_or((database, "cluster"));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        Self {
            project: project.to_owned(),
            cluster: cluster.to_owned(),
            hosts: [host("alpha", 11), host("beta", 12)],
            vip: Ipv4Addr::new(a, b, c, 100),
            probe_path: probe_path.to_owned(),
            database: Database { user: user.into(), password: password.into(), schema: schema.into() },
        }
    }

    /// The same cluster with other hosts: one of them was replaced.
    ///
    /// # Panics
    /// If the demo knows no such host.
    #[must_use]
    pub fn with_hosts(&self, names: [&str; 2]) -> Self {
        let [a, b, c, _] = self.vip.octets();
        let last = |name: &str| match name {
            "alpha" => 11,
            "beta" => 12,
            "gamma" => 13,
            other => panic!("the demo has no host '{other}'"),
        };
        let host = |name: &str| Host { name: name.to_owned(), address: Ipv4Addr::new(a, b, c, last(name)) };
        Self { hosts: names.map(host), ..self.clone() }
    }

    /// A host by name.
    ///
    /// # Panics
    /// If the cluster has no host of that name.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        self.hosts
            .iter()
            .find(|h| h.name == name)
            .unwrap_or_else(|| panic!("the cluster has no host '{name}'"))
    }

    /// The other of the two hosts.
    #[must_use]
    pub fn other(&self, name: &str) -> String {
        let other = self.hosts.iter().find(|h| h.name != name);
        other.unwrap_or(&self.hosts[0]).name.clone()
    }

    /// A port at the address that follows the group.
    #[must_use]
    pub fn at_vip(&self, port: u16) -> SocketAddr {
        (self.vip, port).into()
    }
}

/// Where the suite leaves its report, journals and diagnostics: `target/` of the workspace, outside the cluster.
#[must_use]
pub fn output_dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")))
}

fn prefix(subnet: &str) -> [u8; 3] {
    let mut bytes = subnet.split(['.', '/']).map_while(|part| part.parse().ok());
    let mut next = || bytes.next().unwrap_or_else(|| panic!("BATON_SUBNET '{subnet}' is not like 10.78.0"));
    [next(), next(), next()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnet_in_both_spellings() {
        for subnet in ["10.78.0", "10.78.0.0/24"] {
            let c = Config::new("p", subnet, "e2e", "/", "u:p:w@s");
            assert_eq!(c.host("beta").address, Ipv4Addr::new(10, 78, 0, 12));
            assert_eq!(c.vip, Ipv4Addr::new(10, 78, 0, 100));
            assert_eq!(c.database.password, "p:w");
            assert_eq!(c.other("alpha"), "beta");
            assert_eq!(c.with_hosts(["beta", "alpha"]).other("beta"), "alpha");
            let replaced = c.with_hosts(["beta", "gamma"]);
            assert_eq!(replaced.host("gamma").address, Ipv4Addr::new(10, 78, 0, 13));
        }
    }
}
