// What happened: the history, newest first, filtered by severity, group and text.

import { h } from './dom.js';
import { icon } from './icons.js';
import { clock, moment } from './format.js';

const RANK = { info: 0, warning: 1, critical: 2 };
const TONES = { info: 'idle', warning: 'warn', critical: 'bad' };
/** Entries shown; the agent keeps more. */
const MOST = 60;

/** The section. */
export function events(app) {
  const { ui, status } = app;
  const all = app.events.list;
  const text = ui.eventText.trim().toLowerCase();
  const shown = all.filter((event) => (RANK[event.severity] ?? 0) >= RANK[ui.severity]
    && (!ui.eventGroup || event.group === ui.eventGroup)
    && (!text || event.message.toLowerCase().includes(text) || event.node.includes(text)));
  return h('section', { key: 'events', class: 'events', 'aria-labelledby': 'events-title' },
    h('div', { class: 'head' },
      h('h2', { id: 'events-title' }, 'Events'),
      h('div', { class: 'filters', role: 'search', 'aria-label': 'Filter the events' },
        h('label', {}, h('span', { class: 'unseen' }, 'Severity'),
          h('select', { value: ui.severity, onchange: (e) => app.set({ severity: e.target.value }) },
            h('option', { value: 'info' }, 'Everything'), h('option', { value: 'warning' }, 'Warnings and worse'), h('option', { value: 'critical' }, 'Critical'))),
        status.groups.length > 1 && h('label', {}, h('span', { class: 'unseen' }, 'Group'),
          h('select', { value: ui.eventGroup, onchange: (e) => app.set({ eventGroup: e.target.value }) },
            h('option', { value: '' }, 'All groups'), status.groups.map((g) => h('option', { key: g.name, value: g.name }, g.name)))),
        h('label', {}, h('span', { class: 'unseen' }, 'Text in events'),
          h('input', { type: 'search', placeholder: 'Text', value: ui.eventText, oninput: (e) => app.set({ eventText: e.target.value }) })))),
    app.events.error && h('p', { class: 'note tone-warn' }, icon('warn'), `The history cannot be read now: ${app.events.error}`),
    shown.length === 0
      ? h('p', { class: 'dim none' }, all.length ? 'No event matches the filter.' : app.events.loaded ? 'Nothing happened yet.' : 'Reading the history …')
      : h('ol', { class: 'log', tabindex: '0', 'aria-label': 'Events, newest first' }, shown.slice(0, MOST).map(entry)),
    shown.length > MOST && h('p', { class: 'dim' }, `${shown.length - MOST} older ones: baton events.`));
}

function entry(event) {
  const tone = TONES[event.severity] ?? 'idle';
  return h('li', { key: `${event.n}-${event.at}-${event.node}`, class: tone },
    h('time', { datetime: event.at, title: moment(event.at) }, clock(event.at)),
    h('span', { class: `sev tone-${tone}` }, icon(tone), h('span', { class: 'word' }, event.severity)),
    h('span', { class: 'where' }, event.node, event.group && h('span', { class: 'dim' }, ` ${event.group}`), event.volume && h('span', { class: 'dim' }, ` ${event.volume}`)),
    h('span', { class: 'what' }, event.message));
}
