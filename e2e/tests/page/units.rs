//! The page's pure parts, each by itself, in the browser that will run them.

use crate::{Bench, snapshots};
use baton_e2e::browser::DESKTOP;
use serde_json::{Value, json};

/// Calls `expression` with the exports of the modules in scope.
async fn all(bench: &Bench, cases: &[(&str, Value)]) -> anyhow::Result<()> {
    for (expression, expected) in cases {
        let script = format!(
            "const folder = document.querySelector('script[type=module]').src.replace('app.js', '');
             const names = ['format', 'model', 'chart', 'api', 'dom'];
             const m = Object.assign({{}}, ...(await Promise.all(names.map((name) => import(folder + name + '.js')))));
             const {{ {names} }} = m; const status = {status};
             return {expression};",
            names = "bytes, duration, percent, nines, list, short, headline, changes, forbidden, progress, runningSteps, replicationLink, consequenceOfMode, modeSentence, moment, roundUp, linePath, areaPath, parser, h, patch",
            status = snapshots::healthy(),
        );
        let found = bench.browser.run(&script).await?;
        assert_eq!(&found, expected, "{expression}");
    }
    Ok(())
}

#[tokio::test]
async fn numbers_and_sentences() {
    Bench::run("units", DESKTOP, async |bench| {
        bench.open().await?;
        let resyncing = snapshots::resyncing();
        let down = snapshots::down();
        let headline_of = |status: &Value| format!("headline({status}).tone");
        all(bench, &[
            ("[0, 512, 1536, 1 << 30, 5e15, NaN].map(bytes)", json!(["0 B", "512 B", "1.5 KiB", "1 GiB", "4.44 PiB", "?"])),
            ("[0, 0.412, 41, 2089, 59_400, 61_000, 754_000, 7.2e6, 2e8].map(duration)", json!(["0 ms", "412 µs", "41 ms", "2.1 s", "59 s", "1 min 1 s", "13 min", "2 h", "2 d 8 h"])),
            ("[0, 0.46875, 0.9999, 1].map((x) => percent(x))", json!(["0 %", "46.9 %", "99.9 %", "100 %"])),
            ("[0.5, 0.99999, 0.999987, 1, NaN].map(nines)", json!(["50 %", "99.999 %", "99.9987 %", "100 %", "?"])),
            ("[list([]), list(['a']), list(['a', 'b']), list(['a', 'b', 'c']), list([...'abcdefgh'], 4)]", json!(["", "a", "a and b", "a, b and c", "a, b, c and 5 more"])),
            ("headline(status)", json!({"tone": "ok", "text": "web serves on alpha; beta could take over."})),
            (&headline_of(&resyncing), json!("warn")),
            (&headline_of(&down), json!("bad")),
            ("headline({ ...status, etcd: { reachable: false } }).tone", json!("warn")),
            ("changes(null, status)", json!([])),
            ("changes(status, status)", json!([])),
            (&format!("changes(status, {resyncing})"), json!(["beta left the in-sync set of web."])),
            (&format!("changes({resyncing}, status)"), json!(["beta is in sync with web again."])),
            ("['move', 'recover'].map((a) => forbidden(a, { role: 'operator' }))", json!(["", "Needs the role admin: you are operator."])),
            ("forbidden('move', null)", json!("It is not known yet what you may do.")),
            ("progress({ total_bytes: 0, done_bytes: 0 }).share", json!(1)),
            ("progress({ total_bytes: 100, done_bytes: 50, bytes_per_s: 0, eta_s: null }).text", json!("50 B of 100 B · not moving")),
            ("runningSteps(status.groups[0])", Value::Null),
            ("runningSteps({ ...status.groups[0], state: 'starting' }).map((s) => s.state)", json!(["done", "done", "current", "ahead"])),
            ("runningSteps({ ...status.groups[0], state: 'stopping' }).map((s) => s.state)[0]", json!("current")),
            ("replicationLink(status, 'beta').tone", json!("ok")),
            ("replicationLink(status, 'gamma').volumes", json!([])),
            ("modeSentence(status.nodes[1], status.at)", Value::Null),
            ("modeSentence({ mode: 'maintenance', mode_note: { owner: 'ada', reason: 'new disk', since: '2026-11-21T02:50:00Z', until: status.at, expired: true } }, status.at).text === `for 20 min, by ada, was to end at ${moment(status.at)}: new disk`", json!(true)),
            ("modeSentence({ mode: 'standby', mode_note: { owner: 'ada', reason: '', since: '2026-11-21T02:50:00Z', until: null, expired: false } }, status.at)", json!({"tone": "warn", "text": "for 20 min, by ada"})),
            ("consequenceOfMode(status, status.nodes[1], 'standby')[0]", json!("beta leads nothing now: no service is interrupted.")),
        ])
        .await
    })
    .await;
}

#[tokio::test]
async fn curves_streams_and_patches() {
    Bench::run("units", DESKTOP, async |bench| {
        bench.open().await?;
        all(bench, &[
            ("[0, 0.0007, 3, 99].map((x) => roundUp(x, false))", json!([1, 0.001, 5, 100])),
            ("roundUp(700 * 1024 * 1024, true) / 1024 / 1024", json!(768)),
            ("linePath([0, null, 10], 3, 10)", json!("M0 100h1M720 0h1")),
            ("linePath([5, 10], 3, 10)", json!("M360 50L720 0")),
            ("areaPath([null, 10, 10], 3, 10)", json!("M360 100L360 0L720 0L720 100Z")),
            ("linePath([], 3, 10)", json!("")),
            // Pieces end anywhere; a comment is no event; lines may end with CR LF.
            ("(() => { const got = []; const feed = parser((name, data) => got.push([name, data])); for (const piece of ['event: sta', 'tus\\ndata: {\"a\"', ':1}\\n', '\\n: alive\\n\\ndata: x\\r\\ndata: y\\r\\n\\r\\n', 'data: unfinished']) feed(piece); return got; })()", json!([["status", "{\"a\":1}"], ["message", "x\ny"]])),
            // What stays is the same element, whatever goes or comes around it.
            ("(() => { const box = document.createElement('div'); const draw = (keys) => patch(box, keys.map((k) => h('p', { key: k }, k))); draw([...'abc']); const c = box.children[2]; draw([...'cxa']); return [box.innerText || box.textContent, box.children[0] === c]; })()", json!(["cxa", true])),
            ("(() => { const box = document.createElement('div'); patch(box, [h('i', {}, 'a'), 'b']); patch(box, ['c', h('b', { title: 't' }, 'd'), null, false]); patch(box, ['c', h('b', {}, 'e')]); return box.innerHTML; })()", json!("c<b>e</b>")),
            ("(() => { const box = document.createElement('div'); patch(box, h('p', {}, '<img src=x onerror=alert(1)>')); return box.children[0].children.length; })()", json!(0)),
        ])
        .await
    })
    .await;
}
