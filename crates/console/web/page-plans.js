// Plans: those that wait for a person first, with everything one must know to decide.

import { h } from "./dom.js";
import * as f from "./format.js";
import { chip, cloudName, empty, fact, head, id, table } from "./parts.js";
import { state } from "./state.js";

export const body = (view) => (view.plan && typeof view.plan === "object" ? view.plan : view);
export const planState = (view) => f.tag(view.state ?? view.status?.state ?? view.status);
export const waiting = () => state.plans.filter((v) => planState(v) === "waiting");

function reasons(verdict) {
  return h("ul.reasons", {}, (verdict?.reasons ?? []).map((r) => h("li", {}, r.text ?? r)));
}

function candidates(borrow) {
  const rows = borrow.candidates.map((c, i) => ({
    key: c.cloud,
    cells: [String(i + 1), cloudName(c.cloud), f.us(c.rtt_us), f.money(c.price_per_instance_hour), c.score, c.why],
  }));
  return table("Lenders, best first", [">", "Lender", ">Round trip", ">Price / h", ">Score", "Why"], rows);
}

function card(view) {
  const p = body(view);
  const wants = p.borrow?.requirement.instances ?? 0;
  return h("article.sheet.plan", { "data-key": p.id, "aria-label": `Plan ${p.number} for ${p.service}` },
    h("div.sub", {},
      h("h2", {}, p.borrow ? `Borrow ${wants} ${wants === 1 ? "instance" : "instances"} for ${p.service}` : `Change what ${p.service} rents`),
      h("span.faint", {}, `plan ${p.number} · `, id(p.id), ` · ${f.age(p.created_at, state.traffic?.at ?? Date.now())} ago`)),
    h("div.columns.even", {},
      h("div", {}, h("h3", {}, `Why: ${f.words(p.verdict?.cause)}`), reasons(p.verdict)),
      h("dl.tight", {},
        fact("Costs at most", `${f.money(p.cost_per_hour_max)} an hour`), fact("Sends at most", f.bytes(p.bytes_max)),
        fact("Data that leaves", p.datasets?.length ? p.datasets.join(", ") : "none"), fact("Users come by", p.route?.mode ?? "proxy"),
        p.parts?.length ? fact("Goes on", p.parts.map((part) => `${part.cloud}: ${part.instances}`).join(", ")) : null)),
    p.borrow && candidates(p.borrow),
    h("div.decide", {},
      h("button.primary", { type: "button", "data-act": "approve", "data-id": p.id }, "Approve"),
      h("button", { type: "button", "data-act": "refuse", "data-id": p.id, "data-name": p.service }, "Refuse…")));
}

export function plans() {
  const open = waiting();
  const past = state.plans.filter((v) => planState(v) !== "waiting").sort((a, b) => body(b).created_at - body(a).created_at).slice(0, 100);
  const rows = past.map((view) => {
    const p = body(view);
    return {
      key: p.id,
      cells: [
        id(p.id), p.number, p.service, f.words(p.verdict?.cause), p.mode, chip(planState(view) || "–"), p.borrow?.requirement.instances ?? "–", f.money(p.cost_per_hour_max),
        h("span.clip", { title: (p.verdict?.reasons ?? []).map((r) => r.text).join("; ") }, p.verdict?.reasons?.[0]?.text ?? "–"),
      ],
    };
  });
  return [
    head("Plans", open.length ? `${open.length} ${open.length === 1 ? "waits" : "wait"} for a decision` : "None waits for a decision"),
    open.length ? open.map(card) : empty("Nothing to decide", "Services whose borrowing mode is “ask” put their plans here before anything happens."),
    past.length > 0 && h("section.sheet", { "aria-label": "Earlier plans" }, table("Earlier plans", ["Plan", ">No", "Service", "Cause", "Mode", "State", ">Borrows", ">Cost / h", "Why"], rows)),
  ];
}
