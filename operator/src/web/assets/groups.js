// The groups: one line each, and everything about one when it is opened. A hundred of them fit on one page.

import { h } from './dom.js';
import { icon } from './icons.js';
import { clock, count, duration, list, moment, percent } from './format.js';
import { bare, isMoving, needsAttention, readyStandbys, reasonOf, runningSteps, toneOfDisk, toneOfState, whyAttention, wordOfState } from './model.js';
import { actionButton } from './actions.js';
import { volumeRow } from './volumes.js';

/** Up to so many groups all are open; beyond they are lines to open. */
const ALL_OPEN = 4;
/** Replicators and containers are looked at every second: facts older than this are called old. */
const OLD_MS = 3_000;

/** Whether a group shows everything. */
function isOpen(app, group) {
  return app.ui.open.get(group.name) ?? app.status.groups.length <= ALL_OPEN;
}

/** The section. */
export function groups(app) {
  const { status, ui } = app;
  const all = status.groups;
  const attention = all.filter(needsAttention).length;
  const text = ui.groupText.trim().toLowerCase();
  const shown = all.filter((group) => (!ui.attention || needsAttention(group)) && (!text || matches(group, text)));
  return h('section', { key: 'groups', id: 'groups', class: 'groups', tabindex: '-1', 'aria-labelledby': 'groups-title' },
    h('div', { class: 'head' },
      h('h2', { id: 'groups-title' }, 'Groups', h('span', { class: 'number' }, String(all.length))),
      all.length > ALL_OPEN && h('div', { class: 'filters', role: 'search', 'aria-label': 'Filter the groups' },
        h('label', {}, h('span', { class: 'unseen' }, 'Name, host or address'),
          h('input', { type: 'search', placeholder: 'Name, host or address', value: ui.groupText, oninput: (e) => app.set({ groupText: e.target.value }) })),
        h('label', { class: 'check' },
          h('input', { type: 'checkbox', checked: ui.attention, onchange: (e) => app.set({ attention: e.target.checked }) }),
          `Needs attention (${attention})`),
        h('span', { class: 'dim', role: 'status' }, shown.length === all.length ? '' : `${shown.length} shown`))),
    shown.length === 0 && h('p', { class: 'dim none' }, all.length ? 'No group matches the filter.' : 'The specification has no groups.'),
    h('div', { class: `list ${all.length > ALL_OPEN ? 'compact' : ''}` },
      all.length > ALL_OPEN && shown.length > 0 && columns(),
      shown.map((group) => row(app, group))));
}

/** Names of the columns, for those who look; each line has them for those who listen. */
function columns() {
  return h('div', { key: 'columns', class: 'columns-head', 'aria-hidden': 'true' },
    h('span', {}, 'Group'), h('span', {}, 'State'),
    h('div', { class: 'brief' }, ['Leader', 'Epoch', 'In sync', 'Could take over', 'Address'].map((name) => h('span', {}, name))),
    h('span', {}));
}

function matches(group, text) {
  return [group.name, group.leader ?? '', ...group.addresses].some((word) => word.toLowerCase().includes(text));
}

function row(app, group) {
  const open = isOpen(app, group);
  const tone = group.state === 'serving' && needsAttention(group) ? 'warn' : toneOfState(group.state);
  const id = `group-${group.name}`;
  const ready = readyStandbys(group);
  return h('article', { key: id, id, class: `group ${tone} ${open ? 'open' : ''}`, tabindex: '-1', 'data-group': group.name, 'aria-labelledby': `${id}-title` },
    h('header', {},
      h('h3', {},
        h('button', { class: 'opener', 'aria-expanded': String(open), 'aria-controls': open ? `${id}-body` : undefined, onclick: () => app.toggle(group.name, !open) },
          icon('down', open ? 'turned' : ''), h('span', { id: `${id}-title` }, group.name))),
      h('span', { class: `chip ${toneOfState(group.state)}` }, icon(toneOfState(group.state)), wordOfState(group.state)),
      h('dl', { class: 'brief' },
        pair('leader', 'Leader', group.leader ? h('strong', { class: 'leader-name' }, group.leader) : h('span', { class: 'tone-bad' }, 'nobody')),
        pair('epoch', 'Epoch', String(group.epoch.number)),
        pair('insync', 'In sync', h('span', { class: group.in_sync.length < 2 && group.nodes.length > 1 ? 'tone-warn' : '' }, group.in_sync.length ? group.in_sync.join(', ') : 'nobody')),
        pair('ready', 'Could take over', ready.length ? list(ready) : h('span', { class: 'tone-warn' }, 'nobody')),
        group.safety?.length ? pair('safety', 'Safety', group.safety.map((level) => level.replaceAll('_', ' ')).join(', ')) : null,
        pair('address', 'Address', group.addresses.length ? group.addresses.map((a) => h('code', { key: a }, bare(a))) : h('span', { class: 'dim' }, 'none'))),
      actionButton(app, 'move', 'Move …', () => app.ask('move', { group: group.name }), `Move ${group.name}`, 'move')),
    !open && whyAttention(group) && h('p', { class: 'because' }, whyAttention(group)),
    !open && isMoving(group) && steps(group),
    open && body(app, group, `${id}-body`));
}

function pair(name, term, value) {
  return h('div', { key: name, class: `pair ${name}` }, h('dt', {}, term), h('dd', {}, value));
}

function body(app, group, id) {
  return h('div', { class: 'body', id },
    reasonOf(group) && needsAttention(group) && h('p', { class: 'because' }, `Because ${reasonOf(group)}.`),
    group.target && group.target !== group.leader && h('p', { class: 'because' }, `Asked to move to ${group.target}.`),
    group.disabled && h('p', { class: 'because' }, `Disabled by ${noted(group.disabled)}.`),
    group.rests_with && h('p', { class: 'because' }, `Goes with ${group.rests_with}, which is disabled.`),
    group.pinned && h('p', { class: 'because' }, `Pinned by ${noted(group.pinned)}.`),
    isMoving(group) && steps(group),
    h('div', { class: 'columns' },
      h('div', { class: 'column' }, nodes(app, group), services(app, group)),
      h('div', { class: 'column' },
        group.volumes.length > 0 && h('h4', {}, 'Volumes', h('span', { class: 'dim' }, ` as ${group.fresh?.volumes_from ?? app.status.node} sees them`), old(app, group.fresh?.volumes_ms)),
        group.volumes.map((volume) => volumeRow(app, volume)),
        served(group), timeline(app, group))),
    h('div', { class: 'more' },
      actionButton(app, 'recover', 'Recover …', () => app.ask('recover', { group: group.name }), `Recover ${group.name}`, 'small')));
}

/** Who said so, since when and why, without the full stop. */
function noted(note) {
  return `${note.owner}, since ${note.since}${note.reason ? `: ${note.reason}` : ''}`;
}

/** Says how old facts are that should be newer: those that are fresh need no word. */
function old(app, ms) {
  const age = ms === null || ms === undefined ? null : ms + (app.live.age() ?? 0);
  return age !== null && age > OLD_MS && h('span', { class: 'tone-bad' }, `, ${duration(Math.round(age / 1000) * 1000)} old`);
}

function nodes(app, group) {
  return h('div', { key: 'nodes' }, h('h4', {}, 'Hosts'),
    h('ul', { class: 'rows' }, group.nodes.map((part) => {
      const leads = part.node === group.leader;
      const age = part.age_ms === null ? null : part.age_ms + (app.live.age() ?? 0);
      return h('li', { key: part.node },
        h('strong', { class: 'who' }, part.node),
        h('span', { class: `tone-${toneOfState(part.state)}` }, wordOfState(part.state)),
        h('span', { class: part.disk ? `tone-${toneOfDisk(part.disk)}` : 'dim' },
          part.disk ?? 'no data', part.resync_percent !== null && ` ${percent(part.resync_percent / 100)}`),
        h('span', { class: leads || part.ready ? '' : 'tone-warn' }, leads ? 'leads' : part.ready ? 'could take over' : 'cannot take over'),
        h('span', { class: age === null || age > 1500 ? 'tone-bad' : 'dim' },
          age === null ? 'never heard' : age > 1500 ? `seen ${duration(Math.round(age / 1000) * 1000)} ago` : 'fresh'),
        // Why all is well needs no words.
        part.reason && !part.ready && !(leads && part.state === 'serving') && h('span', { class: 'note' }, part.reason));
    })));
}

function services(app, group) {
  if (!group.services.length) return null;
  return h('div', { key: 'services' }, h('h4', {}, 'Services', group.leader && h('span', { class: 'dim' }, ` on ${group.leader}`), old(app, group.fresh?.services_ms)),
    h('ul', { class: 'rows' }, group.services.map((service) => h('li', { key: service.name },
      h('strong', { class: 'who', title: service.container }, service.name),
      h('span', { class: service.state === 'running' ? 'tone-ok' : 'tone-bad' }, service.state),
      h('span', { class: service.health === 'unhealthy' ? 'tone-bad' : service.health ? '' : 'dim' }, service.health ?? 'no check'),
      h('span', { class: service.restarts ? 'tone-warn' : 'dim' }, count(service.restarts, 'restart')),
      service.error && h('span', { class: 'note tone-bad' }, service.error)))));
}

function served(group) {
  const seen = group.availability;
  if (!seen || !seen.observed_seconds) return null;
  const last = seen.last_outage;
  const lasted = last && (last.seconds === null ? 'lasts' : duration(last.seconds * 1000));
  return h('p', { key: 'served', class: 'served dim' },
    `Watched for ${duration(seen.observed_seconds * 1000)}: ${seen.unavailable_seconds ? `${duration(seen.unavailable_seconds * 1000)} without service in ${count(seen.outages, 'interruption')}` : 'never without service'}`,
    last && seen.outages > 0 && `, the last at ${clock(last.noticed_at)} (${lasted})`, '.');
}

/** The steps of a change that runs now. */
function steps(group) {
  const running = runningSteps(group);
  return h('ol', { key: 'steps', class: 'steps', 'aria-label': `What happens to ${group.name} now` },
    running.map((step) => h('li', { key: step.step, class: step.state, 'aria-current': step.state === 'current' ? 'step' : undefined },
      icon(step.state === 'done' ? 'ok' : step.state === 'current' ? 'busy' : 'idle', step.state === 'current' ? 'spin' : ''), step.step,
      step.ms !== undefined && h('span', { class: 'dim' }, duration(step.ms)))));
}

/** The last change of leadership this agent carried out, step by step. */
function timeline(app, group) {
  const last = group.last_takeover;
  if (!last) return null;
  const total = Math.max(1, last.total_ms, last.steps.reduce((sum, step) => sum + step.ms, 0));
  const kind = last.kind.charAt(0).toUpperCase() + last.kind.slice(1);
  return h('div', { key: 'timeline', class: 'timeline' },
    h('h4', {}, 'Last change', h('span', { class: 'dim' }, ` carried out by ${app.status.node}`)),
    h('p', {}, `${kind} at ${moment(last.at)}, epoch ${last.epoch.number}: `, h('strong', {}, duration(last.total_ms))),
    h('div', { class: 'strip', 'aria-hidden': 'true' }, last.steps.map((step, n) => h('div', {
      key: step.step, class: `part p${n % 6}`, style: { 'flex-grow': String(Math.max(step.ms / total, 0.004)) }, title: `${step.step} ${duration(step.ms)}`,
    }))),
    h('ol', { class: 'legend', 'aria-label': 'Steps' }, last.steps.map((step, n) => h('li', { key: step.step },
      h('span', { class: `swatch p${n % 6}`, 'aria-hidden': 'true' }), `${step.step} `, h('span', { class: 'dim' }, duration(step.ms))))));
}
