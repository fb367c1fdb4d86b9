// Requests: problems, waiting, trying again when the server is busy, server-sent events, and the API key.

import { announce, h } from './dom.js';

const ROOT = new URL('.', document.baseURI);
const KEY = 'palate-key';
const TRIES = 8; // requests answered 429 until we give up
const SLOW = 400, LONG = 3000; // milliseconds until the page says what it waits for, and until a screen reader does
const HOPELESS = new Set([404, 413, 422]); // statuses of a request that no repetition mends
const key = { value: '' };
try { key.value = sessionStorage.getItem(KEY) ?? ''; } catch { /* storage may be forbidden: the key then lasts as long as the page */ }

export const hasKey = () => key.value !== '';

export function useKey(value) {
  key.value = value.trim();
  try { sessionStorage.setItem(KEY, key.value); } catch { /* as above */ }
}

export class Problem extends Error {
  constructor(status, title, detail = '') {
    super(detail ? `${title}: ${detail}` : title);
    Object.assign(this, { status, detail });
  }
}

async function problemOf(response) {
  const { status } = response;
  if (status === 401) return new Problem(status, hasKey() ? 'The server refuses this API key' : 'The server asks for an API key');
  if (status === 429) return new Problem(status, 'The server is still busy');
  const body = await response.json().catch(() => ({}));
  const problem = new Problem(status, body.title ?? `Error ${status}`, typeof body.detail === 'string' ? body.detail : '');
  return Object.assign(problem, { loading: body.type === 'urn:palate:loading' });
}

/** A random name for a request that may be repeated. */
export const once = () => [...crypto.getRandomValues(new Uint32Array(4))].map(n => n.toString(36)).join('');

function pause(seconds, signal) {
  return new Promise((done, stop) => {
    const timer = setTimeout(done, 1000 * seconds);
    signal?.addEventListener('abort', () => { clearTimeout(timer); stop(signal.reason); }, { once: true });
  });
}

/** Sends a request, and again after `Retry-After` to a server that is busy (429), or that loads its models (503). */
export async function send(path, { body, signal, tell } = {}) {
  const options = { signal, headers: {} };
  if (hasKey()) options.headers.Authorization = `Bearer ${key.value}`;
  if (body) Object.assign(options, { method: 'POST', body: JSON.stringify(body) }).headers['Content-Type'] = 'application/json';
  for (let tries = 1; ; tries++) {
    let response;
    try {
      response = await fetch(new URL(path, ROOT), options);
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem(0, 'The server does not answer', 'check that it runs');
    }
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (!problem.loading && (response.status !== 429 || tries === TRIES)) throw problem;
    const why = problem.loading ? problem.detail.replace(/^./, first => first.toUpperCase()) : 'The server is busy';
    const after = response.headers.get('Retry-After') ?? '1';
    const wait = Math.min(60, Math.max(1, Math.ceil(Number(after) || (Date.parse(after) - Date.now()) / 1000 || 1)));
    for (let left = wait; left > 0; left--) {
      tell?.(`${why}. Asking again in ${left} s`);
      await pause(1, signal);
    }
    tell?.('Asking again …');
  }
}

export async function ask(path, options) {
  const response = await send(path, options);
  return response.json().catch(error => {
    if (options?.signal?.aborted) throw error;
    throw new Problem(response.status, 'The answer ended early');
  });
}

/** Yields the server-sent events [name, data] of a request. */
export async function* events(path, options) {
  const response = await send(path, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).replace(/\r\n/g, '\n').split('\n\n');
      rest = blocks.pop();
      for (const block of blocks) {
        const fields = block.split('\n').map(line => /^(\w+): ?(.*)$/s.exec(line)).filter(Boolean);
        const data = fields.filter(field => field[1] === 'data').map(field => field[2]).join('\n');
        if (data) yield [fields.find(field => field[1] === 'event')?.[2] ?? 'message', JSON.parse(data)];
      }
    }
  } catch (error) {
    if (options.signal?.aborted || error instanceof Problem) throw error;
    throw new Problem(0, 'The connection broke', 'the answer is incomplete');
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Requests of one kind, one at a time, and the line that says how they go; a new one ends the earlier one. */
export class Task {
  constructor(line) {
    this.line = line;
    line.tabIndex = -1; // takes the focus of a button that it loses
  }

  /**
   * Calls `work({signal, tell})`; undefined if it failed or was cancelled. The line then offers to call `again`, or, where
   * the same request would fail again, what changes it: `amend`, [a label, a call].
   */
  async run(work, again = () => this.run(work), amend = undefined) {
    this.stop();
    const controller = this.controller = new AbortController();
    const current = () => this.controller === controller;
    let cancelled = false;
    const cancel = () => { cancelled = true; controller.abort(); };
    const tell = text => { clearTimeout(slow); if (current()) this.say(text, ['Cancel', cancel]); };
    const slow = setTimeout(() => tell('Waiting for the server …'), SLOW);
    const long = setTimeout(() => { if (current()) announce(this.line.firstChild?.textContent ?? ''); }, LONG);
    this.say('');
    try {
      const value = await work({ signal: controller.signal, tell });
      if (!current()) return undefined;
      this.say('');
      return value;
    } catch (error) {
      if (!current() || (controller.signal.aborted && !cancelled)) return undefined;
      if (!cancelled && !(error instanceof Problem)) console.error(error);
      const text = cancelled ? 'Cancelled.' : error.message.replace(/[^.?!]$/, '$&.');
      this.say(text, HOPELESS.has(error.status) ? amend : ['Try again', again], !cancelled);
      announce(text);
      if (error.status === 401) document.dispatchEvent(new CustomEvent('key-wanted'));
      return undefined;
    } finally {
      clearTimeout(slow);
      clearTimeout(long);
      if (current()) this.controller = null;
    }
  }

  stop() {
    this.controller?.abort();
    this.controller = null;
  }

  /** Shows a text, and a button that does something: [its label, the call]. */
  say(text, action, wrong = false) {
    this.line.classList.toggle('wrong', wrong);
    const [shown, old] = this.line.children;
    if (action?.[0] === 'Cancel' && old?.textContent === 'Cancel') { // stays under the pointer, with the focus
      shown.textContent = text;
      return;
    }
    const held = this.line.contains(document.activeElement);
    this.line.replaceChildren(
      ...(text ? [h('span', { text })] : []), ...(action ? [h('button', { class: 'quiet', type: 'button', text: action[0], on: { click: action[1] } })] : []),
    );
    if (held) (this.line.querySelector('button') ?? this.line).focus({ preventScroll: true });
  }
}
