//! One core, and several that share an etcd: stories a person can read, and properties over random ones.

use super::*;
use crate::cli::fixture::{self, group, node};
use crate::notify::conditions::conditions;
use proptest::prelude::*;

fn settings(me: &str) -> Settings {
    Settings {
        cluster: "demo".into(),
        me: node(me),
        groups: [group("web")].into(),
        whole: true,
        severity: Severity::Info,
        alert_every: None,
        recovery: true,
        hold: Duration::from_secs(10),
        max_per_hour: 20,
    }
}

/// What an etcd does with the cores' keys.
#[derive(Default)]
struct Etcd {
    revision: i64,
    keys: BTreeMap<String, (Claim, i64)>,
    once: BTreeSet<String>,
}

impl Etcd {
    fn answer(&mut self, action: &Action) -> Answer {
        self.revision += 1;
        match action {
            Action::Claim(claim, expected) => {
                let key = claim.what.key();
                if self.keys.get(&key).map(|k| k.1) != *expected {
                    return Answer::Lost;
                }
                self.keys.insert(key, (claim.clone(), self.revision));
                Answer::Won(self.revision)
            }
            Action::Once(key) if self.once.insert(key.clone()) => Answer::Won(self.revision),
            Action::Release(key) if self.keys.remove(key).is_some() => Answer::Won(self.revision),
            _ => Answer::Lost,
        }
    }
}

/// Agents with a core each, one clock, one etcd.
struct World {
    now: Instant,
    status: ClusterStatus,
    cores: Vec<Option<Core>>,
    etcd: Etcd,
    mails: Vec<(u64, Message)>,
    /// What each agent's task has kept on disk.
    disks: Vec<Vec<Message>>,
    /// The first agent dies at its next answer of etcd, before it does anything with it.
    dies: bool,
}

fn at(now: Instant) -> String {
    let epoch = humantime::parse_rfc3339("2026-11-21T03:00:00Z").unwrap();
    humantime::format_rfc3339_seconds(epoch + now.since(Instant::ZERO)).to_string()
}

impl World {
    fn new(agents: &[&str], edit: impl Fn(&mut Settings)) -> Self {
        let core = |name: &&str| {
            let mut s = settings(name);
            edit(&mut s);
            Some(Core::new(s, Instant::ZERO))
        };
        Self {
            now: Instant::ZERO,
            status: fixture::healthy(),
            cores: agents.iter().map(core).collect(),
            etcd: Etcd::default(),
            mails: Vec::new(),
            disks: vec![Vec::new(); agents.len()],
            dies: false,
        }
    }

    /// One look of every agent, as its task does it.
    fn look(&mut self, news: &[News]) {
        let at = at(self.now);
        for (i, place) in self.cores.iter_mut().enumerate() {
            let Some(core) = place else { continue };
            let mut status = self.status.clone();
            status.node = node(if i == 0 { "alpha" } else { "beta" });
            let holds = conditions(&status, &BTreeSet::new());
            let look = Look { now: self.now, at: &at, status: &status };
            let mut actions = Vec::new();
            if status.etcd.reachable {
                actions.extend(core.claims(&self.etcd.keys, self.now));
            }
            actions.extend(core.look(look, &holds, news));
            let mut asks = Vec::new();
            for action in actions {
                match action {
                    Action::Send(message) => self.mails.push((self.now.0 / 1_000_000_000, *message)),
                    ask => asks.push(ask),
                }
            }
            if !asks.is_empty() {
                self.disks[i] = core.intents(&asks, look);
            }
            let mut died = false;
            for action in asks {
                let answer = if status.etcd.reachable { self.etcd.answer(&action) } else { Answer::Unknown };
                died = i == 0 && self.dies && matches!(answer, Answer::Won(_));
                if died {
                    break;
                }
                core.answered(&action, answer, look);
            }
            if died {
                self.dies = false;
                *place = None;
            } else {
                self.disks[i] = core.unsent().to_vec();
            }
        }
    }

    fn run(&mut self, seconds: u64) {
        self.run_in_steps(seconds, 1);
    }

    fn run_in_steps(&mut self, seconds: u64, step: u64) {
        for _ in 0..seconds.div_ceil(step) {
            self.now = self.now.plus(Duration::from_secs(step));
            self.look(&[]);
        }
    }

    /// The first agent restarts: it remembers what its task has kept on disk, nothing else.
    fn restart(&mut self, settings: Settings) {
        let mut core = Core::new(settings, self.now);
        core.restore(self.disks[0].clone(), self.now);
        self.cores[0] = Some(core);
    }

    fn lose_beta(&mut self) {
        self.status.nodes[1].alive = false;
        self.status.nodes[1].age_ms = Some(2000);
        self.status.groups[0].nodes[1].ready = false;
        self.status.groups[0].nodes[1].reason = "not heard for 2.0 s".into();
        let peer = &mut self.status.groups[0].volumes[0].peers[0];
        peer.connection = baton_replicator::types::ConnectionState::Connecting;
    }

    fn titles(&self) -> Vec<String> {
        self.mails.iter().map(|(s, m)| format!("{s:>4} {}: {}", m.node, m.title)).collect()
    }
}

#[test]
fn a_state_is_told_once_by_one_node_and_so_is_its_end() {
    let mut w = World::new(&["alpha", "beta"], |_| {});
    w.run(10);
    w.status.groups[0].nodes[1].ready = false;
    w.run(600);
    w.status.groups[0].nodes[1].ready = true;
    w.run(600);
    let expected = [
        "  23 alpha: web: runs on alpha alone, nobody could take over",
        " 623 alpha: web: redundant again, beta could take over from alpha, after 10 min",
    ];
    assert_eq!(w.titles(), expected);
    assert!(w.etcd.keys.is_empty(), "nothing is left in etcd");
    let (begin, end) = (&w.mails[0].1, &w.mails[1].1);
    assert_eq!((begin.kind, end.kind), (Kind::Begin, Kind::End));
    assert_eq!(begin.incident, end.incident, "one thread");
    assert_eq!((end.first_id(), end.lasted_ms), (begin.id(), Some(600_000)));
}

#[test]
fn a_blip_is_not_told_and_flapping_neither_ends_nor_repeats() {
    let mut w = World::new(&["alpha"], |_| {});
    w.run(10);
    for _ in 0..5 {
        w.status.groups[0].nodes[1].ready = false;
        w.run(8);
        w.status.groups[0].nodes[1].ready = true;
        w.run(30);
    }
    assert!(w.mails.is_empty(), "{:?}", w.titles());
    w.status.groups[0].nodes[1].ready = false;
    w.run(30);
    for _ in 0..20 {
        w.status.groups[0].nodes[1].ready ^= true;
        w.run(5);
    }
    w.status.groups[0].nodes[1].ready = true;
    w.run(60);
    assert_eq!(w.mails.len(), 2, "{:?}", w.titles());
}

#[test]
fn the_next_node_takes_over_from_a_teller_that_died() {
    let mut w = World::new(&["alpha", "beta"], |_| {});
    w.run(10);
    w.status.nodes[1].mode = crate::status::NodeMode::Maintenance;
    w.run(10);
    assert_eq!(w.titles(), ["  13 alpha: node beta is in maintenance"]);
    // Alpha, the first by name, dies; beta knows from etcd what was told and tells the end of it.
    w.cores[0] = None;
    w.status.nodes[0].alive = false;
    w.status.nodes[1].mode = crate::status::NodeMode::Online;
    w.run(60);
    let ends: Vec<String> = w.titles().into_iter().filter(|t| t.contains("is over")).collect();
    assert_eq!(ends, ["  33 beta: maintenance of node beta is over, after 10 s"]);
    // Beta restarts and remembers nothing: nothing is told again.
    let before = w.mails.len();
    w.cores[1] = Some(Core::new(settings("beta"), w.now));
    w.run(120);
    assert_eq!(w.mails.len(), before, "{:?}", w.titles());
}

#[test]
fn a_teller_that_is_silent_though_alive_is_replaced_after_its_turn() {
    let mut w = World::new(&["alpha", "beta"], |_| {});
    w.cores[0] = None;
    w.run(10);
    w.status.groups[0].nodes[1].ready = false;
    w.run(60);
    assert_eq!(w.titles(), ["  38 beta: web: runs on alpha alone, nobody could take over"]);
}

#[test]
fn who_dies_with_etcds_answer_in_hand_tells_when_it_is_back() {
    let mut w = World::new(&["alpha", "beta"], |_| {});
    w.run(10);
    // A state begins: alpha claims it and is dead before it can say so. Beta takes it for told.
    w.dies = true;
    w.status.groups[0].nodes[1].ready = false;
    w.run(60);
    assert!(w.cores[0].is_none() && w.etcd.keys.contains_key("web/no-standby"));
    assert!(w.mails.is_empty(), "{:?}", w.titles());
    w.restart(settings("alpha"));
    w.run(60);
    assert_eq!(w.titles(), ["  72 alpha: web: runs on alpha alone, nobody could take over"]);
    // The same with its end, and with something that happens once.
    w.dies = true;
    w.status.groups[0].nodes[1].ready = true;
    w.run(60);
    assert!(w.cores[0].is_none() && w.etcd.keys.is_empty());
    w.restart(settings("alpha"));
    w.run(60);
    assert_eq!(w.mails.iter().map(|m| m.1.kind).collect::<Vec<_>>(), [Kind::Begin, Kind::End]);
    w.dies = true;
    w.look(&[news(8)]);
    assert!(w.cores[0].is_none());
    w.run(60);
    w.restart(settings("alpha"));
    w.run(60);
    assert_eq!((w.mails.len(), w.mails[2].1.title.as_str()), (3, "web: number 8"), "{:?}", w.titles());
}

#[test]
fn without_etcd_the_first_node_tells_and_says_so() {
    let mut w = World::new(&["alpha", "beta"], |_| {});
    w.run(10);
    w.status.etcd.reachable = false;
    w.status.nodes.iter_mut().for_each(|n| n.etcd = Some(false));
    w.status.groups[0].nodes[1].ready = false;
    w.run(60);
    let titles = w.titles();
    assert_eq!(titles.len(), 2, "{titles:?}");
    assert!(titles.iter().all(|t| t.contains("alpha: ")), "{titles:?}");
    assert!(w.mails.iter().all(|m| m.1.notes == [unsure_note()]), "{:?}", w.mails);
    // etcd is back: what was told gets its key, and its end is told once.
    w.status.etcd.reachable = true;
    w.status.nodes.iter_mut().for_each(|n| n.etcd = Some(true));
    w.run(60);
    assert_eq!(w.etcd.keys.keys().collect::<Vec<_>>(), ["web/no-standby"]);
    w.status.groups[0].nodes[1].ready = true;
    w.run(60);
    let ends = w.mails.iter().filter(|m| m.1.kind == Kind::End).count();
    assert_eq!((w.mails.len(), ends, w.etcd.keys.len()), (4, 2, 0), "{:?}", w.titles());
}

#[test]
fn an_end_told_without_etcd_leaves_no_key_behind() {
    let mut w = World::new(&["alpha", "beta"], |_| {});
    w.run(10);
    w.status.groups[0].nodes[1].ready = false;
    w.run(30);
    assert_eq!(w.etcd.keys.len(), 1);
    w.status.etcd.reachable = false;
    w.status.groups[0].nodes[1].ready = true;
    w.run(60);
    w.status.etcd.reachable = true;
    w.run(60);
    let web = |m: &&(u64, Message)| m.1.key == "web/no-standby";
    assert_eq!(w.mails.iter().filter(web).count(), 2, "{:?}", w.titles());
    assert!(w.etcd.keys.is_empty());
}

#[test]
fn reminders_come_while_it_lasts_and_no_recovery_where_none_is_wanted() {
    let edit = |s: &mut Settings| (s.alert_every, s.recovery) = (Some(Duration::from_secs(600)), false);
    let mut w = World::new(&["alpha", "beta"], edit);
    w.run(10);
    w.status.groups[0].nodes[1].ready = false;
    w.run(1500);
    w.status.groups[0].nodes[1].ready = true;
    w.run(60);
    let expected = [
        "  23 alpha: web: runs on alpha alone, nobody could take over",
        " 623 alpha: web: runs on alpha alone, nobody could take over, for 10 min 10 s now",
        "1223 alpha: web: runs on alpha alone, nobody could take over, for 20 min 10 s now",
    ];
    assert_eq!(w.titles(), expected);
    assert_eq!(w.mails.iter().map(|m| m.1.sequence).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(w.etcd.keys.is_empty());
}

#[test]
fn severity_and_groups_choose() {
    let mut w = World::new(&["alpha"], |s| (s.severity, s.whole) = (Severity::Critical, false));
    w.run(10);
    w.lose_beta();
    w.run(60);
    assert!(w.mails.is_empty(), "warnings, and nothing of the cluster: {:?}", w.titles());
    w.status.groups[0].state = crate::status::GroupState::Failed;
    w.run(5);
    assert_eq!(w.mails.len(), 1);
    let mut w = World::new(&["alpha"], |s| s.groups.clear());
    w.run(10);
    w.lose_beta();
    w.run(60);
    assert_eq!(w.titles(), ["  23 alpha: node beta is lost"]);
}

fn news(n: u64) -> News {
    News {
        group: Some(group("web")),
        severity: Severity::Warning,
        key: format!("web/leader/{n}"),
        local: false,
        title: format!("web: number {n}"),
        took_ms: Some(1700),
        facts: vec![],
        done: vec![],
        advice: vec![],
        at: at(Instant::ZERO),
    }
}

#[test]
fn what_several_nodes_notice_is_told_once() {
    let mut w = World::new(&["alpha", "beta"], |_| {});
    w.run(10);
    w.look(&[news(8)]);
    w.run(60);
    assert_eq!(w.titles(), ["  12 alpha: web: number 8"]);
    // The leader's agent does not do its part.
    w.cores[0] = None;
    w.look(&[news(9)]);
    w.run(60);
    assert_eq!(w.titles()[1..], ["  87 beta: web: number 9"]);
}

#[test]
fn many_at_once_are_one_digest_with_the_worst_in_its_title() {
    let mut w = World::new(&["alpha"], |_| {});
    w.run(10);
    let mut all: Vec<News> = (0..6).map(news).collect();
    all[2].severity = Severity::Critical;
    w.look(&all);
    w.run(10);
    assert_eq!(w.titles(), ["  12 alpha: web: number 2 (and 5 more)"]);
    assert_eq!(w.mails[0].1.parts.len(), 6);
}

#[test]
fn a_storm_is_spaced_and_nothing_in_it_is_lost() {
    let mut w = World::new(&["alpha"], |s| s.max_per_hour = 4);
    w.run(10);
    for n in 0..1000 {
        w.look(&[news(n)]);
        w.run(7);
    }
    w.run(3600);
    let told: usize = w.mails.iter().map(|(_, m)| m.parts.len().max(1)).sum();
    let dropped = w.mails.iter().flat_map(|m| &m.1.notes).count();
    assert!(told == 1000 || dropped > 0, "{told}");
    most_per_hour(&w.mails, 4);
    let gaps: Vec<u64> = w.mails.windows(2).map(|m| m[1].0 - m[0].0).collect();
    assert!(gaps.iter().all(|g| *g <= 1810), "nothing waits longer than half an hour at 4 an hour: {gaps:?}");
}

fn most_per_hour(mails: &[(u64, Message)], most: usize) {
    for (i, (begin, _)) in mails.iter().enumerate() {
        let within = mails[i..].iter().take_while(|(s, _)| s - begin < 3600).count();
        assert!(within <= most, "{within} mails in the hour from {begin}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However states come and go, agents restart or die with etcd's answer in hand, and etcd fails: never two begins without an end between them while
    /// etcd answers, no end without a begin, nothing that lasts stays untold, and never more than the limit.
    #[test]
    fn told_once_and_ended_once(
        steps in proptest::collection::vec((0u8..7, 1u64..90), 1..40),
        most in 1u32..30,
        etcd_fails in any::<bool>(),
        dies in any::<bool>(),
    ) {
        let mut w = World::new(&["alpha", "beta"], |s| s.max_per_hour = most);
        for (step, seconds) in steps {
            match step {
                0 => w.status.groups[0].nodes[1].ready ^= true,
                1 => w.status.nodes[1].mode = crate::status::NodeMode::Maintenance,
                2 => w.status.nodes[1].mode = crate::status::NodeMode::Online,
                3 => w.restart(Settings { max_per_hour: most, ..settings("alpha") }),
                6 if dies => w.dies = true,
                4 if etcd_fails => w.status.etcd.reachable ^= true,
                _ => w.look(&[news(w.now.0)]),
            }
            w.run(seconds);
        }
        w.dies = false;
        if w.cores[0].is_none() {
            w.restart(Settings { max_per_hour: most, ..settings("alpha") });
        }
        w.status.etcd.reachable = true;
        w.status.groups[0].nodes[1].ready = false;
        w.run_in_steps(3600 * 3, 20);
        prop_assert!(w.etcd.keys.contains_key("web/no-standby"));
        w.status.groups[0].nodes[1].ready = true;
        w.status.nodes[1].mode = crate::status::NodeMode::Online;
        w.run_in_steps(3600 * 3, 20);
        prop_assert!(w.etcd.keys.is_empty(), "{:?}", w.etcd.keys);
        // A restart forgets what went out in the hour before it; only a core that lives keeps the limit.
        let all = w.mails.iter().flat_map(|(_, m)| if m.parts.is_empty() { std::slice::from_ref(m) } else { &m.parts[..] });
        let mut open: BTreeMap<&str, u32> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for m in all {
            let n = open.entry(m.key.as_str()).or_default();
            match m.kind {
                Kind::Begin => *n += 1,
                Kind::End if m.notes.iter().any(|n| n.starts_with("Its begin")) => {}
                Kind::End => {
                    // Who has died with a message in hand tells it late, after what another node told meanwhile.
                    prop_assert!(*n > 0 || etcd_fails || dies, "an end without a begin: {}", m.title);
                    *n = n.saturating_sub(1);
                }
                _ => {}
            }
            prop_assert!(*n <= 1 || etcd_fails || dies, "told twice: {}", m.title);
            let again = m.kind == Kind::Begin && !ids.insert(m.id());
            prop_assert!(!again || etcd_fails, "the same begin twice: {}", m.title);
        }
        let last = w.mails.iter().rev().flat_map(|(_, m)| [m].into_iter().chain(m.parts.iter().rev()));
        let last = last.filter(|m| m.key == "web/no-standby").map(|m| m.kind).next();
        prop_assert!(last == Some(Kind::End), "what lasted for hours has been told with its end: {last:?}");
    }

    #[test]
    fn never_more_than_the_limit(seconds in proptest::collection::vec(0u64..400, 1..60), most in 1u32..12) {
        let mut w = World::new(&["alpha"], |s| s.max_per_hour = most);
        for s in seconds {
            w.run(s);
            w.look(&[news(w.now.0), News { local: true, ..news(w.now.0 + 1) }]);
        }
        w.run_in_steps(3600, 20);
        most_per_hour(&w.mails, most as usize);
    }
}
