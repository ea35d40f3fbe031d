// This cloud and its pact: where, how far, how full, and who helps whom now.

import { h, roomOf } from "./dom.js";
import * as f from "./format.js";
import { isPlaced, map } from "./map.js";
import { bar, chip, cloudName, command, empty, fact, head, said, table } from "./parts.js";
import { hue, shares, state } from "./state.js";
import { t } from "./text.js";

/** The marks are those of this cloud's own ring. */
function key(c) {
  const mark = (kind, text) => h("span", {}, h("i.swatch", { class: `${kind} ${hue(c.name)}` }), text);
  return h("p.key", {}, mark("used", t("own use")), mark("lent", t("lent")), mark("free", t("free")), h("span", {}, t("Width of a stream: live share of the requests")));
}

function trouble(m) {
  if (m.trouble) return h("span.bad", {}, said(m.trouble));
  return m.heard_ms_ago === null ? h("span.bad", {}, t("has not answered yet")) : h("span.faint", {}, t("none"));
}

export function clouds() {
  const c = state.cloud;
  const others = c.members.filter((m) => m.cloud !== c.name);
  const [all, home, lent] = [c.capacity.cpu_millis, c.used_home.cpu_millis, c.lent.cpu_millis];
  const free = Math.max(0, all - home - lent);
  const capacity = bar([
    { size: home, class: `${hue(c.name)}`, title: t("own services: {room}", { room: f.room(c.used_home) }) },
    { size: lent, class: `${hue(c.name)} half`, title: t("lent: {room}", { room: f.room(c.lent) }) },
    { size: free, class: "rest", title: t("free") },
  ], t("{home} % used by own services, {lent} % lent", { home: f.percent(home, all), lent: f.percent(lent, all) }));
  const rows = others.map((m) => ({
    key: m.cloud,
    cells: [
      cloudName(m.cloud), m.place?.city ? said(m.place.city) : "–", m.rtt_us === null ? "–" : f.us(m.rtt_us),
      m.heard_ms_ago === null ? h("span.bad", {}, t("never")) : f.ago(m.heard_ms_ago), f.room(m.lends), f.room(m.free), trouble(m),
    ],
  }));
  const drawn = map(c, state.leases, shares(), roomOf("map"));
  const unplaced = [c, ...others.map((m) => ({ name: m.cloud, place: m.place }))].filter((x) => !isPlaced(x));
  return [
    head(t("Clouds"), others.length === 0 ? t("{cloud}, alone", { cloud: c.name })
      : others.length === 1 ? t("{cloud} and 1 other member of its pact", { cloud: c.name })
      : t("{cloud} and {n} other members of its pact", { cloud: c.name, n: others.length })),
    h("div", { class: drawn ? "columns" : "alone" },
      drawn && h("section.sheet.mapped", { "aria-label": t("Map"), "data-room": "map" }, drawn, key(c)),
      h("section.sheet.facts", { "aria-label": t("This cloud, {cloud}", { cloud: c.name }) },
        h("h2", {}, cloudName(c.name)),
        h("div.capacity", {}, capacity, h("p", {}, t("{own} CPU own · {lent} lent · {free} free", { own: f.cpu(home), lent: f.cpu(lent), free: f.cpu(free) }))),
        h("dl", {},
          fact(t("Place"), c.place?.city ? said(c.place.city) : t("not stated")),
          fact(t("Capacity"), f.room(c.capacity)),
          fact(t("Gateway"), chip(c.gateway)),
          fact(t("Store"), c.standing === "current" ? chip("current") : h("span.bad", {}, said(c.standing))),
          fact(t("Isolation"), said(c.isolation)),
          fact(t("Journal"), t("{n} entries", { n: f.count(c.journal_seq) })),
          fact(t("Version"), c.version),
          drawn && unplaced.length > 0 && fact(t("Not on the map"), unplaced.map((x) => x.name).join(", "), h("span.faint", {}, " ", t("(no place in its configuration)")))))),
    others.length
      ? h("section.sheet", { "aria-label": t("Members") }, table(t("Members"), [t("Cloud"), t("City"), `>${t("Round trip")}`, `>${t("Heard")}`, t("Lends"), t("Free for us"), t("Trouble")], rows))
      : empty(t("No other member yet"), t("A cloud alone can neither borrow nor lend. Invite one with:"), " ", command("pumasi pact invite CLOUD")),
  ];
}
