//! What the live view shows on three sizes of terminal, held by golden files, what keys do, and how the feed goes on
//! when an agent dies.

use super::feed::{self, Update};
use super::model::{Dialog, Effect, Item, Key, Model, consequences};
use super::*;
use crate::api::fake::Fake;
use crate::api::{ApiState, serve};
use crate::cli::fixture;
use crate::status::{ClusterStatus, GroupState, NodeMode, Takeover, TakeoverStep};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;
use std::collections::BTreeMap;
use std::sync::Arc;

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (60, 20)];

fn model(status: ClusterStatus) -> (Model, Instant) {
    let now = Instant::now();
    let mut model = Model::new(now);
    let mut other = fixture::healthy();
    other.node = fixture::node("beta");
    other.nodes[0].longest_gap_ms = 640;
    other.nodes[0].age_ms = Some(33);
    model.apply(
        Update::Status { status: Box::new(status), from: "http://10.77.0.11:7480".into(), live: true },
        now,
    );
    model.apply(Update::Events(fixture::history()), now);
    model.apply(Update::Others(BTreeMap::from([(fixture::node("beta"), other)])), now);
    (model, now)
}

fn screen(model: &Model, now: Instant, (width, height): (u16, u16), color: bool) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, model, now, color)).unwrap();
    terminal.backend().clone()
}

fn text(screen: &TestBackend) -> String {
    // TestBackend quotes each line.
    let lines = screen.to_string();
    lines.lines().map(|l| l.trim_matches('"').trim_end().to_owned() + "\n").collect()
}

fn golden(name: &str, model: &Model, now: Instant) {
    for (width, height) in SIZES {
        let shown = text(&screen(model, now, (width, height), true));
        let path = format!("{}/src/cli/golden/watch-{name}-{width}x{height}.txt", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("BATON_UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &shown).unwrap();
        }
        let held = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(shown, held, "{name} differs from {path}");
    }
}

#[test]
fn overviews() {
    let (healthy, now) = model(fixture::healthy());
    golden("healthy", &healthy, now);
    let (resyncing, now) = model(fixture::resyncing());
    golden("resyncing", &resyncing, now);
    let (verifying, now) = model(fixture::verifying());
    golden("verifying", &verifying, now);
    let (down, now) = model(fixture::down());
    golden("down", &down, now);
    let (maintained, now) = model(fixture::maintained());
    golden("maintenance", &maintained, now);
    let (mut many, now) = model(fixture::large(40));
    many.on_key(Key::End);
    golden("many", &many, now);
}

#[test]
fn a_running_takeover_shows_its_steps() {
    let mut status = fixture::healthy();
    status.groups[0].state = GroupState::Starting;
    let (mut model, now) = model(status.clone());
    let step = |step: &str, ms| TakeoverStep { step: step.into(), ms, ..TakeoverStep::default() };
    status.groups[0].under_way = Some(Takeover {
        kind: "takeover".into(),
        steps: vec![step("detect", 1502), step("decide", 14), step("volumes", 35)],
        ..Takeover::default()
    });
    // The other node carries it out, and tells.
    model.apply(Update::Others(BTreeMap::from([(fixture::node("beta"), status)])), now);
    golden("takeover", &model, now);
}

#[test]
fn a_lost_agent_leaves_the_picture_with_its_age() {
    let (mut lost, began) = model(fixture::healthy());
    lost.apply(Update::Trouble("10.77.0.11:7480: connection refused".into()), began);
    let later = began + Duration::from_secs(7);
    golden("lost", &lost, later);
    let mut status = fixture::healthy();
    status.node = fixture::node("beta");
    lost.apply(
        Update::Status { status: Box::new(status), from: "http://10.77.0.12:7480".into(), live: false },
        later,
    );
    let shown = text(&screen(&lost, later, (80, 24), false));
    assert!(shown.contains("Lost 10.77.0.11:7480: connection refused. Now seen by beta."), "{shown}");

    let mut nothing = Model::new(began);
    nothing.apply(Update::Trouble("10.77.0.11:7480: connection refused".into()), began);
    let shown = text(&screen(&nothing, later, (80, 24), false));
    assert!(shown.contains("No agent has answered for 7 s: 10.77.0.11:7480"), "{shown}");
}

#[test]
fn dialogs() {
    let (mut m, now) = model(fixture::resyncing());
    m.on_key(Key::Char('?'));
    golden("help", &m, now);
    m.on_key(Key::Escape);
    m.on_key(Key::End);
    m.on_key(Key::Char('m'));
    golden("move", &m, now);
    m.on_key(Key::Char('n'));
    m.on_key(Key::Enter);
    golden("group", &m, now);
    m.on_key(Key::Escape);
    m.on_key(Key::Home);
    m.on_key(Key::Char('s'));
    golden("standby", &m, now);
}

#[test]
fn any_size_is_drawn_and_without_colours_there_are_none() {
    for status in [fixture::healthy(), fixture::down(), fixture::large(100)] {
        let status = fixture::renamed(&status, |name| name.to_owned() + &"-x".repeat(25));
        let (mut m, now) = model(status);
        for key in [Key::Down, Key::Enter, Key::Escape, Key::End, Key::Char('m'), Key::Enter, Key::Char('?')]
        {
            m.on_key(key);
            for size in [(1, 1), (10, 3), (40, 8), (41, 9), (60, 20), (109, 30), (110, 30), (300, 90)] {
                let plain = screen(&m, now, size, false);
                let colored =
                    plain.buffer().content.iter().any(|c| c.fg != Color::Reset || c.bg != Color::Reset);
                assert!(!colored, "{key:?} at {size:?}");
                screen(&m, now, size, true);
            }
        }
    }
}

#[test]
fn a_move_needs_a_y_and_says_what_it_means() {
    let (mut m, _) = model(fixture::healthy());
    assert_eq!(m.on_key(Key::Char('m')), Effect::None);
    assert!(m.note.as_ref().unwrap().contains("Select a group"), "a host is selected: {:?}", m.note);
    m.on_key(Key::End);
    assert_eq!(m.item(), Some(Item::Group(fixture::group("web"))));
    for key in [Key::Char('m'), Key::Enter, Key::Char('x'), Key::Char(' ')] {
        assert_eq!(m.on_key(key), Effect::None, "{key:?} does not confirm");
        assert!(matches!(m.dialog, Some(Dialog::Confirm { .. })));
    }
    m.on_key(Key::Char('n'));
    assert_eq!((m.on_key(Key::Char('y')), &m.dialog), (Effect::None, &None), "nothing is asked any more");
    m.on_key(Key::Char('m'));
    let wanted = Action::Move { group: fixture::group("web"), to: fixture::node("beta") };
    assert_eq!(m.on_key(Key::Char('y')), Effect::Do(wanted.clone()));

    let said = |status: &ClusterStatus, action: &Action| consequences(status, action).join(" ");
    assert!(said(&fixture::healthy(), &wanted).contains("stopped on alpha and started on beta"));
    assert!(said(&fixture::resyncing(), &wanted).contains("the agents will refuse"));
    let standby = |node| Action::Mode { node: fixture::node(node), mode: NodeMode::Standby };
    assert!(said(&fixture::healthy(), &standby("alpha")).contains("started on beta"));
    assert!(said(&fixture::healthy(), &standby("beta")).contains("Group web will have no standby."));
    assert!(said(&fixture::resyncing(), &standby("alpha")).contains("no other node"));
}

#[test]
fn with_three_nodes_the_target_is_chosen_and_the_selection_stays_with_its_item() {
    let (mut m, now) = model(fixture::large(5));
    m.on_key(Key::End);
    m.on_key(Key::Char('m'));
    assert!(matches!(&m.dialog, Some(Dialog::Choose { nodes, .. }) if nodes.len() == 2), "{:?}", m.dialog);
    m.on_key(Key::Down);
    m.on_key(Key::Enter);
    let to = fixture::node("gamma");
    assert_eq!(m.on_key(Key::Char('y')), Effect::Do(Action::Move { group: fixture::group("shop-004"), to }));

    let mut fewer = fixture::large(5);
    fewer.groups.remove(0);
    m.apply(Update::Status { status: Box::new(fewer), from: "x".into(), live: true }, now);
    assert_eq!(m.item(), Some(Item::Group(fixture::group("shop-004"))));
}

/// The feed against real agents' routers: the first one dies, the second one goes on.
#[tokio::test]
async fn the_feed_goes_to_the_next_address() {
    let mut urls = Vec::new();
    let mut servers = Vec::new();
    for node in ["alpha", "beta"] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        urls.push(format!("http://{}", listener.local_addr().unwrap()));
        let mut status = fixture::healthy();
        status.node = fixture::node(node);
        let (sender, receiver) = tokio::sync::watch::channel(status);
        let state = ApiState::new(receiver, Arc::new(Fake::default()));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, state, async move { drop(stopped.await) }));
        servers.push((sender, stop, server));
    }
    let client = ApiClient::new(&urls).unwrap();
    let (mut feed, mut updates) = feed::start(&client, Duration::from_millis(20));
    let mut next = async |what: fn(&Update) -> Option<String>| {
        tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                let update = updates.recv().await.expect("the feed goes on");
                if let Some(found) = what(&update) {
                    return found;
                }
            }
        })
        .await
        .expect("in time")
    };
    let from = |u: &Update| match u {
        Update::Status { status, .. } => Some(status.node.to_string()),
        _ => None,
    };
    assert_eq!(next(from).await, "alpha");
    assert_eq!(next(|u| matches!(u, Update::Events(e) if e.len() == 3).then(String::new)).await, "");
    let (_, stop, server) = servers.remove(0);
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    let why = next(|u| match u {
        Update::Trouble(why) => Some(why.clone()),
        _ => None,
    })
    .await;
    assert!(why.starts_with("127.0.0.1:"), "{why}");
    assert_eq!(next(from).await, "beta");
    assert_eq!(feed.agent().bases(), &urls[1..]);
}
