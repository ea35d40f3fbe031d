// Plans: those that wait for a person first, with everything one must know to decide; of the others why it was this lender.

import { h } from "./dom.js";
import * as f from "./format.js";
import { button, chip, cloudName, empty, fact, head, id, price, said, table, time } from "./parts.js";
import { may, state } from "./state.js";
import { t, word } from "./text.js";

const SHOWN = 100;

export const body = (view) => (view.plan && typeof view.plan === "object" ? view.plan : view);
export const planState = (view) => f.tag(view.state ?? view.status?.state ?? view.status);
export const waiting = () => state.plans.filter((v) => planState(v) === "waiting");

function reasons(verdict) {
  return h("ul.reasons", {}, (verdict?.reasons ?? []).map((r) => h("li", {}, said(r.text ?? r))));
}

/** What became of a candidate, by the journal. */
function outcome(c) {
  const own = state.events.filter((e) => e.subject === c.reservation || e.subject === c.lease);
  const last = own.findLast((e) => ["lender_chosen", "hold_granted", "hold_refused", "hold_too_late", "hold_distrusted", "hold_let_go", "lease_refused"].includes(e.action));
  return last ? h("span", { lang: "en" }, h("b", {}, f.words(last.action)), last.reasons.length ? `: ${last.reasons.join("; ")}` : "") : "–";
}

function candidates(borrow) {
  const rows = borrow.candidates.map((c, i) => ({
    key: c.cloud,
    cells: [String(i + 1), cloudName(c.cloud), f.us(c.rtt_us), price(c.price_per_instance_hour), c.score, said(c.why), outcome(c)],
  }));
  return table(t("Lenders, best first"), [`>${t("Rank")}`, t("Lender"), `>${t("Round trip")}`, `>${t("Price / h")}`, `>${t("Score")}`, t("Why"), t("What came of it")], rows);
}

function title(p) {
  const n = p.borrow?.requirement.instances ?? 0;
  if (!p.borrow) return t("Change what {service} rents", { service: p.service });
  return n === 1 ? t("Borrow 1 instance for {service}", { service: p.service }) : t("Borrow {n} instances for {service}", { n, service: p.service });
}

function terms(p) {
  return h("div.columns.even", {},
    h("div", {}, h("h3", {}, t("Why: {cause}", { cause: word(p.verdict?.cause) })), reasons(p.verdict)),
    h("dl.tight", {},
      fact(t("Costs at most"), t("{price} an hour", { price: price(p.cost_per_hour_max) })), fact(t("Sends at most"), f.bytes(p.bytes_max)),
      fact(t("Data that leaves"), p.datasets?.length ? said(p.datasets.join(", ")) : t("none")), fact(t("Users come by"), said(p.route?.mode ?? "proxy")),
      p.parts?.length ? fact(t("Goes on"), p.parts.map((part) => `${part.cloud}: ${part.instances}`).join(", ")) : null));
}

function card(view) {
  const p = body(view);
  return h("article.sheet.plan", { "data-key": p.id, "aria-label": t("Plan {n} for {service}", { n: p.number, service: p.service }) },
    h("div.sub", {},
      h("h2", {}, title(p)),
      h("span.faint", {}, t("plan {n}", { n: p.number }), " · ", id(p.id), ` · ${f.ago(Math.max(0, (state.traffic?.at ?? Date.now()) - p.created_at))}`)),
    terms(p),
    p.borrow && candidates(p.borrow),
    may("customer") && h("div.decide", {}, button("approve", t("Approve"), { id: p.id }, "primary"), button("refuse", t("Refuse…"), { id: p.id, name: p.service })));
}

function earlier(view) {
  const p = body(view);
  return h("details.row", { "data-key": p.id },
    h("summary", {}, h("b", {}, title(p)), chip(planState(view) || "–"), h("span.faint", {}, time(p.created_at), ` · ${word(p.mode)} · `, t("at most {price} an hour", { price: price(p.cost_per_hour_max) })),
      h("span.first", { lang: "en" }, p.verdict?.reasons?.[0]?.text ?? "")),
    h("div.why", {}, h("p.faint", {}, t("plan {n}", { n: p.number }), " · ", id(p.id), " · ", h("a", { href: `#/journeys/${p.journey}` }, t("its journey"))), view.why && h("p", {}, said(view.why)), terms(p), p.borrow && candidates(p.borrow)));
}

export function plans() {
  const open = waiting();
  const past = state.plans.filter((v) => planState(v) !== "waiting").sort((a, b) => body(b).created_at - body(a).created_at).slice(0, SHOWN);
  return [
    head(t("Plans"), open.length === 0 ? t("None waits for a decision") : open.length === 1 ? t("1 waits for a decision") : t("{n} wait for a decision", { n: open.length })),
    open.length ? open.map(card) : empty(t("Nothing to decide"), t("Services whose borrowing mode is “ask” put their plans here before anything happens.")),
    past.length > 0 && h("section.sheet", { "aria-label": t("Earlier plans") }, h("h2", {}, t("Earlier plans")), past.map(earlier)),
  ];
}
