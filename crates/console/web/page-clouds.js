// This cloud and its pact: where, how far, how full, and who helps whom now.

import { h } from "./dom.js";
import * as f from "./format.js";
import { map } from "./map.js";
import { bar, chip, cloudName, empty, fact, head, table } from "./parts.js";
import { hue, shares, state } from "./state.js";

export function clouds() {
  const c = state.cloud;
  const others = c.members.filter((m) => m.cloud !== c.name);
  const [all, home, lent] = [c.capacity.cpu_millis, c.used_home.cpu_millis, c.lent.cpu_millis];
  const free = Math.max(0, all - home - lent);
  const capacity = bar([
    { size: home, class: `${hue(c.name)}`, title: `own services: ${f.room(c.used_home)}` },
    { size: lent, class: `${hue(c.name)} half`, title: `lent: ${f.room(c.lent)}` },
    { size: free, class: "rest", title: "free" },
  ], `${f.percent(home, all)} % used by own services, ${f.percent(lent, all)} % lent`);
  const rows = others.map((m) => ({
    key: m.cloud,
    cells: [
      cloudName(m.cloud), m.place?.city ?? "–", m.rtt_us === null ? "–" : f.us(m.rtt_us),
      m.heard_ms_ago === null ? h("span.bad", {}, "never") : `${f.ms(m.heard_ms_ago)} ago`,
      f.room(m.lends), f.room(m.free),
      m.trouble ? h("span.bad", {}, m.trouble) : m.heard_ms_ago === null ? h("span.bad", {}, "has not answered yet") : h("span.faint", {}, "none"),
    ],
  }));
  return [
    head("Clouds", others.length ? `${c.name} and ${others.length} other ${others.length === 1 ? "member" : "members"} of its pact` : `${c.name}, alone`),
    h("div.columns", {},
      h("section.sheet.mapped", { "aria-label": "Map" }, map(c, state.leases, shares()),
        h("p.key", {}, h("span", {}, h("i.swatch.used"), "own use"), h("span", {}, h("i.swatch.lent"), "lent"), h("span", {}, h("i.swatch.free"), "free"), h("span", {}, "Width of a stream: live share of the requests"))),
      h("section.sheet.facts", { "aria-label": `This cloud, ${c.name}` },
        h("h2", {}, cloudName(c.name)),
        h("div.capacity", {}, capacity, h("p", {}, `${f.cpu(home)} CPU own · ${f.cpu(lent)} lent · ${f.cpu(free)} free`)),
        h("dl", {},
          fact("Place", c.place?.city ?? "not stated"),
          fact("Capacity", f.room(c.capacity)),
          fact("Gateway", chip(c.gateway)),
          fact("Store", c.standing === "current" ? chip("current") : h("span.bad", {}, c.standing)),
          fact("Isolation", c.isolation),
          fact("Journal", `${c.journal_seq} entries`),
          fact("Version", c.version)))),
    others.length
      ? h("section.sheet", { "aria-label": "Members" }, table("Members", ["Cloud", "City", ">Round trip", ">Heard", "Lends", "Free for us", "Trouble"], rows))
      : empty("No other member yet", "A cloud alone can neither borrow nor lend. Invite one with: pumasi pact invite CLOUD"),
  ];
}
