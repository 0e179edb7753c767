// Small drawings. Each stands beside a word that says the same, so none is read out.

import { s } from './dom.js';

const PATHS = {
  ok: 'M3.5 8.5l3 3 6-7',
  warn: 'M8 2.5 14.500 13.500H1.500ZM8 6.500v3.200M8 11.700v.1',
  bad: 'M4 4l8 8M12 4l-8 8',
  busy: 'M13.500 8A5.500 5.500 0 1 1 8 2.500',
  idle: 'M4 8h8',
  move: 'M2.500 5.500h9M8.500 2.500l3 3-3 3M13.500 10.500h-9M7.500 7.500l-3 3 3 3',
  down: 'M4 6.500 8 10.500l4-4',
  sun: 'M8 5.200a2.800 2.800 0 1 0 0 5.600 2.800 2.800 0 0 0 0-5.600M8 1.200v1.600M8 13.200v1.600M1.200 8h1.600M13.200 8h1.600M3.200 3.200l1.100 1.100M11.700 11.700l1.100 1.100M12.800 3.200l-1.100 1.100M4.300 11.700l-1.100 1.100',
  moon: 'M13.200 9.600A5.600 5.600 0 0 1 6.400 2.800a5.600 5.600 0 1 0 6.800 6.800Z',
  auto: 'M8 2.200a5.800 5.800 0 1 0 0 11.600V2.200M8 2.200a5.800 5.800 0 0 1 0 11.600',
  disk: 'M2.500 4.500c0-1.300 11-1.300 11 0v7c0 1.300-11 1.300-11 0ZM2.500 4.500c0 1.300 11 1.300 11 0M2.500 8c0 1.300 11 1.300 11 0',
  heart: 'M1.500 8.500h3l1.500-4 2.500 7.500 2-5 1 1.500h3',
  user: 'M8 8.200a2.700 2.700 0 1 0 0-5.400 2.700 2.700 0 0 0 0 5.400M2.800 13.800c.6-2.600 2.600-4 5.200-4s4.600 1.400 5.200 4',
  key: 'M10.500 2.500a3 3 0 1 1-2.300 4.900L3 12.600V14h2.500v-1.500H7L8.700 10.800',
};

/** A drawing by name. */
export function icon(name, extra = '') {
  return s('svg', { class: `icon icon-${name} ${extra}`, viewBox: '0 0 16 16', 'aria-hidden': 'true', focusable: 'false' },
    s('path', { d: PATHS[name] ?? PATHS.idle }));
}

/** Baton's sign. */
export function logo() {
  return s('svg', { class: 'logo', viewBox: '0 0 32 32', 'aria-hidden': 'true', focusable: 'false' },
    s('rect', { width: 32, height: 32, rx: 7 }),
    s('path', { class: 'stick', d: 'M7.500 20.500 20.500 7.500a3.100 3.100 0 0 1 4.400 4.400L11.900 24.900a3.100 3.100 0 0 1-4.400-4.400Z' }),
    s('path', { class: 'band', d: 'm17 11 4.400 4.400' }));
}
