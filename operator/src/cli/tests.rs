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
        })
    };
    let mut text = String::new();
    for (done, total) in
        [(0, 1 << 30), (1 << 29, 1 << 30), ((1 << 30) - 1, 1 << 30), (1 << 30, 1 << 30), (9, 4), (0, 0)]
    {
        text += &format!("{}\n", bar(done, total));
    }
    text += &sync_bar(&ResyncProgress { total_bytes: 4096, done_bytes: 0, bytes_per_s: 0, eta_s: None });
    golden("sync-bars", &(text + "\n"));
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
    for code in
        [Exit::Ok, Exit::Failed, Exit::Usage, Exit::Degraded, Exit::Down, Exit::Unreachable, Exit::Timeout]
    {
        assert!(help.contains(&format!("\n  {}  ", code as u8)), "{code:?} is not in\n{help}");
    }
}

#[test]
fn several_addresses_are_taken_with_or_without_a_scheme() {
    let cli =
        Cli::try_parse_from(["baton", "status", "--api", "alpha:7480,http://10.77.0.12:7480/"]).unwrap();
    assert_eq!(cli.api, ["alpha:7480", "http://10.77.0.12:7480/"]);
    assert!(ApiClient::new(&cli.api).is_ok());
    for bad in ["", "https://alpha:7480", "http://"] {
        let error = ApiClient::new(&[bad.to_owned()]).unwrap_err();
        assert_eq!(error.exit, Exit::Usage, "{bad}: {error}");
    }
}
