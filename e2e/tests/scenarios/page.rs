//! The web page on real agents: everything that can be asked from it, asked from it, and seen in it and in `baton status`.

use crate::MOVE_BESIDE;
use baton_e2e::browser::{self, Browser, DESKTOP};
use baton_e2e::cluster::WHOLE;
use baton_e2e::config::{API_PORT, VOLUME};
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::shell::one_line;
use baton_e2e::{replicas, report};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// The page shows what the agents know: a snapshot comes four times a second, and the browser shares the processor.
const SHOWN: Duration = Duration::from_secs(10);
/// A move, with the start of the services, and its way to the page.
const MOVED: Duration = Duration::from_secs(30);

/// Why somebody changes a mode.
const REASON: &str = "a test of the page";
/// A verify of the demo's volume of 1 GiB at the floor of 4 MiB/s, and a little more.
const VERIFIED: Duration = Duration::from_secs(280);
/// What `baton status` says of the planted difference when it is mended.
const REPAIRED: &str = "4.00 KiB differed, 4.00 KiB repaired";
/// The page hears of a verify about once a second: in this time several times.
const SEVERAL_NEWS: Duration = Duration::from_secs(8);

#[test]
fn a_handover_from_the_page() {
    on_page("handover from the page", handover);
}

#[test]
fn modes_from_the_page() {
    on_page("modes from the page", modes);
}

#[test]
fn a_verify_with_repair_from_the_page() {
    on_page("verify from the page", verify);
}

#[test]
fn each_role_on_the_page() {
    on_page("roles on the page", roles);
}

fn on_page(name: &'static str, body: impl AsyncFn(&Scenario, &str) -> anyhow::Result<()>) {
    if std::env::var_os("BATON_E2E").is_some() && !browser::available(name) {
        return;
    }
    scenario(name, |t, leader| {
        baton_operator::security::use_ring();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.unwrap_or_else(|e| panic!("{e}"));
        runtime.block_on(body(t, leader)).unwrap_or_else(|e| panic!("{e:#}"));
    });
}

async fn handover(t: &Scenario, leader: &str) -> anyhow::Result<()> {
    let other = t.config.other(leader);
    let page = Browser::start(DESKTOP).await?;
    // From the standby's page: it has to hear of everything from elsewhere.
    open(t, &page, &other, "operator").await?;
    let sits_on = |host: &str| format!("!!document.querySelector('[data-node={host}] .vip')");
    page.until("the address sits on the leader", SHOWN, &sits_on(leader)).await;
    page.until("all is well", SHOWN, "document.getElementById('health').innerText === 'All is well'").await;
    page.until("it is live", SHOWN, "document.querySelector('.fresh .word').innerText === 'live'").await;
    page.until("the charts have values", SHOWN, "document.querySelectorAll('.plot').length > 0").await;
    page.run("window.notReloaded = true; window.seen = []; new MutationObserver(() => { const word = document.querySelector('[data-group=web] .chip')?.innerText; if (word && window.seen.at(-1) !== word) window.seen.push(word); }).observe(document.getElementById('main'), { subtree: true, childList: true, characterData: true });").await?;
    let prober = t.prober();
    let begin = Instant::now();
    page.run("[...document.querySelectorAll('button')].find((b) => b.getAttribute('aria-label') === 'Move web').click()").await?;
    page.until("what follows is said", SHOWN, "document.querySelector('dialog .consequence li') !== null")
        .await;
    let says = page.run("return document.querySelector('dialog').innerText").await?;
    t.tell("what the page says before", says.as_str().unwrap_or_default().replace('\n', " | "));
    let asked = Instant::now();
    page.run("document.querySelector('[data-confirm]').click()").await?;
    let there = format!(
        "{} && !({}) && document.querySelector('[data-group=web] .leader-name').innerText === '{other}'",
        sits_on(&other),
        sits_on(leader)
    );
    page.until("the address sits on the other host", MOVED, &there).await;
    t.tell("confirmed until the page shows the address there", baton_e2e::report::ms(asked.elapsed()));
    page.until(
        "it serves there",
        MOVED,
        "document.querySelector('[data-group=web] .chip').innerText === 'serving'",
    )
    .await;
    t.tell("confirmed until the page shows it serving", baton_e2e::report::ms(asked.elapsed()));
    for said in [format!("{other} now leads web"), format!("web is serving on {other}")] {
        heard(&page, &format!("text.includes('{said}')")).await;
    }
    let kept = page.run("return window.notReloaded === true").await?;
    t.expect("without reloading", kept == serde_json::json!(true), kept);
    let seen = page.run("return window.seen.join(', ')").await?;
    t.tell("states seen on the page", seen.as_str().unwrap_or_default());
    let now = t.wait_healthy(WHOLE);
    t.expect("the group is where the page was told to move it", now == other, &now);
    t.at_most("HTTP gap", prober.history().gap(begin, Instant::now()), MOVE_BESIDE);
    page.until(
        "the event is listed",
        SHOWN,
        "document.querySelector('.log').innerText.includes('asked for')",
    )
    .await;
    end(t, page).await
}

/// Standby, online and maintenance of the standby, then standby of the leader, which moves the group.
async fn modes(t: &Scenario, leader: &str) -> anyhow::Result<()> {
    let other = t.config.other(leader);
    let page = Browser::start(DESKTOP).await?;
    open(t, &page, leader, "operator").await?;
    let mut writer = t.writer("page-modes", None);
    let steps = [
        (&*other, "standby", "Set to standby"),
        (&*other, "online", "Set online"),
        (&*other, "maintenance", "Set to maintenance"),
        (&*other, "online", "Set online"),
        (leader, "standby", "Set to standby"),
        (leader, "online", "Set online"),
    ];
    for (host, mode, verb) in steps {
        if host == leader && mode == "standby" {
            let _ = t.wait_healthy(WHOLE);
        }
        let label =
            if mode == "online" { format!("Set {host} online") } else { format!("Set {host} to {mode}") };
        click(&page, &label).await?;
        page.until(
            "what follows is said",
            SHOWN,
            "document.querySelector('dialog .consequence li') !== null",
        )
        .await;
        if mode != "online" {
            page.run(&format!("const why = document.querySelector('dialog input[name=reason]'); why.value = '{REASON}'; why.dispatchEvent(new Event('input', {{ bubbles: true }}));")).await?;
        }
        page.run("window.heard.length = 0").await?;
        let asked = Instant::now();
        click(&page, verb).await?;
        let chip = format!("document.querySelector('[data-node={host}] .chip').innerText.includes('{mode}')");
        page.until(&format!("{host} is shown in mode {mode}"), SHOWN, &chip).await;
        t.tell(&format!("{host} {mode}: confirmed until the page shows it"), report::ms(asked.elapsed()));
        heard(&page, &format!("text.includes('{host} is set to {mode}')")).await;
        t.wait_for(&format!("mode {mode} in every status"), SHOWN, |view| {
            for of in view.of.keys() {
                if view.of(of)?.node(host)["mode"] != mode {
                    return Err(format!("{of} does not know it"));
                }
            }
            Ok(())
        });
        if mode != "online" {
            let note = t.status(host)?.node(host)["mode_note"].clone();
            t.expect("the reason given on the page is kept", note["reason"] == REASON, &note);
        }
        let status = t.baton_at(&other, &["status", "--full"])?.text();
        let line = status.lines().find(|line| line.trim_start().starts_with(host)).unwrap_or_default();
        t.expect("in baton status", line.contains(mode), line);
        if host == leader && mode == "standby" {
            let there = format!(
                "!!document.querySelector('[data-node={other}] .vip') && document.querySelector('[data-group=web] .chip').innerText === 'serving'"
            );
            page.until("the group serves on the other host", MOVED, &there).await;
            t.tell("confirmed until the page shows the group on the other host", report::ms(asked.elapsed()));
        }
    }
    let now = t.wait_healthy(WHOLE);
    t.expect("the group stayed where the standby of its leader moved it", now == other, &now);
    writer.wait_ack(Instant::now(), SHOWN);
    writer.stop();
    t.audit(&writer.journal());
    end(t, page).await
}

/// A byte that is flipped on the standby's disk is found and repaired from the page, and both are seen as it goes on.
async fn verify(t: &Scenario, leader: &str) -> anyhow::Result<()> {
    let other = t.config.other(leader);
    let page = Browser::start(DESKTOP).await?;
    open(t, &page, leader, "operator").await?;
    // In the last block, which the filesystem does not use: nothing overwrites it.
    let file = std::fs::OpenOptions::new().read(true).write(true).open(replicas::backing(t, &other)?)?;
    let at = file.metadata()?.len() - 1000;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 0x10], at)?;
    file.sync_all()?;
    drop(file);

    click(&page, &format!("Verify {VOLUME}")).await?;
    page.until("it can be ticked", SHOWN, "!!document.querySelector('dialog input[name=repair]')").await;
    page.run("document.querySelector('dialog input[name=repair]').click()").await?;
    page.until(
        "it says what repair means",
        SHOWN,
        "document.querySelector('dialog').innerText.includes('copied from the primary')",
    )
    .await;
    let bar = "document.querySelector('[data-volume] [role=progressbar][aria-label^=\"Verify of\"]')";
    page.run(&format!("window.values = []; setInterval(() => {{ const at = Number({bar}?.getAttribute('aria-valuenow') ?? NaN); if (at >= 0 && window.values.at(-1) !== at) window.values.push(at); }}, 100);")).await?;
    let asked = Instant::now();
    click(&page, "Verify and repair").await?;
    page.until("its bar was on the page", SHOWN, "window.values.length > 0").await;
    t.tell("confirmed until the page shows its bar", report::ms(asked.elapsed()));
    // The other host learns it from etcd, where it looks once a second: on a fast disk it may be over by then.
    let seen = t.wait_for("the verify in baton status of the other host", SHOWN, |_| {
        let status = status_of(t, &other)?;
        let found = ["verify: [", REPAIRED].into_iter().find(|said| status.contains(said));
        found.ok_or(status)
    });
    t.tell("in baton status of the other host", seen);
    page.until("its end", VERIFIED, "document.querySelector('[data-verify]')?.dataset.verify === 'done'")
        .await;
    let took = asked.elapsed();
    t.tell("a verify of 1 GiB, from the page", report::ms(took));
    let values = page.run("return window.values").await?;
    let values: Vec<u64> =
        values.as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64).collect();
    // A fast disk is done before the page hears of it twice.
    let seen = if took < SEVERAL_NEWS { 1 } else { 2 };
    let grows = values.len() >= seen && values.is_sorted();
    t.expect("the bar was seen to grow", grows, format!("{values:?}"));
    page.until(
        "found and repaired",
        SHOWN,
        "document.querySelector('[data-verify]').innerText.includes('4 KiB differed, 4 KiB copied')",
    )
    .await;
    // The primary writes it down in etcd within a second.
    t.wait_for("what came of it, in baton status of the other host", SHOWN, |_| {
        let status = status_of(t, &other)?;
        if status.contains(REPAIRED) { Ok(()) } else { Err(status) }
    });
    replicas::rest(t, leader);
    replicas::verify(t)?;
    let _ = t.heal();
    end(t, page).await
}

/// `baton status --full`, whose lines are folded, as one line.
fn status_of(t: &Scenario, host: &str) -> Result<String, String> {
    let status = t.baton_at(host, &["status", "--full"]).map_err(|e| format!("{e:#}"))?.text();
    Ok(one_line(&status))
}

/// A viewer does nothing, an operator does not recover, an admin does; each by logging in as somebody else.
async fn roles(t: &Scenario, leader: &str) -> anyhow::Result<()> {
    let epoch = t.epoch_of(leader);
    let page = Browser::start(DESKTOP).await?;
    open(t, &page, leader, "viewer").await?;
    let why = "Needs the role operator: you are viewer.";
    click(&page, &format!("Move web: not possible. {why}")).await?;
    heard(&page, &format!("text.trim() === '{why}'")).await;
    let enabled = "return [...document.querySelectorAll('.host footer button, .group .button')].filter((b) => b.getAttribute('aria-disabled') !== 'true').length";
    let enabled = page.run(enabled).await?;
    t.expect("a viewer is offered nothing", enabled == serde_json::json!(0), enabled);

    page.run("document.querySelector('.who').click()").await?;
    login(t, &page, leader, "operator").await?;
    click(&page, "Recover web: not possible. Needs the role admin: you are operator.").await?;
    click(&page, "Move web").await?;
    page.until(
        "an operator may move",
        SHOWN,
        "document.querySelector('[data-confirm]')?.getAttribute('aria-disabled') !== 'true'",
    )
    .await;
    click(&page, "Cancel").await?;

    page.run("document.querySelector('.who').click()").await?;
    login(t, &page, leader, "admin").await?;
    click(&page, "Recover web").await?;
    page.until("what it means", SHOWN, "document.querySelector('dialog .consequence li') !== null").await;
    click(&page, "Recover").await?;
    page.until("it was done", SHOWN, "!document.getElementById('dialog').open && document.getElementById('said').textContent.includes('trusts what etcd says about web')").await;
    page.until(
        "the event is listed",
        SHOWN,
        "document.querySelector('.log').innerText.includes('trusts what etcd says')",
    )
    .await;
    let events = t.baton(&["events", "-n", "20"])?;
    let events = one_line(&events);
    t.expect("in baton events", events.contains("trusts what etcd says about web"), events.len());
    let _ = t.wait_healthy(WHOLE);
    t.stayed("nothing moved", leader, epoch);
    end(t, page).await
}

/// Clicks a button by its accessible name; in the dialog if one is open.
async fn click(page: &Browser, name: &str) -> anyhow::Result<()> {
    let find = format!(
        "[...(document.querySelector('dialog[open]') ?? document).querySelectorAll('button')].find((b) => (b.getAttribute('aria-label') ?? b.innerText).trim() === {})",
        serde_json::json!(name)
    );
    page.until(&format!("there is a button '{name}'"), SHOWN, &format!("!!{find}")).await;
    page.run(&format!("{find}.click()")).await.map(drop)
}

/// Nothing was wrong with the page itself; ends the browser and withdraws its tokens.
async fn end(t: &Scenario, page: Browser) -> anyhow::Result<()> {
    // Being asked for a token is an answer of 401, which a browser complains about.
    let complaints: Vec<String> = page
        .complaints()
        .await?
        .into_iter()
        .filter(|c| !c.contains("401") && !c.contains("certificate"))
        // An agent that etcd does not answer within a second says so; the page asks again.
        .filter(|c| !c.contains(" 503 "))
        .collect();
    t.expect("no error in the console", complaints.is_empty(), complaints.join("; "));
    page.stop().await?;
    let all: serde_json::Value = serde_json::from_str(&t.baton(&["token", "list", "--json"])?)?;
    let ours = all.as_array().into_iter().flatten().filter(|token| token["name"] == "page-test");
    for id in ours.filter_map(|token| token["id"].as_str()) {
        t.baton(&["token", "revoke", id])?;
    }
    Ok(())
}

/// Opens a host's page and logs in.
async fn open(t: &Scenario, page: &Browser, host: &str, role: &str) -> anyhow::Result<()> {
    let address = t.config.host(host).address;
    page.driver.goto(format!("https://{address}:{API_PORT}/")).await?;
    login(t, page, host, role).await?;
    page.until("the page is there", SHOWN, "!!document.querySelector('#hosts-title')").await;
    page.run("window.heard = []; for (const id of ['said', 'urgent']) { const region = document.getElementById(id); new MutationObserver(() => window.heard.push(region.textContent)).observe(region, { subtree: true, childList: true, characterData: true }); }").await?;
    Ok(())
}

/// Waits until something was announced since the page was opened, or `heard` emptied. An announcement stands only until the next one.
async fn heard(page: &Browser, condition: &str) {
    let all = format!("window.heard.some((text) => {condition})");
    page.until("it was announced", SHOWN, &all).await;
}

/// Logs in as an operator would: with a token made on a host.
async fn login(t: &Scenario, page: &Browser, host: &str, role: &str) -> anyhow::Result<()> {
    page.until("it asks who we are", SHOWN, "!!document.querySelector('dialog[open] #token')").await;
    // Made at the agent whose page it is: others learn of it within a second.
    let made = t.baton_at(host, &["token", "create", "page-test", "--role", role])?;
    anyhow::ensure!(made.code == Some(0), "no token: {}", made.text());
    let script = format!(
        "document.getElementById('token').value = {}; document.querySelector('dialog form').requestSubmit()",
        serde_json::json!(made.stdout.trim())
    );
    page.run(&script).await?;
    let is = format!("document.querySelector('.who .role')?.innerText === '{role}'");
    page.until("who we are", SHOWN, &is).await;
    page.until("the dialog is closed", SHOWN, "!document.getElementById('dialog').open").await;
    Ok(())
}
