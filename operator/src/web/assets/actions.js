// What can be asked of the cluster: each with a confirmation that says what it means, and its outcome.
//
// A button for what somebody may not do stays in place and in the order of the keyboard, says why, and does nothing.

import { h } from './dom.js';
import { icon } from './icons.js';
import { ApiError, explain, send } from './api.js';
import {
  bare, consequenceOfMode, consequenceOfMove, consequenceOfRecover, consequenceOfVerify, forbidden, lastMove, readyStandbys,
} from './model.js';

/** A button that opens a confirmation; `reason` disables it besides what the role forbids. */
export function actionButton(app, action, text, onclick, label, look = '', reason = '') {
  const why = app.live.stale() ? 'The agent does not answer at the moment.' : forbidden(action, app.who) || reason;
  return h('button', {
    key: `${action}-${text}`,
    type: 'button',
    class: `button ${look}`,
    'aria-label': why ? `${label}: not possible. ${why}` : label,
    'aria-disabled': why ? 'true' : undefined,
    'aria-haspopup': 'dialog',
    title: why || undefined,
    onclick: why ? () => app.say(why, true) : onclick,
  }, look === 'move' && icon('move'), text);
}

/** Titles, words and requests of the actions; nothing if what it concerns is gone. */
function plan(app, { action, about, choice, repair, note }) {
  const { status } = app;
  if (action === 'move') {
    const group = status.groups.find((g) => g.name === about.group);
    if (!group) return null;
    const to = choice ?? readyStandbys(group)[0] ?? null;
    return {
      title: `Move ${group.name}`, verb: to ? `Move to ${to}` : 'Move', group, to,
      says: consequenceOfMove(group, to), keeps: lastMove(group),
      blocked: to ? '' : 'No host could take it over now.',
      path: `/v1/groups/${encodeURIComponent(group.name)}/move`, method: 'POST', body: to ? { to } : {}, rehearses: true,
    };
  }
  if (action === 'mode') {
    const node = status.nodes.find((n) => n.name === about.node);
    if (!node) return null;
    return {
      title: about.mode === 'online' ? `Set ${node.name} online` : `Set ${node.name} to ${about.mode}`,
      verb: about.mode === 'online' ? 'Set online' : `Set to ${about.mode}`,
      says: consequenceOfMode(status, node, about.mode), blocked: '',
      path: `/v1/nodes/${encodeURIComponent(node.name)}/mode`, method: 'PUT', body: { mode: about.mode, ...noteOf(about.mode, note) }, rehearses: true,
    };
  }
  if (action === 'verify') {
    const volume = status.groups.flatMap((g) => g.volumes).find((v) => v.volume === about.volume);
    if (!volume) return null;
    const path = `/v1/volumes/${encodeURIComponent(volume.volume)}/verify`;
    return {
      title: `Verify ${volume.volume}`, verb: repair ? 'Verify and repair' : 'Verify', says: consequenceOfVerify(volume, repair), blocked: '',
      path: repair ? `${path}?repair=true` : path, method: 'POST', body: {}, rehearses: true,
    };
  }
  const group = status.groups.find((g) => g.name === about.group);
  if (!group) return null;
  return {
    title: `Recover ${group.name}`, verb: 'Recover', danger: true, says: consequenceOfRecover(status, group), blocked: '',
    path: `/v1/groups/${encodeURIComponent(group.name)}/recover`, method: 'POST', rehearses: true,
  };
}

/** What of the note goes with this mode: empty fields are not sent, so that what was said before stays. */
function noteOf(mode, { reason, length }) {
  const said = mode === 'online' ? '' : reason.trim();
  return { ...(said && { reason: said }), ...(mode === 'maintenance' && length && { for: length }) };
}

/** What tells one choice from another. Why somebody chooses it changes no consequence. */
const chosen = (what) => `${what.path} ${JSON.stringify({ ...what.body, reason: undefined })}`;

/**
 * Asks the agent what would follow, without doing it: its word counts more than what the page makes of the snapshot. A
 * refusal is known before anything is confirmed. Asked once per choice.
 */
export async function rehearse(app, ask) {
  const what = ask.kind === 'confirm' && plan(app, ask);
  if (!what || !what.rehearses || what.blocked) return;
  const about = chosen(what);
  try {
    const answer = await send(what.method, `${what.path}${what.path.includes('?') ? '&' : '?'}dry_run=true`, what.body);
    // An agent that does not rehearse would have said 202.
    if (answer?.dry_run) app.rehearsed(ask, { about, says: answer.consequences ?? [] });
  } catch (error) {
    if (error instanceof ApiError && error.status === 409) app.rehearsed(ask, { about, refused: error.problem.detail });
  }
}

/** The confirmation. `ask` is `{ action, about, choice, repair, note, busy, error }`. */
export function confirmation(app, ask) {
  const what = plan(app, ask);
  if (!what) {
    return [title('It is gone'), h('p', {}, 'What this concerned is no longer in the specification.'), h('div', { class: 'buttons' }, cancel(app, ask, 'Close'))];
  }
  const stale = app.live.stale();
  const heard = ask.rehearsal?.about === chosen(what) ? ask.rehearsal : null;
  const blocked = what.blocked || (stale ? 'The agent does not answer at the moment.' : '') || (heard?.refused ? `Refused: ${heard.refused}` : '');
  const says = heard?.says?.length ? [...new Set([...heard.says.map(sentence), ...(what.keeps ?? [])])] : what.says;
  return [
    title(what.title),
    ask.action === 'move' && targets(app, what, ask),
    ask.action === 'verify' && repairChoice(app, ask),
    ask.action === 'mode' && ask.about.mode !== 'online' && modeNote(app, ask),
    h('div', { class: 'consequence', id: 'dialog-says' },
      h('h3', {}, 'What happens'),
      h('ul', {}, says.map((text) => h('li', { key: text }, text)))),
    blocked && h('p', { class: 'note tone-warn' }, icon('warn'), blocked),
    ask.error && problem(ask.error),
    h('div', { class: 'buttons' },
      cancel(app, ask, 'Cancel'),
      h('button', {
        type: 'button', class: `button primary ${what.danger ? 'danger' : ''}`, 'data-confirm': '',
        'aria-disabled': blocked || ask.busy ? 'true' : undefined, 'aria-describedby': 'dialog-says',
        onclick: () => !blocked && !ask.busy && carryOut(app, ask, what),
      }, ask.busy ? 'Asking …' : what.verb)),
  ];
}

function title(text) {
  return h('h2', { id: 'dialog-title' }, text);
}

function cancel(app, ask, text) {
  return h('button', { type: 'button', class: 'button', 'data-cancel': '', onclick: () => app.close(ask) }, text);
}

function targets(app, { group, to }, ask) {
  const others = group.nodes.filter((part) => part.node !== group.leader);
  return h('fieldset', { class: 'targets' },
    h('legend', {}, group.leader ? `From ${group.leader} to` : 'To'),
    others.map((part) => h('label', { key: part.node, class: part.ready ? '' : 'off' },
      h('input', {
        type: 'radio', name: 'target', value: part.node, checked: part.node === to, disabled: !part.ready,
        onchange: () => app.choose(part.node),
      }),
      h('span', {}, h('strong', {}, part.node),
        h('span', { class: part.ready ? 'tone-ok' : 'tone-warn' }, part.ready ? 'ready: holds every acknowledged write' : part.reason || 'not ready')))),
    group.addresses.length > 0 && h('p', { class: 'dim' }, 'Address: ', group.addresses.map((a) => h('code', { key: a }, bare(a)))));
}

function repairChoice(app, { repair }) {
  return h('div', { class: 'targets' },
    h('label', {},
      h('input', { type: 'checkbox', name: 'repair', checked: repair, onchange: (event) => app.chooseRepair(event.target.checked) }),
      h('span', {}, h('strong', {}, 'Repair'), h('span', { class: 'dim' }, 'copy what differs from the primary'))));
}

/** How long a maintenance may be said to last; whoever needs another time writes `baton maintenance NODE --for`. */
const LENGTHS = [['', 'not said'], ['30m', '30 minutes'], ['1h', '1 hour'], ['2h', '2 hours'], ['4h', '4 hours'], ['8h', '8 hours'], ['1d', '1 day']];

/** Why, and until when: for the colleague who looks at it at 3 a.m. */
function modeNote(app, { about, note }) {
  return h('div', { class: 'fields' },
    h('label', { for: 'reason' }, 'Reason'),
    h('input', {
      id: 'reason', name: 'reason', type: 'text', maxlength: '200', autocomplete: 'off', placeholder: 'new disk', value: note.reason,
      oninput: (event) => app.chooseNote({ reason: event.target.value }),
    }),
    about.mode === 'maintenance' && [
      h('label', { key: 'for-length', for: 'length' }, 'Over in'),
      h('select', {
        key: 'length', id: 'length', name: 'length', value: note.length, 'aria-describedby': 'length-says',
        onchange: (event) => app.chooseNote({ length: event.target.value }),
      }, LENGTHS.map(([value, text]) => h('option', { key: text, value }, text))),
      h('p', { key: 'length-says', id: 'length-says', class: 'dim' }, 'Nothing ends by itself: status, an event and an alert remind of it.'),
    ]);
}

/** A problem document, complete. */
export function problem(error) {
  const { title: text, detail, rest } = explain(error);
  return h('div', { class: 'problem', role: 'alert' },
    h('strong', {}, icon('bad'), text),
    detail && h('p', {}, detail),
    rest.length > 0 && h('dl', {}, rest.map(([name, value]) => h('div', { key: name }, h('dt', {}, name), h('dd', {}, value)))));
}

async function carryOut(app, ask, what) {
  app.setAsk({ ...ask, busy: true, error: null });
  try {
    const answer = await send(what.method, what.path, what.body);
    app.close(ask);
    app.say(sentence(answer?.message ?? `${what.title}: accepted.`));
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) {
      app.setAsk({ ...ask, busy: false });
      app.login(error);
      return;
    }
    if (ask.action === 'verify' && error instanceof ApiError && error.status === 404) {
      app.noVerify = 'This agent cannot verify volumes.';
    }
    app.setAsk({ ...ask, busy: false, error });
    // Whoever has closed the dialog meanwhile has to know all the same.
    if (app.ask_?.id !== ask.id) app.say(`${what.title}: ${explain(error).detail || explain(error).title}`, true);
  }
}

function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}

/** The login. */
export function loginForm(app, ask) {
  return [
    title(app.who ? 'Log in as somebody else' : 'Log in'),
    h('p', {}, `${app.status ? `${app.status.node} wants` : 'The agent wants'} a token. It is kept in this tab only and is gone when you close it.`),
    app.who && h('p', { class: 'dim' }, `You are ${app.who.name}, role ${app.who.role}.`),
    h('form', {
      class: 'login', method: 'dialog',
      onsubmit: (event) => {
        event.preventDefault();
        app.takeToken(event.target.elements.token.value.trim());
      },
    },
    h('label', { for: 'token' }, 'Token'),
    h('input', { id: 'token', name: 'token', type: 'password', autocomplete: 'off', spellcheck: 'false', required: true }),
    h('p', { class: 'dim' }, 'Make one on a host with ', h('code', {}, 'baton token create NAME --role operator'), '.'),
    ask.error && problem(ask.error),
    h('div', { class: 'buttons' },
      app.status && cancel(app, ask, 'Cancel'),
      h('button', { type: 'submit', class: 'button primary', 'data-confirm': '' }, ask.busy ? 'Asking …' : 'Log in'))),
  ];
}
