//! A real Chromium without a screen, driven through its WebDriver.
//!
//! Owns one driver process and one browser with an empty profile; both end with the value. What the page wrote to the
//! console and every address it asked for can be read afterwards.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use thirtyfour::prelude::*;
use thirtyfour::{ChromiumLikeCapabilities, LoggingPrefsLogLevel};

/// The driver names its port within this time, or does not start.
const DRIVER_START: Duration = Duration::from_secs(20);
/// Between two looks at the page.
const LOOK: Duration = Duration::from_millis(50);
/// A phone of the narrow kind.
pub const PHONE: (u32, u32) = (360, 780);
/// A desktop.
pub const DESKTOP: (u32, u32) = (1280, 900);

/// Whether a browser can be driven here. With `BATON_E2E` (`make test`) it has to.
///
/// # Panics
/// If it has to and cannot.
#[must_use]
pub fn available(test: &str) -> bool {
    let found = ["chromedriver", "chromium"].iter().all(|tool| {
        std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).exists()))
    });
    if !found {
        assert!(
            std::env::var_os("BATON_E2E").is_none(),
            "'{test}' needs chromium and chromedriver: compose/scripts/setup.sh test"
        );
        println!("skipped: '{test}' needs chromium and chromedriver (compose/scripts/setup.sh test)");
    }
    found
}

/// A browser with one page.
#[derive(Debug)]
pub struct Browser {
    /// For what is not wrapped here.
    pub driver: WebDriver,
    process: Child,
    /// One browser at a time on a machine: a page that waits for the processor is no measure of anything.
    _turn: File,
}

impl Browser {
    /// Starts it with a window of this size.
    ///
    /// # Errors
    /// If the driver or the browser does not start.
    pub async fn start((width, height): (u32, u32)) -> Result<Self> {
        let turn = File::create(std::env::temp_dir().join("baton-browser.lock"))?;
        let turn = tokio::task::spawn_blocking(move || turn.lock().map(|()| turn)).await??;
        let mut process = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("chromedriver")?;
        let port = match port_of(&mut process).await {
            Ok(port) => port,
            Err(error) => {
                end(&mut process);
                return Err(error);
            }
        };
        let mut wanted = DesiredCapabilities::chrome();
        // As root, in a container or on a builder, Chromium has no sandbox of its own.
        for argument in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--ignore-certificate-errors",
            "--force-device-scale-factor=1",
        ] {
            wanted.add_arg(argument)?;
        }
        wanted.add_arg(&format!("--window-size={width},{height}"))?;
        wanted.set_logging_prefs("browser", LoggingPrefsLogLevel::All)?;
        wanted.set_logging_prefs("performance", LoggingPrefsLogLevel::All)?;
        let driver = match WebDriver::new(format!("http://127.0.0.1:{port}"), wanted).await {
            Ok(driver) => driver,
            Err(error) => {
                end(&mut process);
                bail!("chromium does not start: {error}");
            }
        };
        let browser = Self { driver, process, _turn: turn };
        browser.viewport((width, height)).await?;
        Ok(browser)
    }

    /// Ends both processes in order.
    ///
    /// # Errors
    /// If the driver does not answer; they are ended all the same.
    pub async fn stop(mut self) -> Result<()> {
        let ended = self.driver.clone().quit().await;
        end(&mut self.process);
        Ok(ended?)
    }

    /// A command of the DevTools protocol.
    ///
    /// # Errors
    /// If the browser refuses it.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Result<Value> {
        self.driver.cdp().send_raw(command, parameters).await.with_context(|| command.to_owned())
    }

    /// Sets the size of the page, exactly: a window has a smallest size.
    ///
    /// # Errors
    /// If the browser does not answer.
    pub async fn viewport(&self, (width, height): (u32, u32)) -> Result<()> {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await.map(drop)
    }

    /// Sets what the page learns about the reader's wishes, e.g. `prefers-color-scheme`, `dark`.
    ///
    /// # Errors
    /// If the browser does not answer.
    pub async fn prefers(&self, wishes: &[(&str, &str)]) -> Result<()> {
        let features: Vec<Value> =
            wishes.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features})).await.map(drop)
    }

    /// Runs a script in the page and returns its answer. Promises are waited for.
    ///
    /// # Errors
    /// If it throws.
    pub async fn run(&self, script: &str) -> Result<Value> {
        let expression = format!("(async () => {{ {script} }})()");
        let asked = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.devtools("Runtime.evaluate", asked).await?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("the script threw {thrown}\n{script}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until a script answers `true`.
    ///
    /// # Panics
    /// If it does not in time; says what the page shows.
    pub async fn until(&self, what: &str, limit: Duration, condition: &str) {
        let end = Instant::now() + limit;
        loop {
            let seen = self.run(&format!("return {condition}")).await;
            if matches!(seen, Ok(Value::Bool(true))) {
                return;
            }
            if Instant::now() > end {
                let shown = self.run("return document.body.innerText").await.unwrap_or_default();
                panic!(
                    "after {limit:?} still not: {what} ({condition} is {seen:?}). The page:\n{}",
                    shown.as_str().unwrap_or("?")
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Presses keys as a person does, one after the other: `Tab`, `Enter`, `Escape`, `ArrowDown`, …, or a character.
    ///
    /// # Errors
    /// If the browser does not answer.
    pub async fn press(&self, keys: &[&str]) -> Result<()> {
        for key in keys {
            let (code, text) = match *key {
                "Tab" | "Shift+Tab" => (9, ""),
                "Enter" => (13, "\r"),
                "Escape" => (27, ""),
                "Space" => (32, " "),
                "ArrowLeft" => (37, ""),
                "ArrowUp" => (38, ""),
                "ArrowRight" => (39, ""),
                "ArrowDown" => (40, ""),
                letter if letter.chars().count() == 1 => (0, letter),
                other => bail!("no key {other}"),
            };
            let name = match *key {
                "Space" => " ",
                "Shift+Tab" => "Tab",
                other => other,
            };
            let modifiers = if key.starts_with("Shift+") { 8 } else { 0 };
            let mut event = json!({"type": "keyDown", "key": name, "code": name, "windowsVirtualKeyCode": code, "modifiers": modifiers});
            if !text.is_empty() {
                event["text"] = json!(text);
            }
            self.devtools("Input.dispatchKeyEvent", event.clone()).await?;
            event["type"] = json!("keyUp");
            self.devtools("Input.dispatchKeyEvent", event).await?;
        }
        Ok(())
    }

    /// Errors and warnings that the page wrote to the console since the last call.
    ///
    /// # Errors
    /// If the driver does not answer.
    pub async fn complaints(&self) -> Result<Vec<String>> {
        let log = self.driver.get_log("browser").await?;
        Ok(log
            .into_iter()
            .filter(|e| e.level == "SEVERE" || e.level == "WARNING")
            .map(|e| e.message)
            .collect())
    }

    /// Addresses that were asked for since the last call.
    ///
    /// # Errors
    /// If the driver does not answer.
    pub async fn requests(&self) -> Result<Vec<String>> {
        let mut asked = Vec::new();
        for entry in self.driver.get_log("performance").await? {
            let entry: Value = serde_json::from_str(&entry.message)?;
            let message = &entry["message"];
            if message["method"] == "Network.requestWillBeSent" {
                asked.extend(message["params"]["request"]["url"].as_str().map(str::to_owned));
            }
        }
        Ok(asked)
    }

    /// Writes a picture of what is in view.
    ///
    /// # Errors
    /// If it cannot be made or written.
    pub async fn picture(&self, path: &Path) -> Result<()> {
        let png = self.driver.screenshot_as_png().await?;
        std::fs::write(path, png).with_context(|| path.display().to_string())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A test that failed: without this the session's own end would ask a driver that is gone, for two minutes.
        let _ = self.driver.clone().leak();
        end(&mut self.process);
    }
}

/// Ends the driver and the browser it started, which are one process group.
fn end(process: &mut Child) {
    // Its leader is not reaped yet, so that the number is still its.
    if let Some(group) = Pid::from_raw(process.id().cast_signed()) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = process.wait();
}

/// The port that the driver chose, from its first lines.
async fn port_of(process: &mut Child) -> Result<u16> {
    let out = process.stdout.take().context("chromedriver has no output")?;
    let read = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(out).lines();
        while let Some(Ok(line)) = lines.next() {
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                let port = port.trim_end_matches('.').parse().ok();
                // Whoever writes to a pipe that nobody reads stands still.
                std::thread::spawn(move || lines.for_each(drop));
                return port;
            }
        }
        None
    });
    tokio::time::timeout(DRIVER_START, read)
        .await
        .context("chromedriver does not say its port")??
        .context("chromedriver ended")
}
