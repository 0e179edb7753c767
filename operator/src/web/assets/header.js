// The bar on top, the headline with what to do, and what is said when the agent is lost.

import { h } from './dom.js';
import { icon, logo } from './icons.js';
import { clock, duration, moment } from './format.js';
import { headline } from './model.js';

const THEMES = ['auto', 'light', 'dark'];
const THEME_ICONS = { auto: 'auto', light: 'sun', dark: 'moon' };

/** The bar: cluster, who answers, how fresh, who we are, the theme. */
export function bar(app) {
  const { status, who, live, theme } = app;
  return [
    h('div', { class: 'brand' }, logo(), h('h1', {}, h('span', { class: 'unseen' }, 'Baton, cluster '), status?.cluster ?? 'Baton')),
    freshness(app),
    h('div', { class: 'tools' },
      who && h('button', { class: 'quiet who', onclick: app.onLogin, title: whoTitle(who) },
        icon('user'), h('span', { class: 'unseen' }, 'You: '), h('span', { class: 'name' }, who.name), h('span', { class: 'role' }, who.role)),
      !who && live.state === 'login' && h('button', { class: 'quiet', onclick: app.onLogin }, icon('key'), 'Log in'),
      h('button', {
        class: 'quiet square', onclick: () => app.onTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]),
        'aria-label': `Colours: ${theme}. Change`, title: `Colours: ${theme}`,
      }, icon(THEME_ICONS[theme]))),
  ];
}

function whoTitle(who) {
  const how = { nothing: 'no login is needed here', token: 'by token', certificate: 'by certificate', socket: 'on the socket' };
  return `${who.name}, role ${who.role} (${how[who.via] ?? who.via})`;
}

/** Which agent answers, and how old the newest fact is. */
function freshness({ status, live }) {
  const age = live.age();
  if (!status) return h('p', { class: 'fresh' }, live.state === 'lost' ? 'No answer yet' : 'Asking the agent …');
  const stale = live.stale();
  const word = live.state === 'lost' ? 'lost' : stale ? 'silent' : live.state === 'live' ? 'live' : 'polling';
  const tone = live.state === 'lost' || stale ? 'bad' : 'ok';
  return h('p', { class: `fresh ${tone}`, title: `Snapshot of ${moment(status.at)}` },
    h('span', { class: 'dot', 'aria-hidden': 'true' }),
    h('span', {}, 'Seen by ', h('strong', {}, status.node)),
    h('span', { class: 'sep', 'aria-hidden': 'true' }, '·'),
    h('span', { class: 'word' }, stale || live.state === 'lost' ? `${word}, ${duration(Math.round(age / 1000) * 1000)} old` : word));
}

/** The cluster in one sentence, and what to do. */
export function headlinePanel(app) {
  const { status, live } = app;
  const lost = live.stale() || live.state === 'lost';
  const head = headline(status);
  const tone = lost ? 'unknown' : head.tone;
  const title = lost ? 'Not known at the moment' : { ok: 'All is well', warn: 'Degraded', busy: 'Changing', bad: 'Down' }[tone];
  return h('section', { key: 'headline', class: `headline ${tone}`, 'aria-labelledby': 'health' },
    h('div', { class: 'sign', 'aria-hidden': 'true' }, icon(lost ? 'warn' : tone)),
    h('div', { class: 'words' },
      h('h2', { id: 'health' }, title),
      h('p', { class: 'sentence' }, lost ? `At ${clock(status.at)} it was: ${head.text}` : head.text),
      status.advice.length > 0 && h('div', { class: 'advice' },
        h('h3', {}, 'What to do'),
        h('ul', {}, status.advice.slice(0, 12).map((text) => h('li', {}, sentence(text)))),
        status.advice.length > 12 && h('p', { class: 'dim' }, `and ${status.advice.length - 12} more: see the groups that need attention.`))));
}

function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

/** What is said while the agent does not answer, with the other agents to go to. */
export function lostPanel(app) {
  const { live, status } = app;
  if (live.state === 'login') return null;
  const hung = live.state !== 'lost' && live.stale();
  if (live.state !== 'lost' && !hung) return null;
  const name = status?.node ?? 'The agent';
  const since = live.age();
  const what = hung
    ? `${name} answers, but with the same facts since ${duration(Math.round(since / 1000) * 1000)}: its decision core may hang. Look at its log.`
    : `${name} does not answer${since === null ? '' : ` since ${duration(Math.round(since / 1000) * 1000)}`}. Reconnecting …`;
  return h('section', { key: 'lost', class: 'lost', 'aria-labelledby': 'lost-title' },
    h('div', { class: 'sign', 'aria-hidden': 'true' }, icon('busy', 'spin')),
    h('div', { class: 'words' },
      h('h2', { id: 'lost-title' }, hung ? 'The agent stands still' : 'Agent lost'),
      h('p', {}, what),
      status && h('p', {}, `Everything below is from ${clock(status.at)} and may be wrong by now.`),
      live.others.length > 0 && h('ul', { class: 'others' }, live.others.map((other) => h('li', { key: other.name },
        h('a', { class: 'button', href: `${other.url}ui/` }, `Look at ${other.name}`),
        h('span', { class: other.answers ? 'tone-ok' : 'dim' },
          other.answers === undefined ? 'asking …' : other.answers ? 'answers' : 'does not answer'))))));
}
