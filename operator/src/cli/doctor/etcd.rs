//! etcd: does every member answer, how many are there, and have their versions known lease bugs?

use super::report::Finding;
use crate::etcd::{Etcd, MemberStatus};
use crate::security::tls::TlsFiles;
use baton_replicator::types::NodeName;
use std::time::Duration;

const FAMILY: &str = "etcd";
/// As the agent's own bound of a request.
const ANSWER: Duration = Duration::from_secs(1);

pub(super) async fn check(urls: &[String]) -> Vec<Finding> {
    // Compose sets a variable that is not set to nothing.
    let urls: Vec<String> = urls.iter().filter(|url| !url.trim().is_empty()).cloned().collect();
    if urls.is_empty() {
        return vec![Finding::skipped(FAMILY, "members", "no member is known: give --etcd or BATON_ETCD")];
    }
    let asked = async {
        // The name only marks writes, and nothing is written here.
        let me = NodeName::new("doctor").map_err(|e| e.to_string())?;
        let tls = urls.iter().any(|url| url.starts_with("https:")).then(TlsFiles::of_this_node_for_etcd);
        let etcd = Etcd::with_tls(&urls, "doctor", me, ANSWER, tls).await.map_err(|e| e.to_string())?;
        Ok(etcd.members().await)
    };
    judge(asked.await)
}

fn judge(members: Result<Vec<MemberStatus>, String>) -> Vec<Finding> {
    let members = match members {
        Ok(members) => members,
        Err(why) => {
            let mend = "Write each as https://HOST:2379, separated by commas, and see 'baton cert show' for the certificates.";
            return vec![Finding::failed(FAMILY, "members", why, mend)];
        }
    };
    let mut all = vec![judge_number(members.len(), members.iter().filter(|m| m.version.is_some()).count())];
    all.extend(members.iter().map(judge_member));
    if members.iter().any(|m| m.version.is_some()) && !members.iter().any(|m| m.leads) {
        let mend = "A majority must be up and reach each other: look at the members' logs.";
        all.push(Finding::failed(FAMILY, "leader", "no member says that it leads", mend));
    }
    all
}

fn judge_number(members: usize, answering: usize) -> Finding {
    let found = format!("{answering} of {members} answer");
    let majority = members / 2 + 1;
    if answering < majority {
        let mend = "Start the others, or open TCP 2379 and 2380: without a majority nothing can be decided.";
        Finding::failed(FAMILY, "members", found, mend)
    } else if members < 3 {
        let found = format!("{found}; {members} do not survive the loss of one");
        Finding::warning(FAMILY, "members", found, "Run three, the third on a small witness machine.")
    } else if members.is_multiple_of(2) {
        let found = format!("{found}; an even number survives no more losses than one less");
        Finding::warning(FAMILY, "members", found, "Run an odd number.")
    } else {
        Finding::ok(FAMILY, "members", found)
    }
}

fn judge_member(member: &MemberStatus) -> Finding {
    let warning = member.warning.clone().unwrap_or_default();
    match &member.version {
        None => Finding::failed(
            FAMILY,
            &member.endpoint,
            format!("does not answer: {warning}"),
            "Start it, and open TCP 2379 from this host.",
        ),
        Some(_) if !warning.is_empty() => {
            Finding::warning(FAMILY, &member.endpoint, warning, "Upgrade etcd, one member at a time.")
        }
        Some(version) => {
            let leads = if member.leads { ", and leads" } else { "" };
            Finding::ok(FAMILY, &member.endpoint, format!("answers, version {version}{leads}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;
    use crate::etcd::version_warning;

    fn member(n: u8, version: Option<&str>, leads: bool) -> MemberStatus {
        let warning = version.map_or(Some("connection refused".into()), version_warning);
        let endpoint = format!("http://10.77.0.2{n}:2379");
        let version = version.map(str::to_owned);
        MemberStatus { endpoint, version, leads, warning, ..MemberStatus::default() }
    }

    #[test]
    fn members() {
        let judge = |all: &[(Option<&str>, bool)]| {
            let all = all.iter().zip(1..).map(|((v, leads), n)| member(n, *v, *leads)).collect();
            judge(Ok(all)).iter().map(|f| f.verdict).collect::<Vec<_>>()
        };
        let (good, old) = (Some("3.6.5"), Some("3.5.16"));
        let ok = Verdict::Ok;
        assert_eq!(judge(&[(good, true), (good, false), (good, false)]), [ok; 4]);
        assert_eq!(
            judge(&[(good, true), (old, false), (None, false)]),
            [ok, ok, Verdict::Warning, Verdict::Failed]
        );
        assert_eq!(judge(&[(good, true), (good, false)])[0], Verdict::Warning);
        assert_eq!(judge(&[(good, true), (good, false), (good, false), (good, false)])[0], Verdict::Warning);
        let minority = judge(&[(good, false), (None, false), (None, false)]);
        assert_eq!((minority[0], *minority.last().unwrap()), (Verdict::Failed, Verdict::Failed), "no leader");
    }

    #[tokio::test]
    async fn nothing_to_ask_and_nobody_there() {
        assert_eq!(check(&[]).await[0].verdict, Verdict::Skipped);
        let nobody = check(&["http://127.0.0.1:1".into()]).await;
        assert_eq!(nobody[0].verdict, Verdict::Failed, "{nobody:?}");
    }
}
