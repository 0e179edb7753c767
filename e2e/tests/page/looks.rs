//! How the page looks and reads: every state, every size, both schemes, for eyes, keyboard and screen reader.

use crate::{Bench, snapshots};
use baton_e2e::browser::{DESKTOP, PHONE};
use baton_operator::series::SeriesAnswer;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Contrast of text and ground as WCAG 2 computes it, for every text that is seen; returns what is below 4.5 (3 for
/// large text). Colours with an alpha are blended with what lies below.
const CONTRAST: &str = r"
const parse = (text) => {
  const numbers = text.match(/[\d.]+/g).map(Number);
  if (text.startsWith('color(srgb')) return [numbers[0] * 255, numbers[1] * 255, numbers[2] * 255, numbers[3] ?? 1];
  return [numbers[0], numbers[1], numbers[2], numbers[3] ?? 1];
};
const over = (top, below) => [0, 1, 2].map((n) => top[n] * top[3] + below[n] * (1 - top[3]));
const grounds = new Map();
const ground = (node) => {
  if (!grounds.has(node)) grounds.set(node, below(node));
  return grounds.get(node);
};
const below = (node) => {
  const layers = [];
  for (let at = node; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour[3] > 0) layers.push(colour);
    if (colour[3] >= 1) break;
  }
  return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
};
const light = (colour) => {
  const [r, g, b] = colour.map((c) => { const s = c / 255; return s <= 0.03928 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const poor = [];
const walker = document.createTreeWalker(document.querySelector('dialog[open]') ?? document.body, NodeFilter.SHOW_TEXT);
let seen = 0;
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const parent = node.parentElement;
  if (!node.data.trim() || !parent.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
  if (parent.closest('.unseen, noscript, option') || parent.closest('.skip')) continue;
  const style = getComputedStyle(parent);
  const under = ground(parent);
  const [a, b] = [light(over(parse(style.color), under)), light(under)];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  seen += 1;
  if (ratio < (large ? 3 : 4.5)) poor.push(`${node.data.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
}
return { seen, poor };
";

/// What a checker like axe looks at: names of controls, labels, landmarks, headings, ids, roles.
const ACCESSIBLE: &str = r"
const wrong = [];
const shown = (node) => node.checkVisibility();
const textOf = (ids) => (ids ?? '').split(/\s+/).filter(Boolean).map((id) => document.getElementById(id)?.textContent ?? '').join(' ').trim();
const name = (node) => node.getAttribute('aria-label') || textOf(node.getAttribute('aria-labelledby')) || [...(node.labels ?? [])].map((l) => l.textContent).join(' ').trim() || node.textContent.trim() || node.title;
for (const node of document.querySelectorAll('button, a[href], input, select, [role=slider], [role=progressbar], dialog[open]')) {
  if (shown(node) && !name(node)) wrong.push(`no name: ${node.outerHTML.slice(0, 120)}`);
  if (node.matches('button[aria-label]')) {
    const seen = node.innerText.replace(/…/g, '').trim().toLowerCase();
    if (seen && !node.getAttribute('aria-label').toLowerCase().includes(seen.split(' ')[0])) wrong.push(`says ${node.getAttribute('aria-label')}, shows ${seen}`);
  }
}
const ids = [...document.querySelectorAll('[id]')].map((node) => node.id);
for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push(`id ${id} twice`);
for (const node of document.querySelectorAll('[aria-labelledby], [aria-controls], [aria-describedby]')) {
  for (const attribute of ['aria-labelledby', 'aria-controls', 'aria-describedby']) {
    for (const id of (node.getAttribute(attribute) ?? '').split(/\s+/).filter(Boolean)) {
      if (!document.getElementById(id) && !(node.tagName === 'DIALOG' && !node.open)) wrong.push(`${attribute} ${id} leads nowhere`);
    }
  }
}
for (const [landmark, n] of [['header', 1], ['main', 1], ['footer', 1], ['h1', 1]]) {
  const found = [...document.querySelectorAll(landmark)].filter((node) => landmark === 'main' || landmark === 'h1' || node.parentElement === document.body).length;
  if (found !== n) wrong.push(`${found} of ${landmark}`);
}
let level = 1;
for (const heading of document.querySelectorAll('h1, h2, h3, h4')) {
  if (!shown(heading) || heading.closest('dialog')) continue;
  const now = Number(heading.tagName[1]);
  if (now > level + 1) wrong.push(`h${level} is followed by h${now}: ${heading.textContent}`);
  level = now;
}
for (const section of document.querySelectorAll('main > section')) if (!name(section) && !textOf(section.getAttribute('aria-labelledby'))) wrong.push('a section without a name');
for (const list of document.querySelectorAll('ul, ol')) for (const child of list.children) if (child.tagName !== 'LI') wrong.push(`${child.tagName} in a list`);
for (const bar of document.querySelectorAll('[role=progressbar], [role=slider]')) {
  const now = Number(bar.getAttribute('aria-valuenow'));
  if (!(now >= Number(bar.getAttribute('aria-valuemin')) && now <= Number(bar.getAttribute('aria-valuemax')))) wrong.push(`value ${now} outside its range`);
}
if (!document.documentElement.lang) wrong.push('no language');
if (document.querySelectorAll('[aria-live]').length < 2) wrong.push('nothing announces');
if (document.querySelectorAll('[tabindex]').values().some((node) => node.tabIndex > 0)) wrong.push('a positive tabindex');
return wrong;
";

const WIDE: &str = "
const wide = [...document.querySelectorAll('body *')].filter((n) => n.checkVisibility() && n.getBoundingClientRect().right > innerWidth + 0.5 && !n.closest('.unseen, .log, .skip, svg, .chart')).map((n) => n.tagName + '.' + n.className);
return { scrolls: document.documentElement.scrollWidth > innerWidth, wide };
";

fn states() -> [(&'static str, Value); 7] {
    [
        ("healthy", snapshots::healthy()),
        ("resyncing", snapshots::resyncing()),
        ("verifying", snapshots::verifying()),
        ("down", snapshots::down()),
        ("moved", snapshots::on_beta()),
        ("three hosts", snapshots::three_hosts()),
        ("hundred groups", snapshots::hundred()),
    ]
}

impl Bench {
    async fn readable(&self, what: &str) -> anyhow::Result<()> {
        // Colours change in steps; what is measured in between is neither.
        let settled = "document.getAnimations().filter((a) => a instanceof CSSTransition || a.animationName === 'arrive').length === 0";
        self.until("the colours are settled", settled).await;
        let contrast = self.browser.run(CONTRAST).await?;
        assert!(contrast["seen"].as_u64().unwrap() > 5, "{what}: {contrast}");
        assert_eq!(contrast["poor"], json!([]), "{what}");
        Ok(())
    }
}

#[tokio::test]
async fn every_state_is_readable_in_both_schemes_and_for_a_screen_reader() {
    Bench::run("looks", DESKTOP, async |bench| {
        bench.open().await?;
        bench.until("the charts are there", "document.querySelectorAll('.plot').length === 5").await;
        for scheme in ["light", "dark"] {
            bench.browser.prefers(&[("prefers-color-scheme", scheme)]).await?;
            for (name, state) in states() {
                bench.agent.say(state.clone());
                let groups = state["groups"].as_array().unwrap().len();
                let shown = format!("document.querySelectorAll('article.group').length === {groups} && document.querySelectorAll('article.host').length === {}", state["nodes"].as_array().unwrap().len());
                bench.until(name, &shown).await;
                bench.readable(&format!("{name}, {scheme}")).await?;
                assert_eq!(bench.browser.run(ACCESSIBLE).await?, json!([]), "{name}");
            }
        }
        let ground = "return getComputedStyle(document.body).backgroundColor";
        let dark = bench.text(ground).await?;
        bench.browser.prefers(&[("prefers-color-scheme", "light")]).await?;
        let light = bench.text(ground).await?;
        assert_ne!(dark, light);
        // The switch wins over the system's wish, and is remembered.
        bench.click("Colours: auto. Change").await?;
        bench.click("Colours: light. Change").await?;
        bench.until("dark by the switch", "document.documentElement.dataset.theme === 'dark'").await;
        assert_eq!(bench.text(ground).await?, dark);
        bench.readable("dark by the switch").await?;
        bench.open().await?;
        assert_eq!(bench.text(ground).await?, dark);
        Ok(())
    })
    .await;
}

/// What is measured above can be bad: each measure is shown something bad.
#[tokio::test]
async fn the_measures_find_what_is_wrong() {
    Bench::run("measures", DESKTOP, async |bench| {
        bench.open().await?;
        bench.readable("as it is").await?;
        bench.browser.run("document.documentElement.style.setProperty('--dim', '#9aa5b0')").await?;
        let contrast = bench.browser.run(CONTRAST).await?;
        assert!(contrast["poor"].as_array().is_some_and(|poor| !poor.is_empty()), "{contrast}");
        let spoil = "const footer = document.getElementById('footer'); footer.append(document.createElement('button'), document.createElement('ul')); footer.querySelector('ul').append('x', document.createElement('p')); footer.id = 'header';";
        bench.browser.run(&format!("{spoil} window.found = (() => {{ {ACCESSIBLE} }})();")).await?;
        let found = bench.browser.run("return window.found.map((text) => text.split(':')[0])").await?;
        assert_eq!(found, json!(["no name", "id header twice", "id header twice", "P in a list"]));
        bench.browser.run("const wide = document.createElement('p'); wide.style.width = '5000px'; wide.textContent = 'x'; document.body.append(wide);").await?;
        let wide = bench.browser.run(WIDE).await?;
        assert_eq!(wide, json!({"scrolls": true, "wide": ["P."]}));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn nothing_scrolls_sideways_on_a_phone() {
    Bench::run("phone", PHONE, async |bench| {
        bench.open().await?;
        bench.browser.devtools("Emulation.setDeviceMetricsOverride", json!({"width": 360, "height": 780, "deviceScaleFactor": 2, "mobile": true})).await?;
        bench.until("the charts are there", "document.querySelectorAll('.plot').length === 5").await;
        for (name, state) in states() {
            bench.agent.say(state.clone());
            let nodes = state["nodes"].as_array().unwrap().len();
            let first = state["groups"][0]["name"].as_str().unwrap();
            bench.until(name, &format!("!!document.getElementById('group-{first}') && document.querySelectorAll('article.host').length === {nodes}")).await;
            assert_eq!(bench.browser.run(WIDE).await?, json!({"scrolls": false, "wide": []}), "{name}");
        }
        // Targets are large enough for a finger: at least 24 by 24, as WCAG 2.2 wants it.
        let small = "return [...document.querySelectorAll('button, input, select')].filter((b) => b.checkVisibility() && !b.closest('label')).map((b) => [b, b.getBoundingClientRect()]).filter(([, r]) => r.width < 24 || r.height < 24).map(([b]) => b.outerHTML.slice(0, 90))";
        assert_eq!(bench.browser.run(small).await?, json!([]));
        bench.agent.say(snapshots::healthy());
        bench.until("one group again", "!!document.getElementById('group-web')").await;
        bench.click("Move web").await?;
        bench.until("the dialog", "document.getElementById('dialog').open").await;
        let fits = "const box = document.getElementById('dialog').getBoundingClientRect(); return box.left >= 0 && box.right <= innerWidth && box.bottom <= innerHeight";
        assert_eq!(bench.browser.run(fits).await?, json!(true));
        bench.readable("the dialog").await?;
        bench.click("Cancel").await?;
        bench.click("Verify webstore").await?;
        bench.until("the dialog", "!!document.querySelector('dialog[open] input[name=repair]')").await;
        assert_eq!(bench.browser.run(fits).await?, json!(true));
        bench.readable("the verify dialog").await
    })
    .await;
}

#[tokio::test]
async fn a_hundred_groups_are_one_page_and_drawn_within_200_ms() {
    Bench::run("hundred", DESKTOP, async |bench| {
        bench.agent.say(snapshots::hundred());
        bench.open().await?;
        bench.until("all groups", "document.querySelectorAll('article.group').length === 100").await;
        // From the answer to what is seen: everything made anew, and its layout.
        let drawn = bench
            .browser
            .run(
                "const main = document.getElementById('main'); const times = [];
                 for (let n = 0; n < 5; n += 1) {
                   await new Promise((done) => setTimeout(done, 300));
                   const begin = performance.now();
                   main.replaceChildren();
                   await new Promise((done) => { const look = () => (main.querySelectorAll('article.group').length === 100 ? done() : requestAnimationFrame(look)); look(); });
                   document.body.getBoundingClientRect();
                   times.push(Number(document.documentElement.dataset.drawn));
                 }
                 return times.sort((a, b) => a - b);",
            )
            .await?;
        println!("a hundred groups made anew, ms: {drawn}");
        assert!(drawn[2].as_f64().unwrap() < 200.0, "median of {drawn}");
        // What comes four times per second costs less still.
        let update = bench.browser.run("const times = []; for (let n = 0; n < 8; n += 1) { await new Promise((done) => setTimeout(done, 250)); times.push(Number(document.documentElement.dataset.drawn)); } return times.sort((a, b) => a - b)").await?;
        println!("an update, ms: {update}");
        assert!(update[4].as_f64().unwrap() < 100.0, "median of {update}");

        bench.browser.run("const box = document.querySelector('.groups input[type=search]'); box.value = '10.77.1.43'; box.dispatchEvent(new Event('input'));").await?;
        bench.until("the filter", "document.querySelectorAll('article.group').length === 1").await;
        bench.shows("the image shop:3 is missing").await;
        bench.browser.run("const box = document.querySelector('.groups input[type=search]'); box.value = ''; box.dispatchEvent(new Event('input')); document.querySelector('.groups input[type=checkbox]').click();").await?;
        bench.until("those that need attention", "[...document.querySelectorAll('article.group')].map((g) => g.dataset.group).join() === 'shop-017,shop-042'").await;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_is_known_is_on_the_page() {
    Bench::run("content", DESKTOP, async |bench| {
        bench.open().await?;
        bench.shows("web serves on alpha; beta could take over.").await;
        for text in ["10.77.0.100", "Seen by alpha", "live", "longest gap 113 ms", "lag 412 µs", "lease 5 s", "Takeover at", "2.1 s", "detect 1.5 s", "mysql", "99.9987 %", "beta is in sync again"] {
            bench.shows(text).await;
        }
        bench.agent.say(snapshots::resyncing());
        for text in ["but no standby could take over", "do not stop alpha before", "46.9 %", "240 MiB of 512 MiB", "15 MiB/s", "18 s left", "12 late heartbeats"] {
            bench.shows(text).await;
        }
        bench.agent.say(snapshots::down());
        for text in ["web does not serve: alpha leads and is silent", "Bring alpha back", "unreachable", "deadline exceeded", "offline", "Frozen: no primary", "bad checksum", "connection refused", "Seen by beta"] {
            bench.shows(text).await;
        }
        bench.agent.change(|s| {
            s["groups"][0]["state"] = json!("starting");
            s["groups"][0]["leader"] = json!("beta");
        });
        bench.until("the steps of a takeover", "document.querySelector('.steps [aria-current=step]')?.innerText === 'volumes, addresses, services'").await;
        bench.browser.run("document.querySelector('.events select').value = 'critical'; document.querySelector('.events select').dispatchEvent(new Event('change'))").await?;
        bench.until("one critical event", "document.querySelectorAll('.log li').length === 1").await;
        // A chart tells its values to the keyboard.
        bench.browser.run("document.querySelector('[data-chart=chart-down] [role=slider]').focus()").await?;
        bench.browser.press(&["ArrowLeft"]).await?;
        bench.until("the reading moved", "document.querySelector('[data-chart=chart-down] [role=slider]').getAttribute('aria-valuenow') === '718'").await;
        assert!(bench.text("return document.activeElement.getAttribute('aria-valuetext')").await?.contains("0 ms"));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn no_errors_and_no_other_host() {
    Bench::run("quiet", DESKTOP, async |bench| {
        bench.open().await?;
        bench.until("everything was asked", "document.querySelectorAll('.plot').length === 5 && document.querySelectorAll('.log li').length === 5").await;
        bench.click("Set beta to standby").await?;
        bench.click("Cancel").await?;
        bench.agent.say(snapshots::resyncing());
        bench.shows("SyncSource").await;
        assert_eq!(bench.browser.complaints().await?, Vec::<String>::new());
        let own = bench.agent.url("/");
        let asked = bench.browser.requests().await?;
        assert!(asked.iter().any(|url| url.ends_with("/app.js")), "{asked:?}");
        let foreign: Vec<&String> = asked.iter().filter(|url| !url.starts_with(&own)).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        // The policy holds: neither a script in the page nor a style attribute does anything.
        let inline = "const script = document.createElement('script'); try { script.text = 'window.broken = true'; document.body.append(script); } catch (error) { return 'refused'; } return window.broken ? 'ran' : 'refused'";
        assert_eq!(bench.text(inline).await?, "refused");
        Ok(())
    })
    .await;
}

#[test]
fn the_made_up_history_fits_the_contract() {
    let answer: SeriesAnswer = serde_json::from_value(snapshots::series()).unwrap();
    assert!(answer.series.iter().all(|one| one.values.len() == 720));
}

/// Pictures for the documentation, into the folder that `BATON_PICTURES` names; nothing without it.
#[tokio::test]
async fn pictures() {
    let Some(folder) = std::env::var_os("BATON_PICTURES").map(PathBuf::from) else {
        println!("skipped: 'pictures' needs BATON_PICTURES=FOLDER");
        return;
    };
    Bench::run("pictures", DESKTOP, async |bench| {
        let whole = async |name: &str, width: u32| -> anyhow::Result<()> {
            bench.until("settled", "document.getAnimations().filter((a) => a.animationName === 'arrive').length === 0").await;
            let height = bench.browser.run("return document.documentElement.scrollHeight").await?;
            bench.browser.viewport((width, u32::try_from(height.as_u64().unwrap_or(900))?)).await?;
            bench.browser.run("await new Promise((done) => setTimeout(done, 400)); scrollTo(0, 0)").await?;
            bench.browser.picture(&folder.join(name)).await?;
            bench.browser.viewport((width, DESKTOP.1)).await
        };
        bench.browser.devtools("Emulation.setScrollbarsHidden", json!({"hidden": true})).await?;
        bench.open().await?;
        bench.until("everything", "document.querySelectorAll('.plot').length === 5 && document.querySelectorAll('.log li').length === 5").await;
        whole("page-light.png", 1280).await?;
        bench.browser.prefers(&[("prefers-color-scheme", "dark")]).await?;
        whole("page-dark.png", 1280).await?;
        bench.browser.prefers(&[("prefers-color-scheme", "light")]).await?;
        bench.agent.say(snapshots::resyncing());
        bench.shows("SyncSource").await;
        whole("page-resync.png", 1280).await?;
        bench.agent.say(snapshots::healthy());
        bench.shows("All is well").await;
        bench.browser.viewport((1280, 760)).await?;
        bench.click("Move web").await?;
        bench.until("the dialog", "document.getElementById('dialog').open").await;
        bench.browser.run("document.querySelector('[data-confirm]').focus(); await new Promise((done) => setTimeout(done, 7000))").await?;
        bench.browser.picture(&folder.join("page-move.png")).await?;
        bench.click("Cancel").await?;
        bench.agent.say(snapshots::verifying());
        bench.shows("Verify against beta").await;
        whole("page-verify.png", 1280).await?;
        bench.agent.say(snapshots::hundred());
        bench.until("all groups", "document.querySelectorAll('article.group').length === 100").await;
        bench.browser.viewport((1280, 1000)).await?;
        bench.browser.run("scrollTo(0, 0); await new Promise((done) => setTimeout(done, 7000))").await?;
        bench.browser.picture(&folder.join("page-hundred.png")).await?;
        bench.agent.say(snapshots::resyncing());
        bench.browser.viewport((360, 1560)).await?;
        bench.shows("SyncSource").await;
        bench.browser.run("await new Promise((done) => setTimeout(done, 7000))").await?;
        bench.browser.picture(&folder.join("page-phone.png")).await?;
        bench.browser.viewport((1280, 700)).await?;
        bench.agent.die().await;
        bench.until("lost", "document.querySelector('.others')?.innerText.includes('answer')").await;
        bench.browser.run("scrollTo(0, 0); await new Promise((done) => setTimeout(done, 9000))").await?;
        bench.browser.picture(&folder.join("page-lost.png")).await?;
        Ok(())
    })
    .await;
}
