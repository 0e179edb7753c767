// The charts: what the agent remembers of the last hour or day (`GET /v1/series`).

import { h } from './dom.js';
import { chart } from './chart.js';
import { bytes, count, duration, moment, nines, rate } from './format.js';

const RANGES = { '1h': { slots: 720, word: 'Hour' }, '24h': { slots: 1440, word: 'Day' } };

/** The group the charts are about. */
export function chartGroup(app) {
  const { groups } = app.status;
  return (groups.find((group) => group.name === app.ui.chartGroup) ?? groups[0])?.name ?? null;
}

/** The section. */
export function charts(app) {
  const { ui, status, series } = app;
  const group = chartGroup(app);
  if (!group) return null;
  return h('section', { key: 'charts', class: 'charts', 'aria-labelledby': 'charts-title' },
    h('div', { class: 'head' },
      h('h2', { id: 'charts-title' }, 'Charts', h('span', { class: 'dim' }, ` as ${series?.node ?? status.node} remembers`)),
      h('div', { class: 'filters' },
        status.groups.length > 1 && h('label', {}, h('span', { class: 'unseen' }, 'Group of the charts'),
          h('select', { value: group, onchange: (e) => app.set({ chartGroup: e.target.value }, true) }, status.groups.map((g) => h('option', { key: g.name, value: g.name }, g.name)))),
        h('div', { class: 'switch', role: 'group', 'aria-label': 'Range' }, Object.entries(RANGES).map(([range, { word }]) => h('button', {
          key: range, type: 'button', 'aria-pressed': String(ui.range === range), onclick: () => app.set({ range }, true),
        }, word))))),
    app.seriesError && h('p', { class: 'note tone-warn' }, `The charts cannot be read now: ${app.seriesError}`),
    series ? h('div', { class: 'grid' }, all(app, group)) : h('p', { class: 'dim none' }, 'Reading …'));
}

function all(app, group) {
  const { series, ui } = app;
  const { slots } = RANGES[series.range] ?? RANGES['1h'];
  const newest = series.newest_at ? new Date(series.newest_at) : null;
  const step = series.step_seconds;
  const standby = app.status.groups.find((g) => g.name === group)?.leader !== series.node;
  const primary = standby ? 'Known to the primary only: ask the leader’s agent' : 'Nothing measured yet';
  const nothing = 'Nothing measured yet: the first values come after some seconds';
  const of = (name, label) => series.series
    .filter((one) => one.name === name && (!one.labels.group || one.labels.group === group))
    .map((one) => ({ name: label(one.labels), values: one.values }));
  const draw = (id, title, lines, format, more = {}) => chart({
    id: `chart-${id}`, title, lines, slots, step, newest, format, empty: nothing,
    at: ui.cross?.id === id ? ui.cross.at : null,
    onRead: (at) => app.set({ cross: at === null ? null : { id, at } }),
    ...more,
  });
  const peers = (labels) => (labels.peer ? `${labels.volume} to ${labels.peer}` : labels.volume);
  return [
    reached(series.availability[group]),
    draw('down', 'Without service', scaled(of('unavailable_ratio', () => group), step), (s) => duration(s * 1000), { kind: 'bad' }),
    draw('lag', 'Replication lag', of('replication_lag_seconds', peers), (s) => duration(s * 1000), { empty: primary }),
    draw('dirty', 'Dirty bytes', of('dirty_bytes', peers), bytes, { binary: true, empty: primary }),
    draw('writes', 'Writes', of('written_bytes_per_second', (l) => l.volume), rate, { binary: true, empty: primary }),
    draw('gaps', 'Longest heartbeat gap', of('heartbeat_gap_seconds', (l) => l.node), (s) => duration(s * 1000)),
  ];
}

/** Shares of a step as seconds of it. The result is kept, so that it is drawn once. */
const scaledValues = new WeakMap();
function scaled(lines, step) {
  return lines.map((line) => {
    if (!scaledValues.has(line.values)) scaledValues.set(line.values, line.values.map((v) => (v === null ? null : v * step)));
    return { ...line, values: scaledValues.get(line.values) };
  });
}

/** The availability since the agent watches, as a number rather than a curve. */
function reached(seen) {
  const known = seen && seen.observed_seconds > 0;
  const last = known && seen.outages > 0 ? seen.last_outage : null;
  return h('div', { key: 'reached', class: 'chart reached' },
    h('p', { class: 'name' }, 'Availability'),
    h('p', { class: 'figure' }, known ? nines(1 - seen.unavailable_seconds / seen.observed_seconds) : '–'),
    h('p', { class: 'dim' }, known ? `in the last ${duration(seen.observed_seconds * 1000)}, since this agent watches` : 'Not watched yet: begins when the group serves'),
    known && h('p', {}, seen.outages ? `${count(seen.outages, 'interruption')}, ${duration(seen.unavailable_seconds * 1000)} without service` : 'No interruption'),
    last && h('p', { class: 'dim' }, `The last one at ${moment(last.noticed_at)}: ${last.seconds === null ? 'it lasts' : duration(last.seconds * 1000)}`));
}
