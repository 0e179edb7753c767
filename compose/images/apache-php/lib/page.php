<?php
// The page as HTML; index.php has set $host, $error, $count and $rows. No external resource, no build step.
declare(strict_types=1);

$text = fn (mixed $value): string => htmlspecialchars((string) $value, ENT_QUOTES | ENT_SUBSTITUTE);
$added = (int) ($_GET['added'] ?? 0);
?><!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Baton: <?= $text($host) ?> answers</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark;
  --ground: light-dark(#f6f5f1, #14171a); --card: light-dark(#ffffff, #1d2227); --ink: light-dark(#1c2126, #e8eaec);
  --soft: light-dark(#5d6670, #9aa4ae); --line: light-dark(#e0ddd4, #2e353c); --bad: light-dark(#b3261e, #ff8a80);
  --alpha: light-dark(#0b6e4f, #4fd1a5); --beta: light-dark(#8a4b08, #f2b05e); --host: light-dark(#33518c, #8fb4ff); }
.alpha { --host: var(--alpha) } .beta { --host: var(--beta) }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 44rem; margin: 0 auto; padding: 1.25rem 1rem 3rem }
section { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1.1rem 1.25rem; margin-top: 1rem }
h1 { margin: 0; font-size: clamp(2.2rem, 9vw, 3.4rem); line-height: 1.1; color: var(--host); overflow-wrap: anywhere }
h2 { margin: 0 0 .6rem; font-size: 1rem } p { margin: .2rem 0; color: var(--soft) }
.lead { border-left: .5rem solid var(--host) } .bad { color: var(--bad); font-weight: 600 }
form { display: flex; flex-wrap: wrap; gap: .6rem }
input, button { font: inherit; color: inherit; padding: .55rem .75rem; border-radius: .5rem; border: 1px solid var(--line); background: var(--ground); min-width: 0 }
input[name=name] { flex: 3 1 10rem } input[name=price] { flex: 1 1 5rem }
button { flex: 1 1 6rem; background: var(--host); color: var(--card); border-color: transparent; font-weight: 600; cursor: pointer }
:is(input, button):focus-visible { outline: 3px solid var(--host); outline-offset: 2px }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .85rem } .n { text-align: right; white-space: nowrap }
th, td { padding: .35rem .4rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere }
tr.new td { background: color-mix(in srgb, var(--host) 14%, transparent) }
ol { margin: .6rem 0 0; padding: 0; list-style: none; font-variant-numeric: tabular-nums } li { padding: .15rem 0 }
@media (max-width: 30rem) { .when { display: none } }
</style>
<body class="<?= preg_match('/^[a-z][a-z0-9-]*$/', $host) ? $host : '' ?>">
<main>
<section class="lead">
  <p>This page was served by</p>
  <h1 id="host"><?= $text($host) ?></h1>
  <p id="pulse" role="status">Cut its power or move the group, and watch who answers next.</p>
  <ol id="log" aria-label="Changes seen by this browser"></ol>
</section>

<?php if ($error !== null): ?>
<section role="alert"><p class="bad"><?= $text($error) ?></p></section>
<?php endif ?>

<section>
  <h2>Add a product</h2>
  <form method="post" action="/">
    <input name="name" aria-label="Name" placeholder="Name" maxlength="190" required autocomplete="off">
    <input name="price" aria-label="Price" placeholder="Price" inputmode="decimal" pattern="\d{1,8}([.,]\d{1,2})?" autocomplete="off">
    <button>Insert</button>
  </form>
</section>

<section>
  <h2>Table <code>product</code>: <span id="count"><?= $count ?></span> rows</h2>
  <table>
    <thead><tr><th class="n">id</th><th>name</th><th class="n">price</th><th class="n when">created (UTC)</th></tr></thead>
    <tbody id="rows">
<?php foreach ($rows as $row): ?>
      <tr<?= $row['id'] === $added ? ' class="new"' : '' ?>><td class="n"><?= $row['id'] ?></td><td><?= $text($row['name']) ?></td><td class="n"><?= $text($row['price']) ?></td><td class="n when"><?= $text($row['created_at']) ?></td></tr>
<?php endforeach ?>
    </tbody>
  </table>
</section>
</main>
<script>
// Asks four times a second who answers, and notes how long nobody did.
const [$, log] = [id => document.getElementById(id), document.getElementById('log')];
let host = $('host').textContent, lastAnswer = performance.now(), silent = false;
const cell = (row, value, name) => { const td = row.insertCell(); td.textContent = value; td.className = name };
function note(text) {
  const li = document.createElement('li');
  li.textContent = new Date().toLocaleTimeString() + '  ' + text;
  log.prepend(li);
  while (log.children.length > 8) log.lastChild.remove();
}
function show(data) {
  $('count').textContent = data.count;
  $('rows').replaceChildren(...data.rows.map(r => {
    const row = document.createElement('tr');
    cell(row, r.id, 'n'); cell(row, r.name, ''); cell(row, r.price, 'n'); cell(row, r.created_at, 'n when');
    return row;
  }));
}
async function ask() {
  const asked = performance.now();
  try {
    const answer = await fetch('/?format=json', { signal: AbortSignal.timeout(1000), cache: 'no-store' });
    const by = answer.headers.get('X-Served-By') || '?';
    if (!answer.ok) { $('pulse').textContent = by + ' answers, its database does not yet'; }
    else {
      const gap = ((performance.now() - lastAnswer) / 1000).toFixed(1), data = await answer.json();
      if (by !== host) note(host + ' → ' + by + (silent ? ', ' + gap + ' s without an answer' : ', without a gap'));
      else if (silent) note(by + ' is back after ' + gap + ' s');
      host = by; silent = false; lastAnswer = performance.now();
      $('host').textContent = by; document.title = 'Baton: ' + by + ' answers';
      document.body.className = /^[a-z][a-z0-9-]*$/.test(by) ? by : '';
      $('pulse').textContent = by + ' answered in ' + Math.round(lastAnswer - asked) + ' ms';
      show(data);
    }
  } catch { $('pulse').textContent = 'nobody answers'; }
  if (performance.now() - lastAnswer > 600) silent = true;
  setTimeout(ask, 250);
}
setTimeout(ask, 250);
</script>
</body>
</html>
