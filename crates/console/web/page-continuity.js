// If a cloud stopped now: where each service could go on, how soon, with how much loss.

import { h } from "./dom.js";
import * as f from "./format.js";
import { chip, cloudName, empty, head, id, said, table, time } from "./parts.js";
import { state } from "./state.js";
import { t } from "./text.js";

const able = (s) => s.cloud !== null && ["kept", "helping"].includes(s.state) && s.serves_in_ms !== null;
const soon = (ms) => (ms === null ? "–" : ms === 0 ? t("at once") : t("in {time}", { time: f.ms(ms) }));
const loss = (s) => (s.loss_ms === null ? (s.cloud === null ? t("all") : "–") : s.loss_ms === 0 ? t("nothing") : t("the last {time}", { time: f.ms(s.loss_ms) }));

/** One sentence a service: what its users would meet. */
export function outlook(name, seats) {
  const best = seats.filter(able).sort((a, b) => a.serves_in_ms - b.serves_in_ms || (a.loss_ms ?? 0) - (b.loss_ms ?? 0))[0];
  const told = best
    ? h("p", {}, t("could go on at {cloud} {soon} and would lose {loss}", { cloud: best.cloud, soon: soon(best.serves_in_ms), loss: loss(best) }))
    : h("p.bad", {}, seats.some((s) => s.state === "none") ? t("would end with this cloud: nobody keeps it ready") : t("could not go on yet: what keeps it ready is not complete"));
  return h("div.sub", { "data-key": `outlook-${name}` }, h("b.name", {}, said(name)), told);
}

/** What this cloud's own services could meet, one sentence each. */
export function outlooks() {
  const own = state.continuity.filter((s) => s.owner === state.cloud?.name);
  return [...new Set(own.map((s) => s.service))].map((name) => outlook(name, own.filter((s) => s.service === name)));
}

function row(s) {
  return {
    // One lease may keep several services, and one service several seats: only all together name a row.
    key: [s.owner, s.service, s.cloud, s.lease, s.state].join(" "),
    cells: [
      said(s.service), cloudName(s.owner), s.cloud ? cloudName(s.cloud) : "–", chip(s.state), s.cloud ? `${s.ready} / ${s.room}` : "–",
      s.cloud ? soon(s.serves_in_ms) : t("never"), loss(s), s.kept_ms === null ? "–" : f.ms(s.kept_ms), s.lease ? id(s.lease) : "", s.why ? said(s.why) : "",
    ],
  };
}

/** What services wrote here before this cloud was found lost: nothing is wrong, somebody should look at it. */
export function divergences() {
  const rows = state.divergences.map((d) => ({
    key: `${d.id}-${d.epoch}`,
    cells: [said(d.service), d.epoch, time(d.set_aside_at, f.day), f.bytes(d.bytes), d.only_here ?? "–", said(d.summary), h("code", {}, `pumasi divergence download ${d.service} --epoch ${d.epoch}`)],
  }));
  const title = t("Kept from before a loss");
  return h("section.sheet", { "aria-label": title }, h("div.sub", {}, h("h2", {}, title)),
    table(title, [t("Service"), `>${t("Epoch")}`, t("Since"), `>${t("Size")}`, `>${t("Here only")}`, t("What"), t("Get it")], rows));
}

export function continuity() {
  const here = state.cloud?.name;
  const own = state.continuity.filter((s) => s.owner === here);
  const others = state.continuity.filter((s) => s.owner !== here);
  const columns = [t("Service"), t("Of"), t("At"), t("State"), `>${t("Running")}`, t("Serves"), t("Loses"), t("Kept for"), t("Lease"), t("Why")];
  const part = (title, seats, none, why) => h("section.sheet", { "aria-label": title }, h("div.sub", {}, h("h2", {}, title)),
    seats.length ? table(title, columns, seats.map(row)) : empty(none, why));
  const told = outlooks();
  return [
    head(t("Continuity"), t("If this cloud stopped now: where each service could go on, how soon, with how much loss")),
    told.length > 0 && h("section.sheet", { "aria-label": t("Outlook") }, told),
    part(t("Kept ready elsewhere"), own, t("No service yet"), t("A service says in its manifest where it must be able to live on: continuity.clouds.")),
    part(t("Kept ready here"), others, t("Nothing is kept ready here"), t("No service of another cloud asks for it.")),
    state.divergences.length > 0 && divergences(),
  ].filter(Boolean);
}
