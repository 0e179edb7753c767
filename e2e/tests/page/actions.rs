//! What the page asks of the agent, and what it does not.

use crate::{Bench, snapshots};
use baton_e2e::browser::DESKTOP;
use serde_json::{Value, json};
use std::time::Duration;

const DIALOG: &str = "document.getElementById('dialog').open";

impl Bench {
    /// Presses Tab until the control with this name has the focus; fails after a hundred.
    async fn tab_to(&self, name: &str) -> anyhow::Result<()> {
        let focused = "const f = document.activeElement; return (f?.getAttribute('aria-label') ?? (f?.innerText || f?.value || '')).trim()";
        let mut passed = Vec::new();
        for _ in 0..100 {
            self.browser.press(&["Tab"]).await?;
            let now = self.text(focused).await?;
            if now == name {
                return Ok(());
            }
            passed.push(now);
        }
        anyhow::bail!("the keyboard does not get to '{name}': {passed:?}")
    }

    async fn said(&self) -> anyhow::Result<String> {
        self.text("return document.getElementById('said').textContent + document.getElementById('urgent').textContent").await
    }
}

#[tokio::test]
async fn every_action_asks_what_it_says_and_says_what_it_means() {
    Bench::run("actions", DESKTOP, async |bench| {
        bench.open().await?;
        let steps = [
            (
                "Move web",
                "web is stopped on alpha and started on beta",
                "Move to beta",
                "POST",
                "/v1/groups/web/move",
                json!({"to": "beta"}),
            ),
            (
                "Set alpha to standby",
                "web moves to beta",
                "Set to standby",
                "PUT",
                "/v1/nodes/alpha/mode",
                json!({"mode": "standby"}),
            ),
            (
                "Set beta to maintenance",
                "Groups that run elsewhere cannot fail over to it.",
                "Set to maintenance",
                "PUT",
                "/v1/nodes/beta/mode",
                json!({"mode": "maintenance"}),
            ),
            (
                "Verify webstore",
                "Compares checksums of all 1 GiB with beta",
                "Verify",
                "POST",
                "/v1/volumes/webstore/verify",
                json!({}),
            ),
            (
                "Recover web",
                "You vouch for what etcd says about web",
                "Recover",
                "POST",
                "/v1/groups/web/recover",
                Value::Null,
            ),
        ];
        for (n, (button, consequence, confirm, method, path, body)) in steps.into_iter().enumerate() {
            bench.click(button).await?;
            bench.until("the dialog", DIALOG).await;
            bench.shows(consequence).await;
            assert_eq!(bench.agent.commands().len(), n, "nothing is asked before it is confirmed");
            bench.click(confirm).await?;
            bench.until("it closes", &format!("!{DIALOG}")).await;
            assert_eq!(bench.agent.commands().last().unwrap(), &(method.to_owned(), path.to_owned(), body));
            let accepted =
                format!("document.getElementById('said').textContent.includes('Accepted: {path}')");
            bench.until("the outcome is announced", &accepted).await;
        }
        // A node that is not online can be made so.
        bench.agent.change(|s| s["nodes"][1]["mode"] = json!("standby"));
        bench
            .until("the mode", "document.querySelector('[data-node=beta]').innerText.includes('standby')")
            .await;
        bench.click("Set beta online").await?;
        bench.shows("beta may lead groups again").await;
        bench.click("Set online").await?;
        bench.until("it closes", &format!("!{DIALOG}")).await;
        assert_eq!(bench.agent.commands().last().unwrap().2, json!({"mode": "online"}));
        // A verify repairs only if that is ticked, and says so.
        bench.click("Verify webstore").await?;
        bench.shows("Nothing is changed.").await;
        bench.browser.run("document.querySelector('dialog input[name=repair]').click()").await?;
        bench.shows("What differs is copied from the primary, what earlier runs marked first.").await;
        bench.click("Verify and repair").await?;
        bench.until("it closes", &format!("!{DIALOG}")).await;
        let asked = bench.agent.commands().pop().unwrap();
        assert_eq!((asked.0.as_str(), asked.1.as_str()), ("POST", "/v1/volumes/webstore/verify?repair=true"));
        bench.click("Verify webstore").await?;
        bench.shows("Nothing is changed.").await;
        bench.click("Cancel").await?;
        bench.until("it closes", &format!("!{DIALOG}")).await;
        // Whoever cancels has asked nothing.
        let before = bench.agent.commands().len();
        bench.click("Move web").await?;
        bench.click("Cancel").await?;
        bench.until("it closes", &format!("!{DIALOG}")).await;
        assert_eq!(bench.agent.commands().len(), before);
        assert_eq!(bench.browser.complaints().await?, Vec::<String>::new());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_move_by_keyboard_alone() {
    Bench::run("keyboard", DESKTOP, async |bench| {
        bench.agent.say(snapshots::three_hosts());
        bench.agent.change(|s| {
            let mut gamma = s["groups"][0]["nodes"][1].clone();
            gamma["node"] = json!("gamma");
            s["groups"][0]["nodes"].as_array_mut().unwrap().push(gamma);
        });
        bench.open().await?;
        bench.until("who we are", "!!document.querySelector('.who')").await;
        bench.browser.press(&["Tab"]).await?;
        assert_eq!(bench.text("return document.activeElement.className").await?, "skip", "the first stop leads past the bar");
        bench.browser.press(&["Enter"]).await?;
        bench.until("the focus is at the groups", "document.activeElement.id === 'groups'").await;
        bench.tab_to("Move web").await?;
        let ring = bench.text("return getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).outlineWidth").await?;
        assert_eq!(ring, "solid3px", "the focus is seen");
        bench.browser.press(&["Enter"]).await?;
        bench.until("the focus is on the choice", "document.activeElement.matches('dialog input[value=beta]')").await;
        bench.browser.press(&["ArrowDown"]).await?;
        bench.until("gamma is chosen", "document.querySelector('dialog input[value=gamma]').checked && document.querySelector('[data-confirm]').innerText === 'Move to gamma'").await;
        // The focus stays inside while four snapshots per second come in.
        for _ in 0..6 {
            bench.browser.press(&["Tab"]).await?;
            let inside = bench.browser.run("return !document.activeElement || document.activeElement === document.body || !!document.activeElement.closest('dialog')").await?;
            assert_eq!(inside, json!(true));
        }
        bench.tab_to("Move to gamma").await?;
        bench.browser.press(&["Enter"]).await?;
        bench.until("it closes", &format!("!{DIALOG}")).await;
        assert_eq!(bench.agent.commands(), [("POST".to_owned(), "/v1/groups/web/move".to_owned(), json!({"to": "gamma"}))]);
        bench.until("the focus is back", "document.activeElement.getAttribute('aria-label') === 'Move web'").await;
        // Escape closes without asking.
        bench.browser.press(&["Enter"]).await?;
        bench.until("open again", DIALOG).await;
        bench.browser.press(&["Escape"]).await?;
        bench.until("closed again", &format!("!{DIALOG}")).await;
        assert_eq!(bench.agent.commands().len(), 1);
        bench.until("the focus is back", "document.activeElement.getAttribute('aria-label') === 'Move web'").await;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_question_is_not_answered_by_what_came_of_the_last_one() {
    Bench::run("questions", DESKTOP, async |bench| {
        bench.open().await?;
        // Closed and asked anew before the browser has told that it is closed.
        bench.click("Move web").await?;
        let again = "document.querySelector('[data-cancel]').click(); document.querySelector('[aria-label=\"Set beta to maintenance\"]').click();";
        bench.browser.run(again).await?;
        bench.browser.run("await new Promise((done) => setTimeout(done, 300))").await?;
        bench.shows("Groups that run elsewhere cannot fail over to it.").await;
        bench.click("Cancel").await?;
        bench.until("it closes", &format!("!{DIALOG}")).await;
        // An answer that comes when something else is asked.
        let refused = json!({"title": "Refused", "status": 409, "detail": "beta cannot take web now"});
        bench.agent.script().answers.insert("/v1/groups/web/move".into(), (409, refused));
        bench.agent.script().takes = Duration::from_millis(500);
        bench.click("Move web").await?;
        bench.click("Move to beta").await?;
        bench.browser.press(&["Escape"]).await?;
        bench.until("it closes", &format!("!{DIALOG}")).await;
        bench.click("Set beta to maintenance").await?;
        bench.until("it is told", "document.getElementById('urgent').textContent.includes('Move web: beta cannot take web now')").await;
        bench.shows("Groups that run elsewhere cannot fail over to it.").await;
        bench.click("Set to maintenance").await?;
        bench.until("it closes", &format!("!{DIALOG}")).await;
        assert_eq!(bench.agent.commands().len(), 2);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_shown_whole_and_can_be_repeated() {
    Bench::run("refusal", DESKTOP, async |bench| {
        let refused = json!({"type": "/problems/refused", "title": "Refused", "status": 409, "detail": "beta cannot take web now: its image is missing. Pull it, then move.", "missing": "shop:3"});
        bench.agent.script().answers.insert("/v1/groups/web/move".into(), (409, refused));
        bench.open().await?;
        bench.click("Move web").await?;
        bench.click("Move to beta").await?;
        for text in ["Refused", "beta cannot take web now: its image is missing. Pull it, then move.", "/problems/refused", "409", "shop:3", "4711"] {
            bench.shows(text).await;
        }
        assert_eq!(bench.text("return document.querySelector('.problem').getAttribute('role')").await?, "alert");
        bench.agent.script().answers.clear();
        bench.click("Move to beta").await?;
        bench.until("it closes", &format!("!{DIALOG}")).await;
        assert_eq!(bench.agent.commands().len(), 2);
        // An agent that knows no verify: said once, then the button says so.
        let unknown = json!({"type": "/problems/not-found", "title": "No such thing", "status": 404, "detail": "There is nothing at /v1/volumes/webstore/verify."});
        bench.agent.script().answers.insert("/v1/volumes/webstore/verify".into(), (404, unknown));
        bench.click("Verify webstore").await?;
        bench.click("Verify").await?;
        bench.shows("There is nothing at /v1/volumes/webstore/verify.").await;
        bench.click("Cancel").await?;
        bench.until("the button says so", "!!document.querySelector('[aria-label=\"Verify webstore: not possible. This agent cannot verify volumes.\"]')").await;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn without_a_token_nothing_is_shown_and_with_a_small_role_nothing_is_done() {
    Bench::run("roles", DESKTOP, async |bench| {
        for role in ["viewer", "operator"] {
            bench.agent.script().tokens.insert(format!("s3cret-{role}"), role.into());
        }
        bench.browser.driver.goto(bench.agent.url("/ui/")).await?;
        bench.until("it asks who we are", DIALOG).await;
        let hosts = bench.browser.run("return !!document.querySelector('#hosts-title')").await?;
        assert_eq!(hosts, json!(false));
        let login = async |token: &str| {
            bench.until("it asks for a token", "!!document.querySelector('dialog[open] #token')").await;
            let script = format!("document.getElementById('token').value = '{token}'; document.querySelector('dialog form').requestSubmit()");
            bench.browser.run(&script).await.map(drop)
        };
        login("wrong").await?;
        bench.shows("Send a token: Authorization: Bearer TOKEN.").await;
        login("s3cret-viewer").await?;
        bench.until("the page shows the cluster", "!!document.querySelector('#hosts-title')").await;
        bench.until("who we are", "document.querySelector('.who .role')?.innerText === 'viewer'").await;
        let why = "Needs the role operator: you are viewer.";
        bench.click(&format!("Move web: not possible. {why}")).await?;
        bench.until("it says why", &format!("document.getElementById('urgent').textContent.trim() === '{why}'")).await;
        assert_eq!(bench.browser.run(&format!("return {DIALOG}")).await?, json!(false));
        assert!(bench.agent.commands().is_empty());
        let enabled = bench.browser.run("return [...document.querySelectorAll('.host footer button, .group .button')].filter((b) => b.getAttribute('aria-disabled') !== 'true').length").await?;
        assert_eq!(enabled, json!(0));
        // The token is in this tab and nowhere else, and only ever goes into the header.
        let kept = bench.browser.run("return { here: Object.values(sessionStorage), always: Object.keys(localStorage), cookies: document.cookie }").await?;
        assert_eq!(kept, json!({"here": ["s3cret-viewer"], "always": [], "cookies": ""}));
        let asked = bench.browser.requests().await?;
        assert!(asked.iter().all(|url| !url.contains("s3cret")), "{asked:?}");
        let sent = bench.agent.script().authorisations.clone();
        assert_eq!(sent.last().unwrap().as_deref(), Some("Bearer s3cret-viewer"));

        // An operator moves and does not recover.
        bench.browser.run("document.querySelector('.who').click()").await?;
        login("s3cret-operator").await?;
        bench.until("who we are", "document.querySelector('.who .role')?.innerText === 'operator'").await;
        bench.until("it says so", "document.getElementById('said').textContent.includes('role operator')").await;
        bench.click("Move web").await?;
        bench.click("Move to beta").await?;
        bench.until("it closes", &format!("!{DIALOG}")).await;
        assert_eq!(bench.agent.commands().len(), 1);
        bench.click("Recover web: not possible. Needs the role admin: you are operator.").await?;
        assert_eq!(bench.agent.commands().len(), 1);
        // A token that is withdrawn: asked again, and nothing old is shown as fresh.
        bench.agent.script().tokens.clear();
        bench.agent.script().tokens.insert("another".into(), "viewer".into());
        bench.agent.script().streams = false;
        bench.until("it asks again", &format!("{DIALOG} && !!document.querySelector('#token')")).await;
        bench.until("what is shown is marked", "document.getElementById('main').className === 'stale'").await;
        assert!(!bench.said().await?.is_empty());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_mode_is_set_with_its_reason_and_its_end() {
    Bench::run("reason", DESKTOP, async |bench| {
        bench.agent.script().consequences = Some(Ok(vec!["nothing moves".into()]));
        bench.open().await?;
        let fields = "document.querySelectorAll('dialog .fields input, dialog .fields select').length";
        for (button, count) in [("Set beta to standby", 1), ("Set beta to maintenance", 2)] {
            bench.click(button).await?;
            bench.until("its fields", &format!("{fields} === {count}")).await;
            bench.click("Cancel").await?;
        }
        bench.click("Set beta to maintenance").await?;
        bench.shows("Nothing moves.").await;
        bench.browser.run("document.getElementById('reason').focus()").await?;
        bench.browser.press(&["n", "e", "w", " ", "d", "i", "s", "k"]).await?;
        bench.until("typing goes on", "document.activeElement.id === 'reason' && document.activeElement.value === 'new disk'").await;
        let choose = "const end = document.getElementById('length'); end.value = '2h'; end.dispatchEvent(new Event('change', { bubbles: true }));";
        bench.browser.run(choose).await?;
        // A snapshot that comes meanwhile takes nothing of it away.
        bench.agent.change(|s| s["nodes"][1]["age_ms"] = json!(57));
        bench.click("Set to maintenance").await?;
        bench.until("it closes", &format!("!{DIALOG}")).await;
        let sent = bench.agent.commands().last().map(|c| c.2.clone());
        assert_eq!(sent, Some(json!({"mode": "maintenance", "reason": "new disk", "for": "2h"})));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_agent_is_asked_what_would_follow_before_anything_is_done() {
    Bench::run("rehearsal", DESKTOP, async |bench| {
        bench.agent.script().consequences =
            Some(Ok(vec!["mysql and apache stop on alpha and start on beta".into()]));
        bench.open().await?;
        bench.click("Move web").await?;
        bench.shows("Mysql and apache stop on alpha and start on beta.").await;
        bench.click("Cancel").await?;
        // A refusal is known before it is confirmed, and cannot be confirmed.
        bench.agent.script().consequences =
            Some(Err("beta cannot take web now: its image is missing".into()));
        bench.click("Move web").await?;
        bench.shows("Refused: beta cannot take web now: its image is missing").await;
        let off = "document.querySelector('[data-confirm]').getAttribute('aria-disabled') === 'true'";
        bench.until("it cannot be confirmed", off).await;
        bench.click("Move to beta").await?;
        bench.click("Cancel").await?;
        assert_eq!((bench.agent.commands().len(), bench.agent.script().rehearsals), (0, 2));
        Ok(())
    })
    .await;
}
