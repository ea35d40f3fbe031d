// If a cloud stopped now: where each service could go on, how soon, with how much loss.

import { h } from "./dom.js";
import * as f from "./format.js";
import { chip, cloudName, empty, head, id, table } from "./parts.js";
import { state } from "./state.js";

const able = (s) => s.cloud !== null && ["kept", "helping"].includes(s.state) && s.serves_in_ms !== null;
const soon = (ms) => (ms === null ? "–" : ms === 0 ? "at once" : `in ${f.ms(ms)}`);
const loss = (s) => (s.loss_ms === null ? (s.cloud === null ? "all" : "–") : s.loss_ms === 0 ? "nothing" : `the last ${f.ms(s.loss_ms)}`);

/** One sentence a service: what its users would meet. */
function outlook(name, seats) {
  const best = seats.filter(able).sort((a, b) => a.serves_in_ms - b.serves_in_ms || (a.loss_ms ?? 0) - (b.loss_ms ?? 0))[0];
  const told = best
    ? h("p", {}, "could go on at ", h("b", {}, best.cloud), ` ${soon(best.serves_in_ms)} and would lose ${loss(best)}`)
    : h("p.bad", {}, seats.some((s) => s.state === "none") ? "would end with this cloud: nobody keeps it ready" : "could not go on yet: what keeps it ready is not complete");
  return h("section.sheet", { "aria-label": `Outlook of ${name}`, "data-key": `outlook-${name}` }, h("div.sub", {}, h("h2", {}, name), told));
}

function row(s) {
  return {
    key: `${s.owner}-${s.service}-${s.lease ?? s.state}`,
    cells: [
      s.service, cloudName(s.owner), s.cloud ? cloudName(s.cloud) : "–", h("span", { title: s.why }, chip(s.state)), s.cloud ? `${s.ready} / ${s.room}` : "–",
      s.cloud ? soon(s.serves_in_ms) : "never", loss(s), s.kept_ms === null ? "–" : f.ms(s.kept_ms), s.lease ? id(s.lease) : "", s.why,
    ],
  };
}

/** What services wrote here before this cloud was found lost: nothing is wrong, somebody should look at it. */
function divergence(d) {
  return {
    key: `${d.id}-${d.epoch}`,
    cells: [d.service, d.epoch, f.day(d.set_aside_at), f.bytes(d.bytes), d.only_here ?? "–", d.summary, h("code", {}, `pumasi divergence download ${d.service} --epoch ${d.epoch}`)],
  };
}

export function continuity() {
  const here = state.cloud?.name;
  const own = state.continuity.filter((s) => s.owner === here);
  const others = state.continuity.filter((s) => s.owner !== here);
  const columns = ["Service", "Of", "At", "State", ">Running", "Serves", "Loses", "Kept for", "Lease", "Why"];
  const names = [...new Set(own.map((s) => s.service))];
  return [
    head("Continuity", "If this cloud stopped now: where each service could go on, how soon, with how much loss"),
    ...names.map((name) => outlook(name, own.filter((s) => s.service === name))),
    h("section.sheet", { "aria-label": "Kept ready elsewhere" }, h("div.sub", {}, h("h2", {}, "Kept ready elsewhere")),
      own.length ? table("Kept ready elsewhere", columns, own.map(row)) : empty("No service yet", "A service says in its manifest where it must be able to live on: continuity.clouds.")),
    h("section.sheet", { "aria-label": "Kept ready here" }, h("div.sub", {}, h("h2", {}, "Kept ready here")),
      others.length ? table("Kept ready here", columns, others.map(row)) : empty("Nothing is kept ready here", "No service of another cloud asks for it.")),
    state.divergences.length > 0 && h("section.sheet", { "aria-label": "Kept from before a loss" }, h("div.sub", {}, h("h2", {}, "Kept from before a loss")),
      table("Kept from before a loss", ["Service", ">Epoch", "Since", ">Size", ">Here only", "What", "Get it"], state.divergences.map(divergence))),
  ].filter(Boolean);
}
