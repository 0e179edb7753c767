// The page: holds what is known and what the reader chose, and draws both whenever one changes.

import { coalesce, h, patch } from './dom.js';
import { ApiError, get, hasToken, setToken, stream } from './api.js';
import { Live } from './live.js';
import { changes, headline } from './model.js';
import { bar, headlinePanel, lostPanel } from './header.js';
import { topology } from './topology.js';
import { groups } from './groups.js';
import { chartGroup, charts } from './charts.js';
import { events } from './events.js';
import { confirmation, loginForm, rehearse } from './actions.js';

const THEME = 'baton.theme';
/** The charts' values come every 5 s. */
const SERIES_MS = 5_000;
/** The history is read again this often, and whenever something changed or an event came. */
const EVENTS_MS = 10_000;
/** Entries asked for. */
const EVENTS_MOST = 200;
/** While nothing comes, ages go on: drawn again this often. */
const TICK_MS = 1_000;
/** Pause before the event stream is opened again. */
const STREAM_RETRY_MS = 3_000;

const $ = (id) => document.getElementById(id);
const draw = coalesce(render);

let questions = 0;

const app = {
  status: null,
  who: null,
  live: null,
  events: { list: [], loaded: false, error: '' },
  series: null,
  seriesError: '',
  noVerify: '',
  theme: localStorage.getItem(THEME) ?? 'auto',
  ask_: null,
  ui: {
    open: new Map(), groupText: '', attention: false, severity: 'info', eventGroup: '', eventText: '', range: '1h',
    chartGroup: '', cross: null,
  },

  set(change, reload = false) {
    Object.assign(app.ui, change);
    draw();
    if (reload) void loadSeries();
  },
  toggle(group, open) {
    app.ui.open.set(group, open);
    draw();
  },
  onShowGroup(event, group) {
    event.preventDefault();
    Object.assign(app.ui, { groupText: '', attention: false });
    app.ui.open.set(group, true);
    render();
    const target = $(`group-${group}`);
    target?.scrollIntoView({ block: 'start' });
    target?.focus({ preventScroll: true });
  },
  onTheme(theme) {
    app.theme = theme;
    localStorage.setItem(THEME, theme);
    dress();
    app.say(`Colours: ${theme}.`);
    draw();
  },
  onLogin() {
    app.login(null);
  },

  /** Opens a confirmation; the focus comes back to where it was when it closes. */
  ask(action, about) {
    open({ kind: 'confirm', action, about, choice: null, repair: false, note: { reason: '', length: '' }, busy: false, error: null, rehearsal: null });
    void rehearse(app, app.ask_);
  },
  choose(node) {
    app.setAsk({ ...app.ask_, choice: node, error: null, rehearsal: null });
    void rehearse(app, app.ask_);
  },
  chooseRepair(repair) {
    app.setAsk({ ...app.ask_, repair, error: null, rehearsal: null });
    void rehearse(app, app.ask_);
  },
  chooseNote(change) {
    const { reason, length } = { ...app.ask_.note, ...change };
    const rehearsed = length === app.ask_.note.length;
    app.setAsk({ ...app.ask_, note: { reason, length }, error: null });
    if (!rehearsed) void rehearse(app, app.ask_);
  },
  setAsk(ask) {
    // An answer to a question that is no longer asked changes nothing.
    if (!app.ask_ || app.ask_.id !== ask.id) return;
    app.ask_ = ask;
    drawDialog();
  },
  rehearsed(ask, rehearsal) {
    if (app.ask_?.id === ask.id) app.setAsk({ ...app.ask_, rehearsal });
  },
  /** Closes the dialog if it still asks this; what came of another question leaves it open. */
  close(ask) {
    if (app.ask_?.id !== ask.id) return;
    $('dialog').close();
    closed();
  },
  login(error) {
    open({ kind: 'login', busy: false, error });
  },
  async takeToken(token) {
    if (!token) return;
    const ask = app.ask_;
    app.setAsk({ ...ask, busy: true, error: null });
    setToken(token);
    try {
      app.who = await get('/v1/whoami');
      app.close(ask);
      app.say(`Logged in as ${app.who.name}, role ${app.who.role}.`);
      app.live.retry();
      void loadEvents();
      void loadSeries();
    } catch (error) {
      setToken(null);
      app.setAsk({ ...ask, busy: false, error });
    }
    draw();
  },

  /** Says something to whoever listens rather than looks, and shows it for a while to those who look. */
  say(text, urgent = false) {
    const region = $(urgent ? 'urgent' : 'said');
    // The same text twice is said twice only if it changes.
    region.textContent = region.textContent === text ? `${text} ` : text;
    app.toast = { text, until: performance.now() + 6_000, urgent };
    draw();
  },
};

function dress() {
  if (app.theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = app.theme;
}

// --- the dialog ---------------------------------------------------------------------------------------------------

function open(ask) {
  const dialog = $('dialog');
  questions += 1;
  app.ask_ = { ...ask, id: questions };
  drawDialog();
  if (!dialog.open) {
    app.before = document.activeElement;
    dialog.showModal();
  }
  dialog.querySelector('input:checked, #token, [data-confirm]')?.focus();
}

function drawDialog() {
  if (!app.ask_) return;
  patch($('dialog'), app.ask_.kind === 'login' ? loginForm(app, app.ask_) : confirmation(app, app.ask_));
}

/** Tidies up after a question, once. The browser's event comes a while after, when the next one may be open already. */
function closed() {
  if (!app.ask_ || $('dialog').open) return;
  app.ask_ = null;
  patch($('dialog'), []);
  if (app.before?.isConnected) app.before.focus();
  else $('main').focus();
  app.before = null;
  // Without a login nothing can be shown: it asks again. Not at once: whoever has just logged in is heard first.
  setTimeout(() => !app.ask_ && app.live.state === 'login' && !app.status && app.login(null), 0);
}

// --- what is known ------------------------------------------------------------------------------------------------

function take(status) {
  const before = app.status;
  app.status = status;
  const said = changes(before, status);
  if (said.length) {
    const worse = headline(status).tone === 'bad' && headline(before).tone !== 'bad';
    app.say(said.join(' '), worse);
    void loadEvents();
  }
  if (!before) {
    void loadEvents();
    void loadSeries();
  }
  draw();
}

async function loadWho() {
  try {
    app.who = await get('/v1/whoami');
  } catch (error) {
    app.who = null;
    if (!(error instanceof ApiError)) setTimeout(loadWho, STREAM_RETRY_MS);
  }
  draw();
}

/** At most one request at a time; one that is asked for meanwhile follows. */
function single(work) {
  let running = false;
  let again = false;
  return async () => {
    if (running) {
      again = true;
      return;
    }
    running = true;
    do {
      again = false;
      await work();
      draw();
    } while (again);
    running = false;
  };
}

const usable = () => app.status && (app.live.state === 'live' || app.live.state === 'polling');

const loadEvents = single(async () => {
  if (!usable()) return;
  try {
    const list = await get(`/v1/events?n=${EVENTS_MOST}`);
    app.events = { list: list.reverse(), loaded: true, error: '' };
  } catch (error) {
    app.events.error = error.message;
  }
});

const loadSeries = single(async () => {
  if (!usable() || document.hidden) return;
  const group = chartGroup(app);
  if (!group) return;
  try {
    app.series = await get(`/v1/series?range=${app.ui.range}&group=${encodeURIComponent(group)}`);
    app.seriesError = '';
  } catch (error) {
    app.seriesError = error.message;
  }
});

/** Events as they come only wake: what is shown is always what the history says. */
async function followEvents() {
  for (;;) {
    if (usable()) {
      try {
        await stream('/v1/events?n=1', {
          silence: 60_000, signal: new AbortController().signal, onEvent: () => void loadEvents(),
        });
      } catch { /* The live status tells whether the agent is there. */ }
    }
    await new Promise((done) => setTimeout(done, STREAM_RETRY_MS));
  }
}

function others() {
  const { status } = app;
  if (!status) return [];
  const port = location.port ? `:${location.port}` : '';
  return status.nodes.filter((node) => node.name !== status.node).map((node) => {
    const host = node.address.includes(':') ? `[${node.address}]` : node.address;
    return { name: node.name, url: `${location.protocol}//${host}${port}/` };
  });
}

// --- drawing --------------------------------------------------------------------------------------------------------

function render() {
  const begin = performance.now();
  const { status, live } = app;
  patch($('header'), bar(app));
  if (status) {
    const stale = live.stale() || live.state === 'lost';
    $('main').className = stale ? 'stale' : '';
    patch($('main'), [lostPanel(app), headlinePanel(app), topology(app), groups(app), charts(app), events(app)]);
    patch($('footer'), [
      h('span', {}, `Baton ${status.version}`), h('a', { href: '/docs/' }, 'API'),
      toast(),
    ]);
    document.title = `${stale ? '? ' : { ok: '', warn: '! ', busy: '… ', bad: '✕ ' }[headline(status).tone]}${status.cluster} · Baton`;
  } else {
    patch($('main'), [lostPanel(app) ?? h('p', { key: 'wait', class: 'plain' }, live.state === 'login' ? 'Log in to see the cluster.' : 'Asking the agent …')]);
    patch($('footer'), [toast()]);
  }
  if (app.ask_) drawDialog();
  // For people who look into how long a page takes, and for the test of a hundred groups.
  app.drawn = performance.now() - begin;
  document.documentElement.dataset.drawn = app.drawn.toFixed(1);
}

function toast() {
  if (!app.toast || performance.now() > app.toast.until) return null;
  return h('div', { key: 'toast', class: `toast ${app.toast.urgent ? 'urgent' : ''}`, 'aria-hidden': 'true' }, app.toast.text);
}

dress();
app.live = new Live({
  status: take,
  others,
  state: () => {
    if (app.live.state === 'lost' && app.status) app.say(`${app.status.node} does not answer.`, true);
    draw();
  },
  unauthorised: (error) => {
    app.who = null;
    const had = hasToken();
    setToken(null);
    if (app.ask_?.kind !== 'login') app.login(had ? error : null);
    draw();
  },
});
$('dialog').addEventListener('close', closed);
setInterval(draw, TICK_MS);
setInterval(() => void loadSeries(), SERIES_MS);
setInterval(() => void loadEvents(), EVENTS_MS);
document.addEventListener('visibilitychange', () => !document.hidden && void loadSeries());
render();
void loadWho();
void app.live.run();
void followEvents();
