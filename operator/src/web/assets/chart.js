// Draws one chart: lines or bars over time, with holes where nothing was measured, and a reading for the pointer and
// for the arrow keys. Pure but for what the reader points at.

import { h, s } from './dom.js';
import { clock } from './format.js';

/** The drawing's own units; it is stretched to its place. */
const WIDTH = 720;
const HEIGHT = 100;

/** The next round number above: 1, 2 or 5 times a power of ten (of two for bytes). */
export function roundUp(value, binary) {
  if (!(value > 0)) return 1;
  const base = binary ? 2 : 10;
  const power = base ** Math.floor(Math.log(value) / Math.log(base));
  for (const factor of binary ? [1, 1.5, 2] : [1, 2, 5, 10]) if (value <= factor * power * (1 + 1e-9)) return factor * power;
  return value;
}

/** The path of `values`, `slots` of them to a full axis, aligned to its end. A lone value becomes a short dash. */
export function linePath(values, slots, top) {
  const first = slots - values.length;
  let path = '';
  let open = false;
  values.forEach((value, n) => {
    if (value === null) {
      open = false;
      return;
    }
    const x = place(first + n, slots);
    const y = height(value, top);
    path += `${open ? 'L' : 'M'}${x} ${y}`;
    if (!open && (n + 1 === values.length || values[n + 1] === null)) path += `h1`;
    open = true;
  });
  return path;
}

/** The area under `values`. */
export function areaPath(values, slots, top) {
  const first = slots - values.length;
  let path = '';
  let start = null;
  values.forEach((value, n) => {
    if (value !== null) {
      const point = `${place(first + n, slots)} ${height(value, top)}`;
      path += start === null ? `M${place(first + n, slots)} ${HEIGHT}L${point}` : `L${point}`;
      start ??= n;
    }
    const ends = value === null ? n - 1 : n + 1 === values.length ? n : null;
    if (start !== null && ends !== null) {
      path += `L${place(first + ends, slots)} ${HEIGHT}Z`;
      start = null;
    }
  });
  return path;
}

function place(slot, slots) {
  return Number(((slot / Math.max(1, slots - 1)) * WIDTH).toFixed(1));
}

function height(value, top) {
  return Number((HEIGHT - Math.min(1, value / top) * HEIGHT).toFixed(1));
}

/**
 * A chart. `lines` are `{ name, values }`; `format` makes words of a value; `at` is the reading (counted back from the
 * newest, none: the newest); `onRead(at)` asks for another one.
 */
export function chart({ id, title, lines, slots, step, newest, format, binary, empty, headline, at, onRead, kind = 'line' }) {
  const known = lines.filter((line) => line.values.some((value) => value !== null));
  const longest = Math.max(0, ...lines.map((line) => line.values.length));
  const largest = Math.max(0, ...known.flatMap((line) => line.values.filter((value) => value !== null)));
  const top = roundUp(largest, binary);
  const reading = at === null ? null : Math.min(at, longest - 1);
  const moment = reading === null || !newest ? null : clock(new Date(newest.getTime() - reading * step * 1000));
  const read = known.map((line) => {
    const value = line.values[line.values.length - 1 - (reading ?? 0)];
    return { line, text: value === null || value === undefined ? 'not measured' : format(value) };
  });
  const words = read.map(({ line, text }) => (known.length > 1 ? `${line.name}: ${text}` : text)).join(', ');
  const place_ = reading === null ? null : `${((slots - 1 - reading) / (slots - 1)) * 100}%`;
  return h('figure', { key: id, class: 'chart', 'data-chart': id },
    h('figcaption', {},
      h('span', { class: 'name', id: `${id}-name` }, title),
      h('span', { class: 'now' }, known.length === 0 ? '' : moment ? h('span', { class: 'dim' }, `${moment} `) : '', known.length === 0 ? '' : headline && reading === null ? headline : words)),
    known.length === 0
      ? h('p', { class: 'dim none' }, empty)
      : h('div', {
        class: 'plot', role: 'slider', tabindex: '0', 'aria-labelledby': `${id}-name`, 'aria-orientation': 'horizontal',
        'aria-valuemin': 0, 'aria-valuemax': Math.max(0, longest - 1), 'aria-valuenow': longest - 1 - (reading ?? 0),
        'aria-valuetext': `${moment ?? 'now'}: ${words}`,
        onpointermove: (event) => {
          const box = event.currentTarget.getBoundingClientRect();
          const slot = Math.round(((event.clientX - box.left) / box.width) * (slots - 1));
          onRead(Math.min(longest - 1, Math.max(0, slots - 1 - slot)));
        },
        onpointerleave: () => onRead(null),
        onblur: () => onRead(null),
        onkeydown: (event) => {
          const move = { ArrowLeft: 1, ArrowDown: 1, ArrowRight: -1, ArrowUp: -1, PageUp: -12, PageDown: 12 }[event.key];
          const jump = { Home: longest - 1, End: 0 }[event.key];
          if (event.key === 'Escape') onRead(null);
          if (move === undefined && jump === undefined) return;
          event.preventDefault();
          onRead(jump ?? Math.min(longest - 1, Math.max(0, (reading ?? 0) + move)));
        },
      },
      s('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
        s('path', { class: 'grid', d: `M0 ${HEIGHT / 2}H${WIDTH}M0 0H${WIDTH}` }),
        known.length === 1 && s('path', { class: `area ${kind}`, d: drawn(known[0].values, slots, top, areaPath) }),
        known.map((line, n) => s('path', { key: line.name, class: `line l${n % 4} ${kind}`, d: drawn(line.values, slots, top, linePath) }))),
      h('span', { class: 'top', 'aria-hidden': 'true' }, format(top)),
      place_ !== null && h('span', { class: 'cross', 'aria-hidden': 'true', style: { left: place_ } })),
    known.length > 0 && h('p', { class: 'axis dim', 'aria-hidden': 'true' },
      h('span', {}, newest ? clock(new Date(newest.getTime() - (slots - 1) * step * 1000)).slice(0, 5) : ''),
      known.length > 1 && h('span', { class: 'keys' }, known.map((line, n) => h('span', { key: line.name }, h('span', { class: `swatch l${n % 4}` }), line.name))),
      h('span', {}, newest ? clock(newest).slice(0, 5) : '')));
}

/** Paths are drawn once per set of values: they change every few seconds, the page four times per second. */
const drawings = new WeakMap();
function drawn(values, slots, top, draw) {
  const kept = drawings.get(values) ?? {};
  const key = `${draw.name} ${slots} ${top}`;
  if (kept[key] === undefined) drawings.set(values, { ...kept, [key]: draw(values, slots, top) });
  return drawings.get(values)[key];
}
