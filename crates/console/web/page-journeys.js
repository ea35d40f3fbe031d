// One journey of one service, from the verdict to the last proof that nothing is left.

import { h, roomOf } from "./dom.js";
import * as f from "./format.js";
import { button, chip, cloudName, command, empty, head, id, said, time } from "./parts.js";
import { hue, may, state } from "./state.js";
import { t, word } from "./text.js";

const STAGES = ["judge", "plan", "lease", "transfer", "route", "release"];
/** Which stage tells which action. What is not here belongs to the stage of its subject. */
const STAGE_OF = {
  verdict: "judge", home_grown: "judge", home_shrunk: "judge", verdict_unheeded: "judge", no_plan: "judge", borrowing_refused: "judge", recall_heard: "judge",
  journey_opened: "plan", plan_made: "plan", plan_adopted: "plan", plan_approved: "plan", plan_refused: "plan", resized: "plan",
  hold_granted: "lease", hold_refused: "lease", hold_too_late: "lease", hold_distrusted: "lease", hold_let_go: "lease", lender_chosen: "lease", lease_signed: "lease", lease_refused: "lease",
  transferred: "transfer", copy_failed: "transfer", copy_stale: "transfer", rpo_exceeded: "transfer", switchover: "route", switchback: "route",
  lease_over: "release", lease_disowned: "release", cancel_asked: "release", settled: "release", journey_closed: "release", journey_cancelled: "release",
};
const BY_KIND = { plan: "plan", reservation: "lease", lease: "lease", service: "judge", journey: "judge" };
const stageOf = (e) => STAGE_OF[e.action] ?? BY_KIND[e.subject_kind] ?? "judge";
/** What a lease does after each of these events. */
const PHASES = { lender_chosen: "signing", lease_signed: "sending", transferred: "starting", switchover: "serving", switchback: "draining", lease_over: "settling", settled: null };
const BAD = ["hold_refused", "hold_distrusted", "hold_too_late", "lease_refused", "borrowing_refused", "plan_refused", "no_plan", "verdict_unheeded", "copy_failed", "copy_stale", "rpo_exceeded", "lease_disowned"];

const isOpen = (j) => f.tag(j.phase) !== "closed";
const list = () => [...state.journeys].sort((a, b) => Number(isOpen(b)) - Number(isOpen(a)) || b.opened_at - a.opened_at);

function eventsOf(j) {
  const own = new Set([j.id, j.plan]);
  for (const p of j.parts ?? []) own.add(p.lease).add(p.reservation).add(p.plan);
  for (const t of j.seeking?.tries ?? []) own.add(t.candidate.reservation).add(t.candidate.lease);
  for (const v of state.plans) {
    const p = v.plan && typeof v.plan === "object" ? v.plan : v;
    if (p.journey !== j.id) continue;
    own.add(p.id);
    for (const c of p.borrow?.candidates ?? []) own.add(c.reservation).add(c.lease);
  }
  return state.events.filter((e) => own.has(e.subject) || e.data?.journey === j.id);
}

export function journeys(chosen) {
  const all = list();
  if (!all.length) return [head(t("Journeys")), empty(t("No journey yet"), t("When a service cannot keep its objective at home, its journey to another cloud and back is told here, with every reason."))];
  const j = all.find((x) => x.id === chosen) ?? all[0];
  const open = all.filter(isOpen).length;
  return [
    head(t("Journeys"), t("{open} open, {closed} closed", { open, closed: all.length - open })),
    h("div.columns.side", {},
      h("nav.sheet.picks", { "aria-label": t("All journeys") }, all.slice(0, 200).map((x) =>
        h("a.pick", { href: `#/journeys/${x.id}`, "data-key": x.id, "aria-current": x.id === j.id ? "true" : null },
          h("b", { lang: "en" }, x.service), chip(f.tag(x.phase)), h("span.faint", {}, `${word(x.cause)} · `, time(x.opened_at))))),
      h("div.stack", {}, detail(j))),
  ];
}

function detail(j) {
  const events = eventsOf(j);
  const outcome = j.phase?.outcome;
  return [
    h("section.sheet", { "data-key": `journey-${j.id}`, "aria-label": t("Journey") },
      h("div.sub", {}, h("h2", {}, t("{cause} of {service}", { cause: word(j.cause), service: j.service })), chip(outcome ?? f.tag(j.phase)), h("span.faint", {}, id(j.id), " · ", t("plan {n}", { n: j.plan_number })),
        isOpen(j) && may("customer") && button("cancel", t("Give all back…"), { id: j.id, name: j.service }, "quiet")),
      j.phase?.why && h("p.judged", {}, h("span", {}, t("Closed")), said(j.phase.why)),
      track(events, isOpen(j)), h("div", { "data-room": "lanes" }, lanes(j, events))),
    h("section.sheet", { "aria-label": t("What happened") }, h("h2", {}, t("What happened, and why")), story(j, events)),
  ];
}

/** How far it has come. */
function track(events, open) {
  const reached = new Map();
  for (const e of events) if (!reached.has(stageOf(e))) reached.set(stageOf(e), e);
  const first = events[0]?.at;
  const last = STAGES.findLastIndex((s) => reached.has(s));
  return h("ol.track", {}, STAGES.map((stage, i) => {
    const e = reached.get(stage);
    return h("li", { class: !e ? "ahead" : open && i === last ? "now" : "past", "aria-current": open && i === last ? "step" : null },
      h("b", {}, word(stage)), h("span", {}, e ? (e.at === first ? time(e.at, f.clock) : `+${span(e.at - first)}`) : "–"));
  }));
}

const span = (n) => (n < 10_000 ? `${(n / 1000).toFixed(2)} s` : f.ms(n));

/** Every lease as a line in time, coloured by its lender. */
function lanes(j, events) {
  if (events.length < 2) return null;
  // Text keeps its size: the drawing has as many units as the page has pixels.
  const W = Math.min(1000, Math.max(300, roomOf("lanes")));
  const [left, tall] = [W < 600 ? 84 : 130, 26];
  const from = events[0].at;
  const to = Math.max(isOpen(j) ? state.traffic?.at ?? Date.now() : events.at(-1).at, from + 1000);
  const x = (at) => left + ((at - from) / (to - from)) * (W - left - 12);
  const byLease = new Map((j.parts ?? []).map((p) => [p.lease, p.lender]));
  for (const e of events) if (e.subject_kind === "lease" && !byLease.has(e.subject)) byLease.set(e.subject, e.data?.lender ?? "lender");
  const rows = [...byLease];
  const height = (rows.length + 1) * tall + 24;
  const marks = [];
  const step = [500, 1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 300_000, 900_000, 3_600_000, 21_600_000, 86_400_000].find((s) => (to - from) / s <= W / 90) ?? 86_400_000;
  for (let t = 0; t <= to - from; t += step) {
    marks.push(h("line.tick", { x1: x(from + t), x2: x(from + t), y1: 0, y2: height - 20 }), h("text.degree", { x: x(from + t) + 3, y: height - 6 }, t === 0 ? "0" : f.ms(t)));
  }
  const y = (i) => i * tall + tall / 2 + 2;
  marks.push(h("text.lane", { x: 0, y: y(0) + 4 }, t("decisions")));
  for (const e of events.filter((e) => e.subject_kind !== "lease")) {
    marks.push(h("circle.dot", { class: BAD.includes(e.action) ? "bad" : null, cx: x(e.at), cy: y(0), r: 4 }, h("title", {}, `${f.words(e.action)}: ${e.reasons.join("; ")}`)));
  }
  rows.forEach(([lease, lender], i) => {
    const own = events.filter((e) => e.subject === lease && e.action in PHASES);
    marks.push(h("text.lane", { class: hue(lender), lang: "en", x: 0, y: y(i + 1) + 4 }, W < 600 && lender.length > 12 ? `${lender.slice(0, 11)}…` : lender));
    own.forEach((e, n) => {
      const phase = PHASES[e.action];
      const end = own[n + 1]?.at ?? (isOpen(j) ? to : e.at);
      if (!phase || phase === PHASES[own[n - 1]?.action] || end <= e.at) return;
      const width = Math.max(2, x(end) - x(e.at));
      marks.push(h("rect.phase", { class: `${hue(lender)} ${phase}`, x: x(e.at), y: y(i + 1) - 8, width, height: 16, rx: 2 }, h("title", {}, `${lender}: ${word(phase)}, ${span(end - e.at)}`)));
      if (width > 56) marks.push(h("text.inside", { class: phase, x: x(e.at) + 7, y: y(i + 1) + 4 }, word(phase)));
    });
  });
  return h("svg.lanes", { viewBox: `0 0 ${W} ${height}`, role: "img", "aria-label": t("Leases over {time}", { time: span(to - from) }) }, marks);
}

function story(j, events) {
  if (!events.length) return empty(t("Its events are not in the newest part of the journal"), t("Read them with:"), " ", command(`pumasi events --subject ${j.id}`));
  const first = events[0].at;
  const lender = new Map((j.parts ?? []).map((p) => [p.lease, p.lender]));
  return h("ol.story", {}, events.map((e) =>
    h("li", { "data-key": `e${e.seq}`, class: BAD.includes(e.action) ? "bad" : null },
      e.at === first ? time(e.at, f.clock) : h("time", { datetime: f.iso(e.at), title: f.iso(e.at) }, `+${span(e.at - first)}`),
      h("span.stage", {}, word(stageOf(e))),
      h("details", { "data-key": `d${e.seq}` },
        h("summary", {}, h("b", { lang: "en" }, f.words(e.action)), lender.has(e.subject) && cloudName(lender.get(e.subject)), h("span.first", { lang: "en" }, e.reasons[0] ?? "")),
        h("div.why", {},
          e.reasons.length ? h("ul.reasons", { lang: "en" }, e.reasons.map((r) => h("li", {}, r))) : h("p.faint", {}, t("no reasons were given")),
          h("p.faint", {}, time(e.at)),
          h("p.faint", { lang: "en" }, `${e.actor} · ${e.subject_kind} `, id(e.subject), e.cause ? ` · cause ${f.words(e.cause)}` : "", e.trace_id ? ` · trace ${e.trace_id}` : "", ` · entry ${e.seq}`),
          e.data && typeof e.data === "object" && Object.keys(e.data).length > 0 && h("pre", { tabindex: 0, lang: "en" }, JSON.stringify(e.data, null, 1)))))));
}
