// Talks to the agent that served this page: one request at a time, live status, and who we are.
//
// The token lives in sessionStorage: it is gone with the tab and is never sent anywhere but to this agent.

const TOKEN = 'baton.token';
/** A request that is not answered within this time counts as not answered; the agent itself gives up after 10 s. */
const PATIENCE_MS = 12_000;

/** The agent refused, or could not be asked. `problem` is the RFC 9457 document if it sent one. */
export class ApiError extends Error {
  constructor(problem, status, requestId) {
    super(problem.detail || problem.title || `HTTP ${status}`);
    this.problem = problem;
    this.status = status;
    this.requestId = requestId;
  }
}

/** Forgets or remembers the token. */
export function setToken(token) {
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
}

/** Whether a token is remembered. */
export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;

function headers(more) {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

/** Sends a request and returns the answer's headers and body. Throws [`ApiError`] or what fetch throws. */
export async function send(method, path, body, options = {}) {
  const timeout = AbortSignal.timeout(options.patience ?? PATIENCE_MS);
  const signal = options.signal ? AbortSignal.any([options.signal, timeout]) : timeout;
  const init = { method, headers: headers({ Accept: 'application/json' }), signal, cache: 'no-store' };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers['Content-Type'] = 'application/json';
  }
  const answer = await fetch(path, init);
  if (!answer.ok) throw await refusal(answer);
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
}

/** Reads. */
export const get = (path, options) => send('GET', path, undefined, options);

async function refusal(answer) {
  let problem;
  try {
    problem = await answer.json();
  } catch {
    problem = { title: `The agent answered ${answer.status} ${answer.statusText}`, status: answer.status };
  }
  return new ApiError(problem, answer.status, answer.headers.get('x-request-id'));
}

/**
 * Opens a stream of server-sent events and calls `onEvent(name, data)` for each. Ends when the stream does; throws when
 * it breaks, or when nothing, not even a comment, has come for `silence` ms. An agent that does not stream answers
 * plainly: then `onEvent` gets that answer once under the name `plain`.
 */
export async function stream(path, { onOpen, onEvent, silence, signal }) {
  const quiet = new AbortController();
  let timer = setTimeout(() => quiet.abort(new Error('no answer')), silence);
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => quiet.abort(new Error('the stream went silent')), silence);
  };
  try {
    const answer = await fetch(path, {
      headers: headers({ Accept: 'text/event-stream' }),
      signal: AbortSignal.any([signal, quiet.signal]),
      cache: 'no-store',
    });
    if (!answer.ok) throw await refusal(answer);
    if (!answer.headers.get('content-type')?.startsWith('text/event-stream')) {
      onEvent('plain', await answer.text());
      return;
    }
    onOpen?.();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    const parse = parser(onEvent);
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      parse(value);
    }
  } finally {
    clearTimeout(timer);
  }
}

/** Splits text that comes in pieces into server-sent events. Pure but for `onEvent`. */
export function parser(onEvent) {
  let rest = '';
  let name = 'message';
  let data = [];
  return (piece) => {
    rest += piece;
    const lines = rest.split('\n');
    rest = lines.pop();
    for (const line of lines.map((line) => line.replace(/\r$/, ''))) {
      if (line === '') {
        if (data.length) onEvent(name, data.join('\n'));
        name = 'message';
        data = [];
      } else if (line.startsWith('event:')) {
        name = line.slice(6).trim();
      } else if (line.startsWith('data:')) {
        data.push(line.slice(5).replace(/^ /, ''));
      }
    }
  };
}

/** The error in words, complete: everything the problem document says. */
export function explain(error) {
  if (!(error instanceof ApiError)) {
    const slow = error.name === 'TimeoutError' || error.name === 'AbortError';
    return {
      title: slow ? 'The agent did not answer in time' : 'The agent cannot be reached',
      detail: 'Whether it took effect is not known: look at the state before you repeat it.',
      rest: [],
    };
  }
  const { title, detail, status, type, ...more } = error.problem;
  const rest = Object.entries(more).map(([name, value]) => [name, typeof value === 'string' ? value : JSON.stringify(value)]);
  if (type && type !== 'about:blank') rest.unshift(['type', type]);
  rest.unshift(['status', String(status ?? error.status)]);
  if (error.requestId) rest.push(['request', error.requestId]);
  return { title: title ?? 'Refused', detail: detail ?? '', rest };
}
