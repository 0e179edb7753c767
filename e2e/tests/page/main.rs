//! The agent's web page in a real browser, against an agent in this process that says what it is told to say.
//!
//! The page's files and headers are the real ones. What real agents answer is the business of the scenarios: one of
//! them drives a handover from the page on the real cluster.

mod actions;
mod agent;
mod live;
mod looks;
mod snapshots;
mod units;

use agent::Agent;
use baton_e2e::browser::{self, Browser};
use std::time::{Duration, Instant};

/// Something that a person sees happen, on a machine that others use too.
const SOON: Duration = Duration::from_secs(10);

/// Between two looks at the page.
const LOOK: Duration = Duration::from_millis(50);

/// An agent, a browser and what both have in common.
struct Bench {
    agent: Agent,
    browser: Browser,
}

impl Bench {
    /// Runs a test in a browser of its own, or skips it where there is none.
    async fn run(name: &str, size: (u32, u32), body: impl AsyncFnOnce(&Bench) -> anyhow::Result<()>) {
        if !browser::available(name) {
            return;
        }
        baton_operator::security::use_ring();
        let agent = Agent::start(snapshots::healthy()).await;
        let browser = Browser::start(size).await.unwrap_or_else(|e| panic!("{e:#}"));
        let bench = Bench { agent, browser };
        body(&bench).await.unwrap_or_else(|e| panic!("{name}: {e:#}"));
        bench.browser.stop().await.unwrap_or_else(|e| panic!("{e:#}"));
    }

    /// Opens the page and waits until it shows the cluster.
    async fn open(&self) -> anyhow::Result<()> {
        self.browser.driver.goto(self.agent.url("/ui/")).await?;
        self.until("the page shows the cluster", "!!document.querySelector('#hosts-title')").await;
        Ok(())
    }

    /// Waits until the page says so.
    async fn until(&self, what: &str, condition: &str) {
        self.browser.until(what, SOON, condition).await;
    }

    /// Waits until the page's text has this.
    async fn shows(&self, text: &str) {
        let condition = format!("document.body.innerText.includes({})", serde_json::json!(text));
        self.until(&format!("the page says '{text}'"), &condition).await;
    }

    /// A text that a script makes.
    async fn text(&self, script: &str) -> anyhow::Result<String> {
        Ok(self.browser.run(script).await?.as_str().unwrap_or_default().to_owned())
    }

    /// Clicks the button with this accessible name, as the page tells it.
    async fn click(&self, name: &str) -> anyhow::Result<()> {
        let script = format!(
            "const wanted = {}; const named = (b) => (b.getAttribute('aria-label') ?? b.innerText).trim() === wanted;
             const scope = document.querySelector('dialog[open]') ?? document;
             const names = () => [...scope.querySelectorAll('button')].slice(0, 30).map((b) => b.getAttribute('aria-label') ?? b.innerText);
             const button = [...scope.querySelectorAll('button, a')].find(named);
             if (!button) return `no button ${{wanted}} among ${{names().join(' | ')}}`;
             button.click();
             return '';",
            serde_json::json!(name)
        );
        // As a person does, who looks for it until it is there.
        let end = Instant::now() + SOON;
        loop {
            let missing = self.text(&script).await?;
            if missing.is_empty() {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < end, "{missing}");
            tokio::time::sleep(LOOK).await;
        }
    }
}
