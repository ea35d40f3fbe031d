// What is rented from others and lent to them, and what it costs.

import { h } from "./dom.js";
import * as f from "./format.js";
import { chip, cloudName, empty, fuse, head, id, table } from "./parts.js";
import { state } from "./state.js";

const cost = (l) => (l.price_per_instance_hour * l.instance_ms) / 3_600_000;
const longest = new Map();

function row(l, now) {
  // The whole of a time to live is not told: the most that was seen of it is.
  const most = Math.max(longest.get(l.id) ?? 0, l.expires_in_ms);
  longest.set(l.id, most);
  const lent = l.side === "lent";
  const live = l.expires_in_ms > 0;
  return {
    key: l.id,
    cells: [
      id(l.id), cloudName(lent ? l.borrower : l.lender), l.service, h("span", { title: l.why }, chip(l.state)),
      h("span", { class: l.instances_ready < l.instances_wanted ? "busy" : null }, `${l.instances_ready} / ${l.instances_wanted}`), l.instances_granted,
      live ? h("div.ttl", {}, h("span", {}, f.ms(l.expires_in_ms)), fuse(l.expires_in_ms, most, `${f.ms(l.expires_in_ms)} left unless renewed`)) : h("span.faint", {}, "over"),
      f.money(l.price_per_instance_hour), f.money(Math.floor(cost(l))), l.requests.toLocaleString("en"), f.age(l.since, now),
      lent && live && h("button.quiet", { type: "button", "data-act": "recall", "data-id": l.id, "data-name": `${l.borrower}'s ${l.service}` }, "Recall…"),
    ],
  };
}

export function leases() {
  const now = state.traffic?.at ?? Date.now();
  const of = (side) => state.leases.filter((l) => l.side === side).sort((a, b) => b.since - a.since);
  const [rented, lent] = [of("rented"), of("lent")];
  const sum = (list) => f.money(Math.floor(list.reduce((total, l) => total + cost(l), 0)));
  const columns = (who) => ["Lease", who, "Service", "State", ">Ready", ">Granted", "Time to live", ">Price / h", ">Cost", ">Requests", ">Since", ""];
  const part = (title, who, list, none) =>
    h("section.sheet", { "aria-label": title }, h("div.sub", {}, h("h2", {}, title), h("span.faint", {}, list.length ? `${list.length} · ${sum(list)} so far` : "")),
      list.length ? table(title, columns(who), list.map((l) => row(l, now))) : empty(none[0], none[1]));
  return [
    head("Leases", "Every use of another's resources ends by itself unless it is renewed"),
    part("Rented", "From", rented, ["Nothing is rented", "Every service is served from home."]),
    part("Lent", "To", lent, ["Nothing is lent", "No member of the pact uses this cloud now."]),
  ];
}
