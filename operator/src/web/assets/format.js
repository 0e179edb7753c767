// Numbers and times as people read them. Pure: nothing here reads a clock.

const BYTES = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** Bytes with a binary unit: 1536 is `1.5 KiB`. */
export function bytes(n) {
  if (!Number.isFinite(n)) return '?';
  let at = 0;
  while (Math.abs(n) >= 1024 && at < BYTES.length - 1) {
    n /= 1024;
    at += 1;
  }
  return `${short(n)} ${BYTES[at]}`;
}

/** Bytes per second. */
export function rate(n) {
  return `${bytes(n)}/s`;
}

/** At most three digits that matter. */
export function short(n) {
  const size = Math.abs(n);
  if (size === 0) return '0';
  if (size >= 100) return String(Math.round(n));
  if (size >= 10) return trim(n.toFixed(1));
  if (size >= 0.01) return trim(n.toFixed(2));
  return Number(n.toPrecision(1)).toString();
}

function trim(text) {
  return text.includes('.') ? text.replace(/\.?0+$/, '') : text;
}

/** Milliseconds as a duration: `41 ms`, `2.1 s`, `12 min`, `3 h 5 min`, `2 d 4 h`. */
export function duration(ms) {
  if (!Number.isFinite(ms)) return '?';
  if (ms < 1) return ms <= 0 ? '0 ms' : `${Math.round(ms * 1000)} µs`;
  if (ms < 1000) return `${short(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 10) return `${trim(seconds.toFixed(1))} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return seconds < 600 ? two(Math.round(seconds), 60, 'min', 's') : `${minutes} min`;
  if (minutes < 48 * 60) return two(minutes, 60, 'h', 'min');
  return two(Math.round(minutes / 60), 24, 'd', 'h');
}

function two(total, per, large, small) {
  const rest = total % per;
  return rest ? `${Math.floor(total / per)} ${large} ${rest} ${small}` : `${Math.floor(total / per)} ${large}`;
}

/** Microseconds as a duration. */
export function micros(us) {
  return duration(us / 1000);
}

/** A share (0 to 1) in per cent. 100 % means all of it: nearly all is rounded down. */
export function percent(share, digits = 1) {
  if (!Number.isFinite(share)) return '?';
  const within = Math.min(1, Math.max(0, share)) * 100;
  const rounded = within.toFixed(digits);
  return `${trim(Number(rounded) >= 100 && share < 1 ? down(within, digits) : rounded)} %`;
}

function down(value, digits) {
  const factor = 10 ** digits;
  return (Math.floor(value * factor + 1e-6) / factor).toFixed(digits);
}

/** An availability: as many nines as it has, rounded down: `99.987 %`. */
export function nines(share) {
  if (!Number.isFinite(share)) return '?';
  if (share >= 1) return '100 %';
  const digits = share < 0.99 ? 1 : share < 0.999 ? 2 : share < 0.9999 ? 3 : 4;
  return `${trim(down(Math.max(0, share) * 100, digits))} %`;
}

/** Wall clock of an RFC 3339 time in the reader's zone: `02:58:11`. */
export function clock(at) {
  const date = at instanceof Date ? at : new Date(at);
  return Number.isNaN(date.getTime()) ? '?' : date.toLocaleTimeString(undefined, { hourCycle: 'h23' });
}

/** Day and wall clock. */
export function moment(at) {
  const date = at instanceof Date ? at : new Date(at);
  if (Number.isNaN(date.getTime())) return '?';
  const day = date.toLocaleDateString(undefined, { year: 'numeric', month: 'short', day: 'numeric' });
  return `${day}, ${clock(date)}`;
}

/** `a`, `a and b`, `a, b and c`; beyond `most` the rest is counted. */
export function list(names, most = 6) {
  if (names.length > most) return `${names.slice(0, most - 1).join(', ')} and ${names.length - most + 1} more`;
  if (names.length < 2) return names.join('');
  return `${names.slice(0, -1).join(', ')} and ${names[names.length - 1]}`;
}

/** `1 group`, `2 groups`. */
export function count(n, word, plural = `${word}s`) {
  return `${n} ${n === 1 ? word : plural}`;
}
