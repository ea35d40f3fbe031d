// The public API and nothing else: the token, requests with a bound, and the watch as a stream.

const TOKEN = "pumasi-token";
const TIMEOUT_MS = 10_000;
const WAIT_FIRST_MS = 500;
const WAIT_MAX_MS = 10_000;
const LINE_CHARS_MAX = 8 << 20;

/** From the fragment, which no server sees; then it leaves the address bar and lives as long as the tab. */
export function takeToken() {
  const given = /^#token=([^&]+)/.exec(location.hash);
  if (given) {
    sessionStorage.setItem(TOKEN, decodeURIComponent(given[1]));
    history.replaceState(null, "", `${location.pathname}#/clouds`);
  }
  return sessionStorage.getItem(TOKEN);
}
export const keepToken = (token) => sessionStorage.setItem(TOKEN, token);
export const dropToken = () => sessionStorage.removeItem(TOKEN);

export class Refused extends Error {
  constructor(problem) {
    super(problem.detail ?? "refused");
    this.problem = problem;
  }
}
export class Unreachable extends Error {}

async function ask(method, path, body, signal) {
  const headers = { authorization: `Bearer ${sessionStorage.getItem(TOKEN) ?? ""}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    throw new Unreachable(error.message);
  }
  if (answer.ok) return answer;
  let problem = { status: answer.status, detail: `the daemon answered ${answer.status}` };
  try {
    problem = { ...problem, ...(await answer.json()) };
  } catch { /* it was no problem document: the status says enough */ }
  throw new Refused(problem);
}

export async function get(path) {
  return (await ask("GET", path, undefined, AbortSignal.timeout(TIMEOUT_MS))).json();
}

export async function getWith(path) {
  const answer = await ask("GET", path, undefined, AbortSignal.timeout(TIMEOUT_MS));
  return { body: await answer.json(), headers: answer.headers };
}

export const getText = async (path) => (await ask("GET", path, undefined, AbortSignal.timeout(TIMEOUT_MS))).text();

export async function send(method, path, body) {
  const text = await (await ask(method, path, body, AbortSignal.timeout(TIMEOUT_MS))).text();
  return text ? JSON.parse(text) : null;
}
export const post = (path, body) => send("POST", path, body);

/** Follows the changes for ever, from the last revision seen. EventSource cannot send the token, so the stream is read here. */
export class Watch {
  constructor({ onChange, onState, onRefused }) {
    Object.assign(this, { onChange, onState, onRefused });
    this.after = null;
    this.wait = WAIT_FIRST_MS;
    this.wake = null;
    this.stopped = false;
  }
  stop() {
    this.stopped = true;
    this.abort?.abort();
    this.wake?.();
  }
  /** Tries at once instead of when the wait is over. */
  again() {
    this.wake?.();
  }
  async run() {
    while (!this.stopped) {
      try {
        await this.once();
      } catch (error) {
        if (this.stopped) return;
        if (error instanceof Refused && (error.problem.status === 401 || error.problem.status === 403)) return this.onRefused(error);
        if (error instanceof Refused && error.problem.status === 410) this.after = null;
      }
      if (this.stopped) return;
      this.onState({ live: false, retryAt: Date.now() + this.wait });
      await new Promise((done) => {
        this.wake = done;
        setTimeout(done, this.wait);
      });
      this.wait = Math.min(this.wait * 2, WAIT_MAX_MS);
    }
  }
  async once() {
    this.abort = new AbortController();
    const answer = await ask("GET", this.after === null ? "/v1/watch" : `/v1/watch?after=${this.after}`, undefined, this.abort.signal);
    this.onState({ live: true });
    this.wait = WAIT_FIRST_MS;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const lines = rest.split("\n");
      rest = lines.pop();
      if (rest.length > LINE_CHARS_MAX) throw new Unreachable("a line without end");
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const change = JSON.parse(line.slice(5));
        if (typeof change.revision !== "number") {
          // A problem in the stream: the daemon no longer keeps what lies between.
          this.after = null;
          return;
        }
        this.after = change.revision;
        this.onChange(change);
      }
    }
  }
}
