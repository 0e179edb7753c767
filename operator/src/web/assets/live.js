// Keeps the newest snapshot: streams it, polls when there is no stream, says when it is lost, and never calls old
// facts fresh.
//
// A snapshot is as fresh as its own clock: an agent that answers with the same snapshot again and again (its core
// hangs) is as stale as one that does not answer.

import { ApiError, get, stream } from './api.js';

/** Nothing at all on the stream for this long: it is broken. The agent sends about four snapshots per second. */
const SILENCE_MS = 5_000;
/** Between two polls where the agent does not stream. */
const POLL_MS = 1_000;
/** After so long the page asks for a stream again. */
const STREAM_AGAIN_MS = 30_000;
/** First and longest pause after a failure. */
const RETRY_MS = [500, 5_000];
/** A snapshot older than this is shown as stale. Ten times the interval in which the agent publishes. */
export const STALE_MS = 2_500;
/** A look at whether other agents answer takes at most this long, and is repeated in this interval while lost. */
const PROBE_MS = 2_000;

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Follows `/v1/status`. `on.status(snapshot)`, `on.state()` and `on.unauthorised()` tell what happens. */
export class Live {
  constructor(on) {
    this.on = on;
    /** `connecting`, `live`, `polling`, `lost` or `login`. */
    this.state = 'connecting';
    /** When the newest snapshot that moved was received (`performance.now()`). */
    this.received = null;
    this.lostSince = null;
    this.error = '';
    /** Other agents while this one is lost: name, url, answers (true, false, undefined: not asked yet). */
    this.others = [];
    this.at = null;
    this.resume = null;
    /** No stream before this time (`performance.now()`): the agent has none, or too many are open. */
    this.pollUntil = 0;
  }

  /** Milliseconds since the newest snapshot, none if there is none. */
  age(now = performance.now()) {
    return this.received === null ? null : Math.max(0, now - this.received);
  }

  /** What is shown may be wrong by now. */
  stale(now = performance.now()) {
    const age = this.age(now);
    return age !== null && (age > STALE_MS || this.state === 'login');
  }

  /** Goes on after a login. */
  retry() {
    this.resume?.();
  }

  async run() {
    let pause = RETRY_MS[0];
    for (;;) {
      try {
        await this.once();
        pause = RETRY_MS[0];
        if (this.state === 'polling') await sleep(POLL_MS);
      } catch (error) {
        if (error instanceof ApiError && error.status === 401) {
          this.become('login');
          const again = new Promise((done) => { this.resume = done; });
          this.on.unauthorised(error);
          await again;
          this.become('connecting');
          continue;
        }
        this.error = error.message;
        this.become('lost');
        void this.probe();
        // A little at random, so that the pages of many people do not come back in the same moment.
        await Promise.race([sleep(pause * (0.75 + Math.random() / 2)), new Promise((done) => { this.resume = done; })]);
        pause = Math.min(RETRY_MS[1], pause * 2);
      }
    }
  }

  async once() {
    if (performance.now() < this.pollUntil) {
      const status = await get('/v1/status', { patience: SILENCE_MS });
      this.become('polling');
      this.take(status);
      return;
    }
    try {
      await this.follow();
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 429) throw error;
      this.pollUntil = performance.now() + STREAM_AGAIN_MS;
    }
    // A stream that ends in order ends for a reason: the agent restarts, or lets slow readers go.
    await sleep(RETRY_MS[0]);
  }

  async follow() {
    await stream('/v1/status', {
      silence: SILENCE_MS,
      signal: new AbortController().signal,
      onOpen: () => this.become('live'),
      onEvent: (name, data) => {
        if (name === 'plain') {
          this.pollUntil = performance.now() + STREAM_AGAIN_MS;
          this.become('polling');
        }
        if (name === 'plain' || name === 'status') this.take(JSON.parse(data));
      },
    });
  }

  take(status) {
    if (status.at !== this.at) {
      this.at = status.at;
      this.received = performance.now();
    }
    this.on.status(status);
  }

  become(state) {
    if (state === 'lost') this.lostSince ??= performance.now();
    else this.lostSince = null;
    if (state !== 'lost') this.others = [];
    if (state === this.state) return;
    this.state = state;
    this.on.state();
  }

  /** Who else could be asked. An opaque answer is enough: it says that somebody is there. */
  async probe() {
    const known = this.on.others();
    if (this.probing || known.length === 0) return;
    this.probing = true;
    this.others = known.map((other) => ({ ...this.others.find((o) => o.name === other.name), ...other }));
    this.on.state();
    await Promise.all(this.others.map(async (other) => {
      try {
        await fetch(`${other.url}livez`, { mode: 'no-cors', cache: 'no-store', signal: AbortSignal.timeout(PROBE_MS) });
        other.answers = true;
      } catch {
        other.answers = false;
      }
    }));
    this.on.state();
    await sleep(PROBE_MS);
    this.probing = false;
  }
}
