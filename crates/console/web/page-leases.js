// What is rented from others and lent to them, and what it costs.

import { h } from "./dom.js";
import * as f from "./format.js";
import { button, chip, cloudName, empty, fuse, head, id, price, said, table, time } from "./parts.js";
import { may, state } from "./state.js";
import { t } from "./text.js";

const cost = (l) => (l.price_per_instance_hour * l.instance_ms) / 3_600_000;
const longest = new Map();

function row(l, now) {
  // The whole of a time to live is not told: the most that was seen of it is.
  const most = Math.max(longest.get(l.id) ?? 0, l.expires_in_ms);
  longest.set(l.id, most);
  const lent = l.side === "lent";
  const live = l.expires_in_ms > 0;
  const left = f.ms(l.expires_in_ms);
  return {
    key: l.id,
    cells: [
      id(l.id), cloudName(lent ? l.borrower : l.lender), said(l.service), h("span", { title: l.why }, chip(l.state)),
      h("span", { class: l.instances_ready < l.instances_wanted ? "busy" : null }, `${l.instances_ready} / ${l.instances_wanted}`), l.instances_granted,
      live ? h("div.ttl", {}, h("span", {}, left), fuse(l.expires_in_ms, most, t("{time} left unless renewed", { time: left }))) : h("span.faint", {}, t("over")),
      price(l.price_per_instance_hour), price(Math.floor(cost(l))), f.count(l.requests), h("span", {}, time(l.since, f.clock), ` (${f.age(l.since, now)})`),
      lent && live && may("operator") && button("recall", t("Recall…"), { id: l.id, name: `${l.borrower}: ${l.service}` }, "quiet"),
    ],
  };
}

export function leases() {
  const now = state.traffic?.at ?? Date.now();
  const of = (side) => state.leases.filter((l) => l.side === side).sort((a, b) => b.since - a.since);
  const [rented, lent] = [of("rented"), of("lent")];
  const part = (title, who, list, none) => {
    const run = list.filter((l) => l.expires_in_ms > 0);
    const sum = price(Math.floor(list.reduce((total, l) => total + cost(l), 0)));
    const told = list.length ? t("{run} run, {over} are over · {sum} so far", { run: run.length, over: list.length - run.length, sum }) : "";
    const columns = [t("Lease"), who, t("Service"), t("State"), `>${t("Ready")}`, `>${t("Granted")}`, t("Time to live"), `>${t("Price / h")}`, `>${t("Cost")}`, `>${t("Requests")}`, `>${t("Since")}`, t("Act")];
    return h("section.sheet", { "aria-label": title }, h("div.sub", {}, h("h2", {}, title), h("span.faint", {}, told)),
      list.length ? table(title, columns, list.map((l) => row(l, now))) : empty(none[0], none[1]));
  };
  return [
    head(t("Leases"), t("Every use of another's resources ends by itself unless it is renewed")),
    part(t("Rented"), t("From"), rented, [t("Nothing is rented"), t("Every service is served from home.")]),
    part(t("Lent"), t("To"), lent, [t("Nothing is lent"), t("No member of the pact uses this cloud now.")]),
  ];
}
