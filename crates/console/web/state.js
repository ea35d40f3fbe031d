// What is known, and how it is kept fresh: lists after each change, figures each second.

import { get, Refused, Watch } from "./api.js";

const SAMPLES = 120;
const EVENTS_MAX = 3000;
const TICK_MS = 1000;
/** Lists whose entries move without a change in the store: times to live, requests, round trips. */
const SLOW_EVERY = 2;

export const state = {
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
  /** By service: the last two minutes, one sample a second, null where nothing was known. */
  history: new Map(),
  link: { live: false, retryAt: 0, heardAt: 0, trouble: "" },
  loaded: false,
};

const LISTS = { service: ["services", "instances"], journey: ["journeys", "leases", "plans"], plan: ["plans"], lent: ["leases", "instances"], settlement: ["leases"], cloud: ["cloud"] };
const dirty = new Set();
let listeners = () => {};
let watch = null;
let timer = null;
let busy = false;
let tick = 0;

async function load(what) {
  if (what === "cloud") state.cloud = await get("/v1/cloud");
  else if (what === "traffic") sample(await get("/v1/traffic"));
  else if (what === "events") await newEvents();
  else state[what] = (await get(`/v1/${what}`)).items;
}

async function newEvents() {
  const last = state.events.at(-1)?.seq;
  const page = await get(last === undefined ? "/v1/events?limit=1000" : `/v1/events?limit=1000&after=${last}`);
  const fresh = page.items.filter((e) => last === undefined || e.seq > last).sort((a, b) => a.seq - b.seq);
  if (fresh.length) state.events = [...state.events, ...fresh].slice(-EVENTS_MAX);
}

function sample(traffic) {
  state.traffic = traffic;
  for (const name of new Set([...state.history.keys(), ...Object.keys(traffic.services)])) {
    const line = state.history.get(name) ?? Array(SAMPLES).fill(null);
    const now = traffic.services[name];
    line.push(now ? { delay: now.queue_delay_p95_us, arrivals: now.arrivals_mps, shed: now.shed_mps } : null);
    state.history.set(name, line.slice(-SAMPLES));
    if (!now && line.every((s) => s === null)) state.history.delete(name);
  }
}

async function refresh(all) {
  if (busy) return;
  busy = true;
  try {
    const now = new Set(["traffic", "events"]);
    if (all) ["cloud", "services", "journeys", "plans", "leases", "continuity", "divergences", "instances"].forEach((l) => now.add(l));
    if (tick % SLOW_EVERY === 0) ["cloud", "leases", "continuity", "divergences", "services", "instances"].forEach((l) => now.add(l));
    dirty.forEach((l) => now.add(l));
    dirty.clear();
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

/** Fetches everything once; throws what the daemon refused. */
export async function probe() {
  state.cloud = await get("/v1/cloud");
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
    refresh(false);
  }, 100);
}

export function stop() {
  watch?.stop();
  clearInterval(timer);
}
export const retry = () => {
  watch?.again();
  refresh(true);
};
export const touch = (...lists) => {
  lists.forEach((l) => dirty.add(l));
  return refresh(false);
};

/** Every cloud has one colour on all pages; this one has the first. */
export function hue(cloud) {
  const own = state.cloud?.name;
  if (cloud === own) return "c0";
  const names = new Set((state.cloud?.members ?? []).map((m) => m.cloud));
  for (const l of state.leases) names.add(l.lender).add(l.borrower);
  names.delete(own);
  const at = [...names].sort().indexOf(cloud);
  return at < 0 ? "c7" : `c${1 + (at % 6)}`;
}

/** Requests answered by each cloud, all services together. */
export function shares() {
  const sum = {};
  for (const t of Object.values(state.traffic?.services ?? {})) {
    for (const [cloud, mps] of Object.entries(t.served_by)) sum[cloud] = (sum[cloud] ?? 0) + mps;
  }
  return sum;
}
