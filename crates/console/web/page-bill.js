// What is owed and earned: as both clouds signed it, and as this one metered what is not signed yet.

import { get } from "./api.js";
import { h } from "./dom.js";
import * as f from "./format.js";
import { button, chip, cloudName, empty, head, id, said, table, time } from "./parts.js";
import { SOURCES, state } from "./state.js";
import { locale, t } from "./text.js";

const MONTHS = 12;
let month = "";

export const needs = () => ({
  bill: () => get(month ? `/v1/bill?month=${month}` : "/v1/bill"),
  settlements: SOURCES.settlements,
});
export function choose(value) {
  month = value;
}

/** This month and those before it, as the bill counts them: in UTC. */
function months() {
  const now = new Date(state.traffic?.at ?? Date.now());
  const name = new Intl.DateTimeFormat(locale(), { year: "numeric", month: "long", timeZone: "UTC" });
  return Array.from({ length: MONTHS }, (_, back) => {
    const first = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() - back, 1));
    return { value: back === 0 ? "" : first.toISOString().slice(0, 7), text: name.format(first) };
  });
}

function stateOf(l) {
  if (l.state === "settled") return h("span", {}, chip("settled"), l.readings_agree === false && [" ", chip("ledgers_differ")]);
  return l.state === "running" ? chip("runs") : h("span", {}, chip("open", l.why), " ", t("waits for a person"));
}

function line(l, currency) {
  return {
    key: `${l.lease}-${l.side}`,
    cells: [
      time(l.at), l.side === "rented" ? t("rented from") : t("lent to"), cloudName(l.with), l.service ? said(l.service) : "–", stateOf(l), f.ms(l.instance_ms), l.reserved_instance_ms ? f.ms(l.reserved_instance_ms) : "–", f.count(l.requests),
      l.price_per_instance_hour == null ? "–" : f.price(l.price_per_instance_hour, currency), f.price(l.amount, currency), id(l.lease),
    ],
  };
}

function settlement(s, currency) {
  const name = `${s.borrower}: ${s.service}`;
  return {
    key: s.lease,
    cells: [id(s.lease), said(s.service), cloudName(s.borrower), cloudName(s.lender), f.ms(s.lender_instance_ms), s.borrower_instance_ms == null ? t("nothing said") : f.ms(s.borrower_instance_ms), f.price(s.amount, currency), time(s.since), s.disputed ? said(s.disputed) : "–",
      h("div.decide", {}, button("settle-accept", t("Accept…"), { id: s.lease, name }), button("settle-dispute", t("Dispute…"), { id: s.lease, name }))],
  };
}

export function bill() {
  const b = state.bill;
  if (!b) return [head(t("Bill")), empty(t("Asking the daemon…"), t("The bill is on its way."))];
  const sum = (label, signed, unsigned) => h("div.figure", {}, h("b", {}, f.price(signed, b.currency)), h("span", {}, label, unsigned > 0 && [" · ", t("{amount} not signed yet", { amount: f.price(unsigned, b.currency) })]));
  const differ = b.lines.filter((l) => l.readings_agree === false).length;
  return [
    head(t("Bill"), t("As both clouds signed it; what is not signed yet is told apart"),
      h("label.search", {}, h("span", {}, t("Month (UTC)")), h("select", { "data-act": "bill-month", id: "month" }, months().map((m) => h("option", { value: m.value, selected: m.value === month }, m.text)), h("option", { value: "all", selected: month === "all" }, t("all time"))))),
    h("section.sheet", { "aria-label": t("Sums") }, h("div.figures", {}, sum(t("to pay"), b.to_pay, b.unsigned_to_pay), sum(t("to get"), b.to_get, b.unsigned_to_get)),
      differ > 0 && h("p.busy", {}, differ === 1 ? t("Of 1 line the ledgers differ: the lesser reading is paid.") : t("Of {n} lines the ledgers differ: the lesser reading is paid.", { n: differ }))),
    state.settlements.length > 0 && h("section.sheet.plan", { "aria-label": t("Settlements that wait for a person") }, h("h2", {}, t("Settlements that wait for a person")),
      table(t("Settlements that wait for a person"), [t("Lease"), t("Service"), t("Borrower"), t("Lender"), `>${t("Lender's reading")}`, `>${t("Borrower's reading")}`, `>${t("By the lesser")}`, t("Since"), t("Disputed"), t("Act")], state.settlements.map((s) => settlement(s, b.currency)))),
    b.lines.length
      ? h("section.sheet.bare", { "aria-label": t("Lines of the bill") }, table(t("Lines of the bill"), [t("Since"), t("Side"), t("With"), t("Service"), t("State"), `>${t("Instance time")}`, `>${t("Kept ready")}`, `>${t("Requests")}`, `>${t("Price / h")}`, `>${t("Amount")}`, t("Lease")], b.lines.map((l) => line(l, b.currency))),
          b.left_out > 0 && h("p.faint", {}, t("{n} older lines are in the sums and not shown.", { n: b.left_out })))
      : empty(t("Nothing was rented or lent"), t("In this time this cloud owes nobody, and nobody owes it.")),
  ].filter(Boolean);
}
