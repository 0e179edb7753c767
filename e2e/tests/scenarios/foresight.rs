//! What `baton what-if` foresees is what then happens, and the timeline that it leaves.

use baton_e2e::faults;
use baton_e2e::scenario::{Scenario, scenario};
use serde_json::Value;
use std::time::Duration;

/// A takeover that takes longer than this is none.
const TAKEOVER: Duration = Duration::from_secs(30);
/// Between what is foreseen and what was measured on two busy cores, for the time until a new leader is entitled.
const OFF: Duration = Duration::from_millis(500);
/// The first good answer of a check is looked for so long after a takeover, and written to the history.
const WHOLE_TIMELINE: Duration = Duration::from_secs(75);

fn ask(t: &Scenario, host: &str, path: &str) -> Value {
    let answer = t.ask(host, path).unwrap_or_else(|e| panic!("{path}: {e:#}"));
    serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn what_is_foreseen_happens() {
    scenario("what is foreseen happens", |t, leader| {
        let other = t.config.other(leader);
        let etcd = ask(t, &other, "/v1/what-if?down=etcd");
        t.expect(
            "without etcd nothing moves",
            etcd["groups"][0]["verdict"] == "goes_on",
            &etcd["groups"][0]["summary"],
        );
        let both = ask(t, &other, &format!("/v1/what-if?down={leader},etcd"));
        t.expect(
            "without both it stops",
            both["groups"][0]["verdict"] == "stops",
            &both["groups"][0]["summary"],
        );
        let seen = ask(t, &other, &format!("/v1/what-if?down={leader}"));
        let web = &seen["groups"][0];
        t.tell("foreseen", &web["summary"]);
        t.expect("the standby is to take over", web["after"] == other.as_str(), web);
        let leads = web["leads_ms"].as_u64().unwrap_or_default();

        faults::power_cut(t, leader).unwrap_or_else(|e| panic!("{e:#}"));
        t.wait_for("a takeover", TAKEOVER, |view| match view.serving() {
            Some(host) if host == other => Ok(()),
            host => Err(format!("{host:?} serves")),
        });
        let timeline = t.wait_for("its timeline", WHOLE_TIMELINE, |_| {
            let history = t.ask(&other, "/v1/events?n=50").map_err(|e| format!("{e:#}"))?;
            let history: Value = serde_json::from_slice(&history.body).map_err(|e| e.to_string())?;
            let epoch = t.epoch_of(&other);
            let found = history
                .as_array()
                .into_iter()
                .flatten()
                .rev()
                .find(|e| e["takeover"]["epoch"]["number"] == epoch);
            found.map(|e| e["takeover"].clone()).ok_or_else(|| "no timeline in the history".to_owned())
        });
        let steps: Vec<&Value> = timeline["steps"].as_array().into_iter().flatten().collect();
        let at = |name: &str| steps.iter().find(|s| s["step"] == name).and_then(|s| s["at_ms"].as_u64());
        t.tell("timeline", &timeline);
        for step in ["detect", "decide", "wait", "volumes", "addresses", "services"] {
            t.expect(&format!("the timeline has {step}"), at(step).is_some(), &timeline);
        }
        let led = at("wait").unwrap_or_default();
        let off = Duration::from_millis(led.abs_diff(leads));
        t.at_most(&format!("it led after {led} ms, foreseen {leads}: off by"), off, OFF);
        let page = t.baton_at(&other, &["events", "--last-takeover"]).unwrap_or_else(|e| panic!("{e:#}"));
        t.expect("'baton events --last-takeover' is a table", page.text().contains("STEP"), page.text());
        let healthy = t.heal();
        t.tell("leader afterwards", healthy);
    });
}
