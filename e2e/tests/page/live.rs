//! What the page does when things change, and when nobody tells it anything.

use crate::{Bench, snapshots};
use baton_e2e::browser::DESKTOP;
use serde_json::json;

#[tokio::test]
async fn a_change_is_shown_without_reloading_and_announced() {
    Bench::run("live", DESKTOP, async |bench| {
        bench.open().await?;
        bench.browser.run("window.notReloaded = true; document.querySelector('[data-group=web] .opener').focus()").await?;
        bench.agent.say(snapshots::on_beta());
        bench.until("the address sits on beta", "!!document.querySelector('[data-node=beta] .vip') && !document.querySelector('[data-node=alpha] .vip')").await;
        bench.until("it is announced", "document.getElementById('said').textContent.includes('beta now leads web.')").await;
        assert_eq!(bench.browser.run("return window.notReloaded === true").await?, json!(true));
        let kept = bench.text("return document.activeElement.innerText").await?;
        assert_eq!(kept.trim(), "web", "the focus stays where it was");
        // A new event is there at once: the change made the page look.
        let event = json!({"n": 6, "at": "2026-11-21T03:01:00Z", "node": "beta", "group": "web", "volume": null, "severity": "info", "message": "group web was handed to beta"});
        bench.agent.script().events.push(event);
        bench.agent.say(snapshots::resyncing());
        bench.shows("group web was handed to beta").await;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_verify_is_seen_as_it_goes_on() {
    Bench::run("verify", DESKTOP, async |bench| {
        bench.agent.say(snapshots::verifying());
        bench.open().await?;
        let bars = "[...document.querySelectorAll('[role=progressbar][aria-label^=\"Verify of webstore\"]')]";
        // Between the hosts and at the volume, as a resync.
        bench
            .until(
                "two bars",
                &format!("{bars}.map((b) => b.getAttribute('aria-valuenow')).join() === '28,28'"),
            )
            .await;
        for text in [
            "Verify of webstore, with repair",
            "Verify against beta, with repair",
            "28.1 %",
            "288 MiB of 1 GiB",
            "15 MiB/s",
            "49 s left",
            "8 KiB differ, 4 KiB copied",
        ] {
            bench.shows(text).await;
        }
        bench.agent.change(|s| {
            let verify = &mut s["groups"][0]["volumes"][0]["verify"];
            (verify["checked_bytes"], verify["repaired_bytes"]) = (json!(920_000_000), json!(8192));
        });
        bench
            .until(
                "they go on",
                &format!("{bars}.map((b) => b.getAttribute('aria-valuenow')).join() === '85,85'"),
            )
            .await;
        bench.shows("8 KiB differ, 8 KiB copied").await;
        bench.agent.change(|s| {
            let verify = &mut s["groups"][0]["volumes"][0]["verify"];
            (verify["state"], verify["checked_bytes"]) = (json!("done"), json!(1_u64 << 30));
        });
        bench.until("no bar", &format!("{bars}.length === 0")).await;
        bench.shows("Last verify against beta, with repair").await;
        bench.shows("8 KiB differed, 8 KiB copied").await;
        // Without repair what differs stays, and the page says what mends it.
        bench.agent.change(|s| s["groups"][0]["volumes"][0]["verify"]["repaired_bytes"] = json!(0));
        bench.shows("8 KiB differ: verify with repair copies the primary’s").await;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_lost_agent_is_said_so_and_found_again() {
    Bench::run("lost", DESKTOP, async |bench| {
        // The other agent is at an address that answers nobody.
        bench.agent.change(|s| s["nodes"][1]["address"] = json!("127.0.0.99"));
        bench.open().await?;
        bench.until("live", "document.querySelector('.fresh .word').innerText === 'live'").await;
        bench.agent.die().await;
        bench.until("it says so", "document.querySelector('#lost-title')?.innerText === 'Agent lost'").await;
        bench.until("the headline is not the old one", "document.getElementById('health').innerText === 'Not known at the moment'").await;
        bench.until("the rest is marked", "document.getElementById('main').className === 'stale'").await;
        bench.until("it is announced", "document.getElementById('urgent').textContent.includes('alpha does not answer')").await;
        bench.until("the other agent was asked", "document.querySelector('.others')?.innerText.includes('does not answer')").await;
        let port = bench.agent.url("").rsplit_once(':').unwrap().1.to_owned();
        let link = bench.text("return document.querySelector('.others a').href").await?;
        assert_eq!(link, format!("http://127.0.0.99:{port}/ui/"));
        bench.until("no action is offered", "[...document.querySelectorAll('.host footer button')].every((b) => b.getAttribute('aria-disabled') === 'true')").await;
        bench.agent.come_back().await;
        bench.until("it is back by itself", "!document.querySelector('#lost-title') && document.getElementById('main').className === '' && document.getElementById('health').innerText === 'All is well'").await;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_repeats_itself_is_not_fresh() {
    Bench::run("hangs", DESKTOP, async |bench| {
        bench.open().await?;
        bench.agent.script().hangs = true;
        bench
            .until(
                "it says so",
                "document.querySelector('#lost-title')?.innerText === 'The agent stands still'",
            )
            .await;
        bench
            .until(
                "the headline is not the old one",
                "document.getElementById('health').innerText === 'Not known at the moment'",
            )
            .await;
        bench.agent.script().hangs = false;
        bench.until("it goes on", "document.getElementById('health').innerText === 'All is well'").await;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn without_a_stream_the_page_polls() {
    Bench::run("polling", DESKTOP, async |bench| {
        bench.agent.script().streams = false;
        bench.open().await?;
        bench.until("polling", "document.querySelector('.fresh .word').innerText === 'polling'").await;
        bench.agent.say(snapshots::resyncing());
        bench.shows("but no standby could take over").await;
        assert_eq!(bench.browser.complaints().await?, Vec::<String>::new());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn whoever_wants_no_motion_gets_none() {
    Bench::run("motion", DESKTOP, async |bench| {
        bench.agent.say(snapshots::resyncing());
        bench.open().await?;
        let moving = "document.getAnimations().filter((a) => a.playState === 'running').length";
        bench.until("the links flow", &format!("{moving} > 0")).await;
        bench.browser.prefers(&[("prefers-reduced-motion", "reduce")]).await?;
        bench.until("nothing moves", &format!("{moving} === 0")).await;
        Ok(())
    })
    .await;
}
