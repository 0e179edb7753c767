//! What the operator sees, held by golden files (`BATON_UPDATE_GOLDEN=1` writes them; read the diff).

use super::*;
use crate::cli::paint::WIDTH;
use clap::Parser;

fn golden(name: &str, text: &str) {
    let path = format!("{}/src/cli/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BATON_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let held = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, held, "{name} differs from {path}");
    for line in text.lines() {
        assert!(line.chars().count() <= WIDTH, "{name}: longer than {WIDTH}: {line}");
        assert_eq!(line, line.trim_end(), "{name}: spaces at the end");
    }
}

const PLAIN: Paint = Paint { color: false };

#[test]
fn status_pages() {
    golden("status-healthy", &render_status(&fixture::healthy(), PLAIN));
    golden("status-resyncing", &render_status(&fixture::resyncing(), PLAIN));
    golden("status-down", &render_status(&fixture::down(), PLAIN));
    let timers = crate::basis::TimersStatus::of_spec(&crate::spec::Timers::of(crate::spec::Profile::Fast));
    let fast = crate::status::ClusterStatus { timers, ..fixture::healthy() };
    golden("status-profile-fast", &render_status(&fast, PLAIN));
    let mut overdue = fixture::maintained();
    overdue.nodes[1].mode_note.as_mut().unwrap().expired = true;
    golden("status-maintenance", &render_status(&overdue, PLAIN));
}

#[test]
fn many_groups_get_a_line_each_and_the_troubled_ones_more() {
    let status = fixture::large(12);
    golden("status-many", &render_status(&status, PLAIN));
    let parts = status_page::Parts { detail: status_page::Detail::Compact, ..Default::default() };
    golden("status-compact", &status_page::render_parts(&status, parts, PLAIN));
    let mut worst = fixture::large(50);
    worst.groups[3].state = crate::status::GroupState::Failed;
    worst.groups[3].reason = "mysql does not start: exit code 1".into();
    let text = render_status(&worst, PLAIN);
    assert!(text.contains("2 more groups need attention"), "{text}");
    assert!(text.contains("shop-003  failed   alpha"), "{text}");
}

#[test]
fn nodes_groups_and_explanations() {
    let status = fixture::resyncing();
    golden("nodes", &status_page::render_nodes(&status, 0, PLAIN));
    golden("node-show", &status_page::render_node(&status, &status.nodes[1], PLAIN));
    golden("node-show-here", &status_page::render_node(&status, &status.nodes[0], PLAIN));
    let mut refused = status.nodes[0].clone();
    if let Some(memory) = &mut refused.replicator_memory {
        (memory.locked, memory.io_flusher) = (false, false);
    }
    golden("node-show-refused", &status_page::render_node(&status, &refused, PLAIN));
    let status = fixture::maintained();
    golden("node-show-maintenance", &status_page::render_node(&status, &status.nodes[1], PLAIN));
    let status = fixture::resyncing();
    golden("groups", &status_page::render_groups(&status.groups, 0, PLAIN));
    for (name, status) in
        [("healthy", fixture::healthy()), ("resyncing", fixture::resyncing()), ("down", fixture::down())]
    {
        let explained = explain::explain(&status, &status.groups[0]);
        golden(&format!("explain-{name}"), &explain::render(&explained, PLAIN));
    }
}

#[test]
fn forecasts() {
    for (name, down) in [("alpha", "alpha"), ("both", "beta,etcd"), ("link", "link")] {
        let status = fixture::healthy();
        let faults = crate::whatif::Fault::list(down, &status).unwrap();
        let seen = crate::whatif::foresee(&status, &faults, None, &[]).unwrap();
        golden(&format!("what-if-{name}"), &whatif_page::render(&seen, name != "link", PLAIN));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    /// Whatever things are called (names have up to 63 characters), every page fits 80 columns.
    #[test]
    fn every_page_fits_whatever_the_names(
        pad in "[a-z0-9]([a-z0-9-]{0,52}[a-z0-9])?",
        reason in "[a-z:/ ]{0,300}",
        which in 0..5_usize,
    ) {
        let status = [fixture::healthy(), fixture::resyncing(), fixture::down(), fixture::large(9), fixture::maintained()][which].clone();
        let mut status = fixture::renamed(&status, |name| format!("{name}{pad}"));
        status.cluster = format!("c{pad}");
        status.advice.push(reason.clone());
        if let Some(note) = &mut status.nodes[1].mode_note {
            (note.reason, note.owner) = (reason.clone(), pad.clone());
        }
        for group in &mut status.groups {
            group.reason.clone_from(&reason);
            group.target = Some(fixture::node(&format!("t{pad}")));
            group.addresses = vec![format!("fd00:{}::1/64", &pad[..pad.len().min(4)]); 5];
            group.nodes[1].reason = format!("because of {pad} {reason}");
            for service in &mut group.services {
                service.error = Some(reason.clone());
            }
        }
        let parts = |detail| status_page::Parts { detail, ..Default::default() };
        let mut pages = vec![
            status_page::render_parts(&status, parts(status_page::Detail::Auto), PLAIN),
            status_page::render_parts(&status, parts(status_page::Detail::Full), PLAIN),
            status_page::render_parts(&status, parts(status_page::Detail::Compact), PLAIN),
            status_page::render_nodes(&status, 0, PLAIN),
            status_page::render_groups(&status.groups, 0, PLAIN),
        ];
        pages.extend(status.nodes.iter().map(|node| status_page::render_node(&status, node, PLAIN)));
        for group in &status.groups {
            pages.push(explain::render(&explain::explain(&status, group), PLAIN));
            pages.push(render_list(&group.volumes, PLAIN));
            pages.extend(group.volumes.iter().map(|volume| render_show(volume, PLAIN)));
        }
        let mut events = fixture::history();
        events[0].node = fixture::node(&format!("n{pad}"));
        events[0].message.push_str(&reason);
        pages.extend(events.iter().map(|event| render_event(event, PLAIN)));
        for page in pages {
            for line in page.lines() {
                proptest::prop_assert!(line.chars().count() <= WIDTH, "{line}\n in\n{page}");
            }
        }
    }
}

#[test]
fn colours_change_nothing_but_colours() {
    for status in [fixture::healthy(), fixture::resyncing(), fixture::down()] {
        let colored = render_status(&status, Paint { color: true });
        assert!(colored.contains("\x1b["));
        let mut stripped = String::new();
        let mut rest = colored.as_str();
        while let Some(at) = rest.find("\x1b[") {
            stripped.push_str(&rest[..at]);
            rest = &rest[at..];
            rest = &rest[rest.find('m').unwrap() + 1..];
        }
        stripped.push_str(rest);
        assert_eq!(stripped, render_status(&status, PLAIN));
    }
}

#[test]
fn volume_pages() {
    let volume = fixture::resyncing().groups.remove(0).volumes.remove(0);
    let down = fixture::down().groups.remove(0).volumes.remove(0);
    golden("volume-list", &render_list(&[volume.clone(), down.clone()], PLAIN));
    golden("volume-show", &render_show(&volume, PLAIN));
    golden("volume-show-down", &render_show(&down, PLAIN));
    let growth = baton_replicator::api::GrowthStatus {
        from_bytes: 1 << 30,
        to_bytes: 2 << 30,
        waits: "beta's replica has room for 1073741824 bytes, 2147483648 are needed".into(),
    };
    let growing = baton_replicator::api::VolumeStatus { growth: Some(growth), ..volume.clone() };
    let text = render_show(&growing, PLAIN);
    assert!(text.contains("grows: 1.00 GiB to 2.00 GiB: beta's replica has room for"), "{text}");
    assert!(render_list(&[], PLAIN).contains("no replicated volume"));
}

#[test]
fn sync_bars() {
    use baton_replicator::api::ResyncProgress;
    let bar = |done: u64, total: u64| {
        sync_bar(&ResyncProgress {
            total_bytes: total,
            done_bytes: done,
            bytes_per_s: 1 << 20,
            eta_s: Some(3661),
            ..ResyncProgress::default()
        })
    };
    let mut text = String::new();
    for (done, total) in
        [(0, 1 << 30), (1 << 29, 1 << 30), ((1 << 30) - 1, 1 << 30), (1 << 30, 1 << 30), (9, 4), (0, 0)]
    {
        text += &format!("{}\n", bar(done, total));
    }
    let still = ResyncProgress { total_bytes: 4096, ..ResyncProgress::default() };
    for still in [
        still,
        ResyncProgress { stalled_s: 12, ..still },
        ResyncProgress { paused: true, spared_bytes: 1 << 30, ..still },
    ] {
        text += &format!("{}\n      {}\n", sync_bar(&still), volume_page::sync_more(&still));
    }
    golden("sync-bars", &text);
}

#[test]
fn events_page() {
    let mut history = fixture::history();
    history[0].message += ", which is longer than warntime (500 ms); its heartbeats stopped on every link";
    let text: String = history.iter().map(|event| render_event(event, PLAIN)).collect();
    golden("events", &text);
}

#[test]
fn help_names_every_exit_code() {
    Cli::command().debug_assert();
    let help = Cli::command().render_help().to_string();
    for code in [
        Exit::Ok,
        Exit::Failed,
        Exit::Usage,
        Exit::Degraded,
        Exit::Down,
        Exit::Unreachable,
        Exit::Timeout,
        Exit::Denied,
    ] {
        assert!(help.contains(&format!("\n  {}  ", code as u8)), "{code:?} is not in\n{help}");
    }
}

#[test]
fn several_addresses_are_taken_with_or_without_a_scheme() {
    let cli =
        Cli::try_parse_from(["baton", "status", "--api", "alpha:7480,http://10.77.0.12:7480/"]).unwrap();
    assert_eq!(cli.api, ["alpha:7480", "http://10.77.0.12:7480/"]);
    assert_eq!(cli.client_options().endpoints().unwrap().len(), 2);
    for bad in ["", "ftp://alpha:7480", "http://"] {
        let error = ApiClient::new(&[bad.to_owned()]).unwrap_err();
        assert_eq!(error.exit, Exit::Usage, "{bad}: {error}");
    }
}

#[test]
fn targets_of_notifications() {
    golden("notify-list", &notify_page::render(&fixture::targets(), PLAIN));
}
