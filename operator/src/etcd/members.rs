//! etcd's own members: versions, who leads, how many vote, and moving that leadership away from a host.

use super::bugs::version_warning;
use super::pool::{self, Etcd, EtcdError};
use etcd_client::{Client, Error, Member, StatusResponse};

/// One member as its endpoint answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its URL.
    pub endpoint: String,
    /// Its id, if it answered.
    pub id: Option<u64>,
    /// Its version, if it answered.
    pub version: Option<String>,
    /// It is etcd's leader.
    pub leads: bool,
    /// The leader it knows of, by id; none if it knows of none, or did not answer.
    pub leader: Option<u64>,
    /// It does not vote (yet).
    pub learner: bool,
    /// What it says is wrong with itself.
    pub errors: Vec<String>,
    /// What a person should know: unreachable, or a version with known bugs.
    pub warning: Option<String>,
}

/// One member as the cluster lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedMember {
    /// Its id.
    pub id: u64,
    /// Its name; empty before it has started for the first time.
    pub name: String,
    /// Hosts of its URLs, as written there.
    pub hosts: Vec<String>,
    /// It does not vote (yet).
    pub learner: bool,
}

/// The members as they answer and as they are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Each endpoint's own answer.
    pub members: Vec<MemberStatus>,
    /// The list; empty if nobody gave it.
    pub listed: Vec<ListedMember>,
}

impl ListedMember {
    fn of(member: &Member) -> Self {
        let urls = member.peer_urls().iter().chain(member.client_urls());
        Self {
            id: member.id(),
            name: member.name().to_owned(),
            hosts: urls.filter_map(|url| host(url)).collect(),
            learner: member.is_learner(),
        }
    }
}

impl Look {
    /// How many members vote; none if that is not known.
    #[must_use]
    pub fn voters(&self) -> Option<usize> {
        let voters = self.listed.iter().filter(|m| !m.learner).count();
        (voters > 0).then_some(voters)
    }
}

/// The host of a URL as etcd writes them: a name, an address, or an IPv6 address in brackets.
fn host(url: &str) -> Option<String> {
    let authority = url.split_once("://")?.1.split('/').next()?;
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    (!host.is_empty()).then(|| host.to_owned())
}

impl Etcd {
    /// Asks every member for its status, all at once; those that do not answer are named.
    pub async fn members(&self) -> Vec<MemberStatus> {
        let ask = |(index, endpoint): (usize, String)| async move {
            match self.status_of(index, &endpoint).await {
                Ok(status) => {
                    let id = status.header().map(|h| h.member_id());
                    MemberStatus {
                        endpoint,
                        leads: id.is_some_and(|id| id == status.leader()),
                        leader: Some(status.leader()).filter(|id| *id != 0),
                        id,
                        learner: status.is_learner(),
                        errors: status.errors().to_vec(),
                        warning: version_warning(status.version()),
                        version: Some(status.version().to_owned()),
                    }
                }
                Err(error) => MemberStatus { endpoint, warning: Some(error), ..MemberStatus::default() },
            }
        };
        futures::future::join_all(self.endpoints().into_iter().enumerate().map(ask)).await
    }

    /// The status of one member, also of one that has no leader and therefore refuses what our connections ask.
    async fn status_of(&self, index: usize, url: &str) -> Result<StatusResponse, String> {
        let ask = |mut client: Client| async move {
            match tokio::time::timeout(self.timeout(), client.status()).await {
                Ok(answer) => answer.map_err(Some),
                Err(_) => Err(None),
            }
        };
        let said = |error: Option<Error>| error.map_or("no answer in time".to_owned(), |e| e.to_string());
        match ask(self.client(index)).await {
            Err(Some(_)) => {
                let plain = pool::client(url, self.tls(), false).await?;
                ask(plain).await.map_err(said)
            }
            other => other.map_err(said),
        }
    }

    /// The members as the cluster lists them.
    ///
    /// # Errors
    /// No member answered.
    pub async fn listed(&self) -> Result<Vec<ListedMember>, EtcdError> {
        let mut last = EtcdError::Unreachable("no answer in time".into());
        // Not raced with the others: an old etcd answers this out of its memory, which says nothing about what it can
        // confirm, and nobody waits for it.
        for index in self.order() {
            let mut client = self.client(index);
            match tokio::time::timeout(self.timeout(), client.member_list()).await {
                Ok(Ok(answer)) => return Ok(answer.members().iter().map(ListedMember::of).collect()),
                Ok(Err(error)) => last = EtcdError::Unreachable(error.to_string()),
                Err(_) => {}
            }
        }
        Err(last)
    }

    /// Both at once. Changes nothing and writes nothing.
    pub async fn look(&self) -> Look {
        let members = self.members().await;
        let any = members.iter().any(|m| m.id.is_some());
        let listed = if any { self.listed().await.unwrap_or_default() } else { Vec::new() };
        Look { members, listed }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_urls() {
        let of = |url| host(url).unwrap_or_default();
        assert_eq!(of("https://10.0.0.1:2379"), "10.0.0.1");
        assert_eq!(of("http://[fd00::1]:2380"), "fd00::1");
        assert_eq!(of("http://witness.example:2379/x"), "witness.example");
        assert_eq!(of("http://witness"), "witness");
        assert_eq!(host("unix"), None);
        assert_eq!(host("http://:2379"), None);
    }
}
