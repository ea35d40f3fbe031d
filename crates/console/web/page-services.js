// Each service: what it promises, what it keeps, and who answers for it.

import { h } from "./dom.js";
import * as f from "./format.js";
import { chip, cloudName, empty, fact, head, shareBar, sparkline } from "./parts.js";
import { state } from "./state.js";

const nothing = { arrivals_mps: 0, completed_mps: 0, shed_mps: 0, failed_mps: 0, queue_delay_p95_us: 0, app_time_p50_us: 0, app_time_p95_us: 0, user_rtt_p50_us: 0, in_flight: 0, limit: 0, served_by: {}, judgement: "" };
const BORDERS = { missed: 1, near: 0.7 };

function figure(label, value, unit, tone) {
  return h("div.figure", { class: tone }, h("b", {}, value, unit && h("small", {}, unit)), h("span", {}, label));
}

function instances(s) {
  const dots = (ready, wanted, class_) => Array.from({ length: Math.min(24, Math.max(ready, wanted)) }, (_, i) => h("i", { class: `${class_} ${i < ready ? "on" : "off"}` }));
  const title = `${s.home_ready} of ${s.home_wanted} at home, ${s.borrowed_ready} of ${s.borrowed_wanted} borrowed`;
  return h("div.dots", { role: "img", "aria-label": title, title },
    h("span", {}, dots(s.home_ready, s.home_wanted, "home")), (s.borrowed_wanted > 0 || s.borrowed_ready > 0) && h("span", {}, dots(s.borrowed_ready, s.borrowed_wanted, "borrowed")));
}

function card({ service, status }) {
  const name = service.metadata.name;
  const t = { ...nothing, ...(state.traffic?.services[name] ?? {}) };
  const objective = t.objective_queue_delay_p95_us || (service.spec.objective?.queue_delay_p95_ms ?? 50) * 1000;
  const ratio = t.queue_delay_p95_us / objective;
  const kept = ratio > BORDERS.missed ? "bad" : ratio > BORDERS.near ? "busy" : "good";
  const leases = state.leases.filter((l) => l.side === "rented" && l.service === name);
  const journeys = state.journeys.filter((j) => j.service === name);
  const open = journeys.find((j) => f.tag(j.phase) !== "closed");
  const own = state.instances.filter((i) => i.service === name && !i.lease);
  return h("article.service", { "data-key": name, "aria-label": `Service ${name}` },
    h("div.who", {},
      h("h2", {}, name), h("p.host", {}, service.spec.hosts[0]),
      h("p", {}, chip(status.deleting ? "deleting" : status.phase), instances(status)),
      open && h("p", {}, h("a", { href: `#/journeys/${open.id}` }, `open journey: ${f.words(open.cause)}`))),
    h("div.kept", {},
      h("div.versus", { class: kept }, h("b", {}, f.us(t.queue_delay_p95_us)), h("span", {}, "of ", f.us(objective), " queue delay, p95")),
      sparkline(name, state.history.get(name) ?? [null, null], objective),
      h("p.axis", {}, h("span", {}, "2 min ago"), h("span", {}, "now"))),
    h("div.flowing", {},
      h("div.figures", {},
        figure("requests", f.rate(t.arrivals_mps), "/s"), figure("shed", f.rate(t.shed_mps), "/s", t.shed_mps > 0 ? "bad" : "faint"),
        figure("failed", f.rate(t.failed_mps), "/s", t.failed_mps > 0 ? "bad" : "faint"), figure("application p95", f.us(t.app_time_p95_us)), figure("users' network", f.us(t.user_rtt_p50_us))),
      shareBar(t.served_by)),
    status.why && h("p.judged", {}, h("span", {}, "Why"), status.why),
    t.judgement && h("p.judged", {}, h("span", {}, "Judged"), t.judgement),
    h("details", { "data-key": `more-${name}` }, h("summary", {}, "Terms, instances, leases"),
      h("div.more", {},
        h("dl", {},
          fact("Hosts", service.spec.hosts.join(", ")), fact("Each instance", f.room(service.spec.application.resources ?? { cpu_millis: 250, memory_mib: 128 })),
          fact("In flight", `${t.in_flight} of ${t.limit}`), fact("Borrowing", borrowing(service.spec.borrowing)), fact("Lendable", [{ yes: "yes", no: "no", unasked: "not asked for" }[status.lending?.state] ?? "not known", ...(status.lending?.why ?? [])].join("; ")), fact("Generation", status.generation), fact("Recovery", service.spec.recovery_class ?? "deferred")),
        h("ul.list", {}, own.map((i) => h("li", {}, h("code", {}, f.shortId(i.id)), chip(i.state), h("span.faint", {}, `${f.bytes(i.memory_bytes)} · ${i.restarts} restarts`), i.why && h("span", {}, i.why)))),
        h("ul.list", {}, leases.map((l) => h("li", {}, cloudName(l.lender), chip(l.state), h("span", {}, `${l.instances_ready} of ${l.instances_wanted} instances · ${f.money(l.price_per_instance_hour)} an hour each`)))))));
}

function borrowing(b) {
  if (!b) return "automatic";
  return `${b.mode}, at most ${b.instances_max} instances and ${f.money(b.money_per_hour_max)} an hour`;
}

export function services() {
  // What needs eyes stands first; figures that swing do not move anything.
  const rank = (s) => ["degraded", "stands_back", "borrowing", "starting"].indexOf(s.status.phase) + 1 || 9;
  const all = [...state.services].sort((a, b) => rank(a) - rank(b) || a.service.metadata.name.localeCompare(b.service.metadata.name));
  const missed = all.filter((s) => {
    const t = state.traffic?.services[s.service.metadata.name];
    return t && t.queue_delay_p95_us > t.objective_queue_delay_p95_us;
  }).length;
  return [
    head("Services", all.length ? `${all.length} in all, ${missed ? `${missed} not keeping ${missed === 1 ? "its" : "their"} objective now` : "every objective is kept now"}` : null),
    all.length ? all.map(card) : empty("No services yet", "Deploy one with: pumasi apply -f service.yaml"),
  ];
}
