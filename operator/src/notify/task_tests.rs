//! The order in which a target asks and tells, seen from etcd.

use super::*;
use crate::cli::fixture::{self, group, node};
use crate::spec::{Channel, Severity};

/// An etcd that agrees to everything and looks what is on the asking node's disk.
struct Witness {
    spool: Spool,
    seen: Vec<(String, Vec<String>)>,
}

impl Arbiter for Witness {
    fn ask(&mut self, action: &Action) -> BoxFuture<'_, Answer> {
        let about = match action {
            Action::Claim(claim, _) => format!("claim {}", claim.what.key()),
            Action::Once(key) => format!("once {key}"),
            Action::Release(key) => format!("release {key}"),
            Action::Send(_) => unreachable!("is not asked"),
        };
        let kept = self.spool.unsent().into_iter().map(|m| format!("{:?} {}", m.kind, m.key)).collect();
        self.seen.push((about, kept));
        let revision = i64::try_from(self.seen.len()).unwrap();
        Box::pin(async move { Answer::Won(revision) })
    }
}

#[tokio::test]
async fn what_is_claimed_is_on_disk_before_etcd_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), "operators").unwrap();
    let exec = crate::spec::Exec { command: vec!["/bin/true".into()], timeout: Duration::from_secs(1) };
    let board = Arc::new(watch::channel(Vec::new()).0);
    let mailbox = Mailbox::new("operators", Channel::Exec(exec), node("alpha"), Some(spool.clone()), board);
    let settings = Settings {
        cluster: "demo".into(),
        me: node("alpha"),
        groups: [group("web")].into(),
        whole: true,
        severity: Severity::Info,
        alert_every: None,
        recovery: true,
        hold: Duration::ZERO,
        max_per_hour: 20,
    };
    let mut target = Target {
        name: "operators".into(),
        core: Core::new(settings, Instant::ZERO),
        mailbox: Arc::new(mailbox),
        worker: tokio::spawn(async {}),
        kept: Vec::new(),
    };
    let mut witness = Witness { spool: spool.clone(), seen: Vec::new() };
    let mut status = fixture::healthy();
    target.core.claims(&std::collections::BTreeMap::new(), Instant::ZERO);
    let mut now = Instant::ZERO.plus(Duration::from_secs(60));
    for ready in [false, true, true] {
        status.groups[0].nodes[1].ready = ready;
        now = now.plus(Duration::from_millis(1));
        let look = Look { now, at: &status.at, status: &status };
        let actions = target.core.look(look, &conditions(&status, &BTreeSet::new()), &[]);
        target.carry_out(actions, &status, &mut witness).await;
    }
    let begin = vec!["Begin web/no-standby".to_owned()];
    let end = vec!["End web/no-standby".to_owned()];
    let expected = [("claim web/no-standby".to_owned(), begin), ("release web/no-standby".to_owned(), end)];
    assert_eq!(witness.seen, expected, "the end meets its begin, which had not gone out");
    assert_eq!(spool.unsent().len(), 1);
}
