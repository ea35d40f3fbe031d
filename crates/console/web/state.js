// What is known, and how it is kept fresh: lists after each change, figures each second, what one page alone shows while it is open.

import { get, getWith, Refused, Watch } from "./api.js";

const EVENTS_MAX = 3000;
const TICK_MS = 1000;
/** Lists whose entries move without a change in the store: times to live, requests, round trips. */
const SLOW_EVERY = 2;

export const state = {
  me: null,
  /** What the lab that started this cloud offers; null elsewhere. */
  lab: null,
  cloud: null,
  traffic: null,
  services: [],
  journeys: [],
  plans: [],
  leases: [],
  continuity: [],
  divergences: [],
  instances: [],
  events: [],
  /** Of one page alone. */
  pact: null,
  gameDays: [],
  tokens: [],
  customers: [],
  bill: null,
  settlements: [],
  generations: {},
  tail: null,
  log: null,
  manifest: null,
  /** By service: an hour, a point each five seconds; the last one grows. */
  history: new Map(),
  link: { live: false, retryAt: 0, heardAt: 0, trouble: "", pageTrouble: "" },
  loaded: false,
};

const RANKS = ["viewer", "customer", "operator"];
/** Whether who looks may do what is for `role`. */
export const may = (role) => RANKS.indexOf(state.me?.role) >= RANKS.indexOf(role);

const ALWAYS = ["cloud", "services", "journeys", "plans", "leases", "continuity", "divergences", "instances"];
const SLOW = ["cloud", "leases", "continuity", "divergences", "services", "instances"];
const LISTS = { service: ["services", "instances"], journey: ["journeys", "leases", "plans"], plan: ["plans"], lent: ["leases", "instances"], settlement: ["leases"], cloud: ["cloud"] };
const dirty = new Set();
let listeners = () => {};
let watch = null;
let timer = null;
let busy = false;
let tick = 0;
/** Loaders of the page that is open, by the name of what they load. */
let page = {};

const items = async (path) => (await get(path)).items;
/** Loaders that pages name. */
export const SOURCES = {
  // In no pact there is none to ask for.
  pact: async () => (state.cloud?.currency ? await get("/v1/pact") : null),
  gameDays: async () => (state.cloud?.currency && may("operator") ? await items("/v1/pact/game-days") : []),
  tokens: () => items("/v1/tokens"),
  customers: () => items("/v1/customers"),
  settlements: () => items("/v1/settlements"),
};

async function load(what) {
  if (what === "cloud") state.cloud = await get("/v1/cloud");
  else if (what === "traffic") sample(await get("/v1/traffic"));
  else if (what === "events") await newEvents();
  else if (what === "history") await past();
  else state[what] = await items(`/v1/${what}`);
}

async function newEvents() {
  const last = state.events.at(-1)?.seq;
  const page = await get(last === undefined ? "/v1/events?limit=1000" : `/v1/events?limit=1000&after=${last}`);
  const fresh = page.items.filter((e) => last === undefined || e.seq > last).sort((a, b) => a.seq - b.seq);
  if (fresh.length) state.events = [...state.events, ...fresh].slice(-EVENTS_MAX);
}

const EVERY_MS = 5000;
const HOUR_MS = 3_600_000;

async function past() {
  const told = await get("/v1/traffic/history");
  state.history = new Map(Object.entries(told.services).map(([name, points]) => [name, points.map((p) => (
    { at: p.at, delay: p.queue_delay_p95_us ?? null, arrivals: p.arrivals_mps, shed: p.shed_mps, served: p.served_by ?? {} }))]));
}

/** Whether anybody asks: a delay that nobody had is no delay of zero. */
export const isAsked = (now) => Boolean(now) && (now.arrivals_mps > 0 || now.completed_mps > 0 || now.in_flight > 0);

/** The page goes on with the points as the daemon does: the worst delay of each span. */
function sample(traffic) {
  state.traffic = traffic;
  const at = Math.floor(traffic.at / EVERY_MS) * EVERY_MS;
  for (const [name, now] of Object.entries(traffic.services)) {
    const line = state.history.get(name) ?? [];
    const delay = isAsked(now) ? now.queue_delay_p95_us : null;
    const point = { at, delay, arrivals: now.arrivals_mps, shed: now.shed_mps, served: now.served_by };
    const last = line.at(-1);
    if (last?.at === at) {
      point.delay = delay === null ? last.delay : Math.max(delay, last.delay ?? 0);
      line[line.length - 1] = point;
    } else line.push(point);
    state.history.set(name, line.filter((p) => traffic.at - p.at < HOUR_MS));
  }
}

let pageBusy = false;
/** Beside the lists and never before them: a lender's log may take its time. */
async function refreshPage() {
  if (pageBusy) return;
  pageBusy = true;
  const mine = page;
  try {
    await Promise.all(Object.entries(mine).map(async ([what, loader]) => {
      const loaded = await loader();
      if (mine === page) state[what] = loaded;
    }));
    state.link.pageTrouble = "";
  } catch (error) {
    // What is gone is told by its page, a daemon that is gone by the lists.
    if (error instanceof Refused && error.problem.status !== 404 && mine === page) state.link.pageTrouble = error.message;
  } finally {
    pageBusy = false;
  }
  if (mine === page) listeners({});
  else refreshPage();
}

async function refresh(all) {
  if (all || tick % SLOW_EVERY === 0) refreshPage();
  if (busy) return;
  busy = true;
  try {
    const now = new Set(["traffic", "events"]);
    if (all) [...ALWAYS, "history"].forEach((l) => now.add(l));
    if (all || tick % SLOW_EVERY === 0) SLOW.forEach((l) => now.add(l));
    dirty.forEach((l) => now.add(l));
    dirty.clear();
    // What others rest on comes first.
    if (!state.me) await probe();
    if (now.delete("history")) await load("history");
    if (now.delete("cloud")) await load("cloud");
    await Promise.all([...now].map(load));
    state.loaded = true;
    state.link.heardAt = Date.now();
    state.link.trouble = "";
  } catch (error) {
    state.link.trouble = error instanceof Refused ? error.message : "";
    if (error instanceof Refused && error.problem.status === 401) return stop(), listeners({ signIn: error.message });
  } finally {
    busy = false;
  }
  listeners({});
}

/** Who looks, and at which cloud; throws what the daemon refused. */
export async function probe() {
  state.me = null;
  const { body, headers } = await getWith("/v1/whoami");
  state.cloud = await get("/v1/cloud");
  [state.me, state.lab] = [body, headers.get("pumasi-lab")];
}

/** What the page that is open needs beside: loaders by the name in `state` under which their answer stands. */
export function open(loaders) {
  page = loaders;
  state.link.pageTrouble = "";
  refreshPage();
}

export function start(listener) {
  listeners = listener;
  watch = new Watch({
    onChange(change) {
      (LISTS[change.kind] ?? []).forEach((l) => dirty.add(l));
      schedule();
    },
    onState({ live, retryAt }) {
      const back = live && !state.link.live;
      Object.assign(state.link, { live, retryAt: retryAt ?? 0 });
      if (back) refresh(true);
      else listeners({});
    },
    onRefused(error) {
      stop();
      listeners({ signIn: error.message });
    },
  });
  watch.run();
  timer = setInterval(() => {
    tick += 1;
    refresh(false);
  }, TICK_MS);
  refresh(true);
}

let scheduled = null;
/** Changes come in bursts: one look for each. */
function schedule() {
  scheduled ??= setTimeout(() => {
    scheduled = null;
    if (watch) refresh(false);
  }, 100);
}

export function stop() {
  page = {};
  watch?.stop();
  watch = null;
  clearInterval(timer);
}
export const retry = () => {
  watch?.again();
  refresh(true);
};
/** The page is drawn again from what is known. */
export const redraw = () => listeners({});
/** Looks again at once: at lists, and at what the open page loads. */
export const touch = (...lists) => {
  lists.filter((l) => ALWAYS.includes(l)).forEach((l) => dirty.add(l));
  return Promise.all([refresh(false), refreshPage()]);
};

const COLOURS = 7;
/** A cloud's colour is its place among the members by name, which is the same in all their consoles; who is no member has none. */
export function hue(cloud) {
  const members = new Set([...(state.cloud?.members ?? []).map((m) => m.cloud), state.cloud?.name]);
  const at = [...members].sort().indexOf(cloud);
  return at < 0 ? "stranger" : `c${at % COLOURS}`;
}

/** Requests answered by each cloud, all services together. */
export function shares() {
  const sum = {};
  for (const now of Object.values(state.traffic?.services ?? {})) {
    for (const [cloud, mps] of Object.entries(now.served_by)) sum[cloud] = (sum[cloud] ?? 0) + mps;
  }
  return sum;
}
