// Each service: what it promises, what it keeps, and who answers for it.

import { axis, delays } from "./chart.js";
import { h } from "./dom.js";
import * as f from "./format.js";
import { chip, cloudName, command, empty, fact, head, price, said, shareBar } from "./parts.js";
import { isAsked, may, state } from "./state.js";
import { t, word } from "./text.js";

const nothing = { arrivals_mps: 0, completed_mps: 0, shed_mps: 0, failed_mps: 0, queue_delay_p95_us: 0, app_time_p50_us: 0, app_time_p95_us: 0, user_rtt_p50_us: 0, in_flight: 0, limit: 0, served_by: {}, judgement: "" };
const BORDERS = { missed: 1, near: 0.7 };
/** Of the chart on a card; a service's own page shows an hour. */
const SPAN_MS = 600_000;

export const trafficOf = (name) => ({ ...nothing, ...(state.traffic?.services[name] ?? {}) });
export const objectiveOf = (service, now) => now.objective_queue_delay_p95_us || (service.spec.objective?.queue_delay_p95_ms ?? 50) * 1000;

function figure(label, value, unit, tone) {
  return h("div.figure", { class: tone }, h("b", {}, value, unit && h("small", {}, unit)), h("span", {}, label));
}

export function figures(now) {
  const asked = isAsked(now);
  return h("div.figures", {},
    figure(t("requests"), f.rate(now.arrivals_mps), "/s"), figure(t("shed"), f.rate(now.shed_mps), "/s", now.shed_mps > 0 ? "bad" : "faint"),
    figure(t("failed"), f.rate(now.failed_mps), "/s", now.failed_mps > 0 ? "bad" : "faint"),
    figure(t("application p95"), asked ? f.us(now.app_time_p95_us) : "–"), figure(t("users' network"), asked ? f.us(now.user_rtt_p50_us) : "–"));
}

/** Where nobody asks, nothing is kept or missed. */
export function versus(now, objective) {
  const told = { objective: f.us(objective) };
  if (!isAsked(now)) return h("div.versus.idle", {}, h("b", {}, t("no traffic")), h("span", {}, t("objective {objective} queue delay, p95", told)));
  const ratio = now.queue_delay_p95_us / objective;
  const kept = ratio > BORDERS.missed ? "bad" : ratio > BORDERS.near ? "busy" : "good";
  return h("div.versus", { class: kept }, h("b", {}, f.us(now.queue_delay_p95_us)), h("span", {}, t("of {objective} queue delay, p95", told)));
}

function instances(s) {
  const dots = (ready, wanted, kind) => Array.from({ length: Math.min(24, Math.max(ready, wanted)) }, (_, i) => h("i", { class: `${kind} ${i < ready ? "on" : "off"}` }));
  const title = t("{home} of {home_wanted} at home, {borrowed} of {borrowed_wanted} borrowed", { home: s.home_ready, home_wanted: s.home_wanted, borrowed: s.borrowed_ready, borrowed_wanted: s.borrowed_wanted });
  return h("div.dots", { role: "img", "aria-label": title, title },
    h("span", {}, dots(s.home_ready, s.home_wanted, "home")), (s.borrowed_wanted > 0 || s.borrowed_ready > 0) && h("span", {}, dots(s.borrowed_ready, s.borrowed_wanted, "borrowed")));
}

/** A service's own address; the port is left out where it is the usual one. A pattern leads nowhere. */
export function hostLink(service, host) {
  if (host.includes("*")) return said(host);
  const { http, https } = state.cloud?.ports ?? {};
  const secure = service.spec.tls && https ? true : !http && Boolean(https);
  const [scheme, port, usual] = secure ? ["https", https, 443] : ["http", http ?? 80, 80];
  return h("a", { lang: "en", href: `${scheme}://${host}${port === usual ? "" : `:${port}`}/`, target: "_blank", rel: "noreferrer" }, host);
}

export const lendable = (s) => {
  const told = { yes: t("yes"), no: t("no"), unasked: t("not asked for") }[s.lending?.state] ?? t("not known");
  return s.lending?.why?.length ? [told, "; ", said(s.lending.why.join("; "))] : [told];
};

export function borrowing(b) {
  if (!b) return word("automatic");
  return t("{mode}, at most {n} instances and {price} an hour", { mode: word(b.mode), n: b.instances_max, price: price(b.money_per_hour_max) });
}

export const phaseOf = (status) => (status.deleting ? "deleting" : status.phase);

export function terms(service, status, now) {
  return h("dl", {},
    fact(t("Each instance"), f.room(service.spec.application.resources ?? { cpu_millis: 250, memory_mib: 128 })),
    fact(t("In flight"), t("{n} of {limit}", { n: now.in_flight, limit: now.limit })), fact(t("Borrowing"), borrowing(service.spec.borrowing)), fact(t("Lendable"), ...lendable(status)),
    fact(t("Generation"), status.generation), fact(t("Recovery"), said(service.spec.recovery_class ?? "deferred")));
}

export function instanceList(name) {
  const own = state.instances.filter((i) => i.service === name && !i.lease);
  return h("ul.list", {}, own.map((i) => h("li", {}, h("code", {}, f.shortId(i.id)), chip(i.state), h("span.faint", {}, f.bytes(i.memory_bytes), " · ", t("{n} restarts", { n: i.restarts })), i.why && said(i.why))));
}

export function leaseList(name) {
  const rented = state.leases.filter((l) => l.side === "rented" && l.service === name);
  return h("ul.list", {}, rented.map((l) => h("li", {}, cloudName(l.lender), chip(l.state), h("span", {}, t("{ready} of {wanted} instances · {price} an hour each", { ready: l.instances_ready, wanted: l.instances_wanted, price: price(l.price_per_instance_hour) })))));
}

function card({ service, status }) {
  const name = service.metadata.name;
  const now = trafficOf(name);
  const objective = objectiveOf(service, now);
  const open = state.journeys.find((j) => j.service === name && f.tag(j.phase) !== "closed");
  return h("article.service", { "data-key": name, "aria-label": t("Service {name}", { name }) },
    h("div.who", {},
      h("h2", {}, h("a", { lang: "en", href: `#/services/${name}` }, name)), h("p.host", {}, hostLink(service, service.spec.hosts[0])),
      h("p", {}, chip(phaseOf(status)), instances(status)),
      open && h("p", {}, h("a", { href: `#/journeys/${open.id}` }, t("open journey: {cause}", { cause: word(open.cause) })))),
    h("div.kept", {}, versus(now, objective), delays(name, state.history.get(name) ?? [], objective, SPAN_MS, 44), axis(SPAN_MS)),
    h("div.flowing", {}, figures(now), shareBar(now.served_by)),
    status.why && h("p.judged", {}, h("span", {}, t("Why")), said(status.why)),
    now.judgement && h("p.judged", {}, h("span", {}, t("Judged")), said(now.judgement)),
    h("details", { "data-key": `more-${name}` }, h("summary", {}, t("Terms, instances, leases")),
      h("div.more", {}, terms(service, status, now), instanceList(name), leaseList(name))));
}

export function services() {
  // What needs eyes stands first; figures that swing do not move anything.
  const rank = (s) => ["failing", "degraded", "stands_back", "borrowing", "starting"].indexOf(s.status.phase) + 1 || 9;
  const all = [...state.services].sort((a, b) => rank(a) - rank(b) || a.service.metadata.name.localeCompare(b.service.metadata.name));
  const missed = all.filter((s) => {
    const now = trafficOf(s.service.metadata.name);
    return isAsked(now) && now.queue_delay_p95_us > objectiveOf(s.service, now);
  }).length;
  const told = missed === 0 ? t("{n} in all, every objective is kept now", { n: all.length })
    : missed === 1 ? t("{n} in all, 1 not keeping its objective now", { n: all.length })
    : t("{n} in all, {missed} not keeping their objective now", { n: all.length, missed });
  return [
    head(t("Services"), all.length ? told : null),
    all.length ? all.map(card) : empty(t("No services yet"), t("Deploy one with:"), " ", command("pumasi apply -f service.yaml"), may("customer") && h("p", {}, h("a", { href: "#/deploy" }, t("or paste its manifest here")))),
  ];
}
