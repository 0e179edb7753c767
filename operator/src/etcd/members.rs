//! etcd's own members: versions, who leads, and moving that leadership away from a host.

use super::pool::{Etcd, EtcdError};

/// One member as its endpoint answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its URL.
    pub endpoint: String,
    /// Its id, if it answered.
    pub id: Option<u64>,
    /// Its version, if it answered.
    pub version: Option<String>,
    /// It is etcd's leader.
    pub leads: bool,
    /// What a person should know: unreachable, or a version with known lease bugs.
    pub warning: Option<String>,
}

/// The lease bugs that are fixed in 3.5.23 and 3.6.5 (DESIGN "What users rely on"), as a sentence; none if the version
/// is good.
#[must_use]
pub fn version_warning(version: &str) -> Option<String> {
    let mut parts = version.split(['.', '-', '+']).map(|p| p.parse::<u64>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    let version_number = (next(), next(), next());
    let good = version_number >= (3, 6, 5) || ((3, 5, 23)..(3, 6, 0)).contains(&version_number);
    (!good).then(|| {
        format!(
            "etcd {version} may lose leases when its disk stalls; for production use 3.5.23, 3.6.5 or later"
        )
    })
}

impl Etcd {
    /// Asks every member for its status, all at once; those that do not answer are named.
    pub async fn members(&self) -> Vec<MemberStatus> {
        let ask = |(index, endpoint): (usize, String)| async move {
            let mut client = self.client(index);
            let answer = tokio::time::timeout(self.timeout(), client.status()).await;
            let error = match answer {
                Ok(Ok(status)) => {
                    let id = status.header().map(|h| h.member_id());
                    return MemberStatus {
                        endpoint,
                        leads: id.is_some_and(|id| id == status.leader()),
                        id,
                        warning: version_warning(status.version()),
                        version: Some(status.version().to_owned()),
                    };
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer in time".to_owned(),
            };
            MemberStatus { endpoint, id: None, version: None, leads: false, warning: Some(error) }
        };
        futures::future::join_all(self.endpoints().into_iter().enumerate().map(ask)).await
    }

    /// Asks the leading member to hand etcd's leadership to another one.
    ///
    /// # Errors
    /// No leader answers, or it refuses.
    pub async fn move_leader(&self, to: u64) -> Result<(), EtcdError> {
        let members = self.members().await;
        let index = members
            .iter()
            .position(|m| m.leads)
            .ok_or_else(|| EtcdError::Unreachable("no member says that it leads".into()))?;
        let mut client = self.client(index);
        match tokio::time::timeout(self.timeout(), client.move_leader(to)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(EtcdError::Unreachable(error.to_string())),
            Err(_) => Err(EtcdError::Unreachable("no answer in time".into())),
        }
    }
}
