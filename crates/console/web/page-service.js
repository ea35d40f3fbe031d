// One service: what it is, how it does, what ran before, what its instances say.

import { get, getText } from "./api.js";
import { answers, axis, delays } from "./chart.js";
import { h } from "./dom.js";
import * as f from "./format.js";
import { lines, logList } from "./logs.js";
import { figures, hostLink, instanceList, leaseList, objectiveOf, phaseOf, terms, trafficOf, versus } from "./page-services.js";
import { button, chip, cloudName, empty, fact, head, said, shareBar, table, time } from "./parts.js";
import { may, state } from "./state.js";
import { t } from "./text.js";

const SPAN_MS = 3_600_000;
const LOG_MS = 60_000;
const LINES = 12;

/** What this page needs beside the lists. */
export function needs(name) {
  const path = `/v1/services/${encodeURIComponent(name)}`;
  return {
    generations: async () => ({ of: name, items: (await get(`${path}/generations`)).items }),
    ...(may("customer") ? { tail: async () => ({ of: name, lines: lines(await getText(`${path}/logs?since_ms=${Date.now() - LOG_MS}`)).slice(-LINES) }) } : {}),
  };
}

function rollout(r) {
  if (!r) return null;
  return h("p.judged", { "data-key": "rollout" }, h("span", {}, t("Rollout")), chip(r.state),
    h("span.told", {}, t("generation {n}: {ready} of {wanted} ready", { n: r.generation, ready: r.ready, wanted: r.wanted }),
      r.older && t("; {ready} of generation {n} beside it", { n: r.older.generation, ready: r.older.ready }), r.why && h("span", {}, "; ", said(r.why))));
}

function history(name, status) {
  const kept = state.generations.of === name ? state.generations.items : [];
  const rows = kept.map((g) => ({
    key: `g${g.generation}`,
    cells: [String(g.generation), time(g.at), g.by ? said(g.by) : "–", g.why ? said(g.why) : "–", h("code", {}, String(g.service.spec.application.bundle).slice(0, 18)),
      g.current ? chip("current") : may("customer") && !status.deleting && button("undo", t("Run this again…"), { name, to: g.generation }, "quiet")],
  }));
  return h("section.sheet", { "aria-label": t("What it ran") }, h("div.sub", {}, h("h2", {}, t("What it ran")),
    may("customer") && !status.deleting && button("restart", t("Exchange every instance…"), { name }, "quiet")),
    rows.length ? table(t("What it ran"), [`>${t("Generation")}`, t("Since"), t("By"), t("Why"), t("Bundle"), t("Act")], rows) : h("p.faint", {}, t("Nothing earlier is kept.")));
}

function tail(name) {
  const told = state.tail?.of === name ? state.tail.lines : [];
  return h("section.sheet", { "aria-label": t("Log") }, h("div.sub", {}, h("h2", {}, t("The last minute of its log")), h("a.more-of", { href: `#/logs/${name}` }, t("Follow the log"))),
    told.length ? logList(told, t("The last minute of its log")) : h("p.faint", {}, t("No line in the last minute.")));
}

function charts(name, objective) {
  const points = state.history.get(name) ?? [];
  const { clouds, top, svg } = answers(points, SPAN_MS, 60);
  return h("section.sheet.charts", { "aria-label": t("The last hour") }, h("h2", {}, t("The last hour")),
    h("div.columns.even", {},
      h("div", {}, h("h3", {}, t("Queue delay, p95, and the objective (dashed)")), delays(`${name}-hour`, points, objective, SPAN_MS, 60), axis(SPAN_MS)),
      h("div", {}, h("h3", {}, t("Answers a second by cloud, at most {most}; shed in red", { most: f.rate(top) })), svg, axis(SPAN_MS), h("div.legend", {}, clouds.map(cloudName)))));
}

export function service(name) {
  const found = state.services.find((s) => s.service.metadata.name === name);
  if (!found) return [head(t("Service {name}", { name })), empty(t("There is no such service"), h("a", { href: "#/services" }, t("All services")))];
  const { service: document, status } = found;
  const now = trafficOf(name);
  const objective = objectiveOf(document, now);
  const open = state.journeys.find((j) => j.service === name && f.tag(j.phase) !== "closed");
  return [
    head(said(name), null, chip(phaseOf(status)), h("a", { href: "#/services" }, t("All services")), may("customer") && h("a", { href: `#/deploy/${name}` }, t("Change its manifest"))),
    h("section.sheet", { "aria-label": t("Now") },
      h("div.columns.even", {},
        h("div", {}, versus(now, objective), figures(now), shareBar(now.served_by)),
        h("dl", {}, fact(t("Hosts"), h("ul.list", {}, document.spec.hosts.map((host) => h("li", {}, hostLink(document, host))))),
          fact(t("Customer"), said(status.customer ?? "default")),
          open && fact(t("Journey"), h("a", { href: `#/journeys/${open.id}` }, t("open"))))),
      rollout(status.rollout),
      status.why && h("p.judged", {}, h("span", {}, t("Why")), said(status.why)),
      now.judgement && h("p.judged", {}, h("span", {}, t("Judged")), said(now.judgement))),
    charts(name, objective),
    h("section.sheet", { "aria-label": t("Terms, instances, leases") }, h("div.more", {}, terms(document, status, now),
      h("div", {}, h("h3", {}, t("Instances here")), instanceList(name)), h("div", {}, h("h3", {}, t("Rented")), leaseList(name)))),
    history(name, status),
    may("customer") && tail(name),
  ].filter(Boolean);
}
