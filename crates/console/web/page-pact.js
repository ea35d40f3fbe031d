// The pact: who is in it, who signed, on which terms, who votes and leads, and what would happen if a member were lost.

import { get } from "./api.js";
import { h } from "./dom.js";
import * as f from "./format.js";
import { button, chip, cloudName, command, empty, fact, head, id, price, said, table, time } from "./parts.js";
import { divergences, outlooks } from "./page-continuity.js";
import { may, SOURCES, state } from "./state.js";
import { t, word } from "./text.js";

export const needs = () => ({ pact: SOURCES.pact, gameDays: SOURCES.gameDays });

/** The rehearsal that was asked for last. */
let rehearsal = null;
export async function rehearse(cloud) {
  rehearsal = await get(`/v1/pact/rehearsal?lose=${encodeURIComponent(cloud)}`);
}

/** Whose signatures the document bears, by its protected headers (RFC 7515). */
function signers(signed) {
  return new Set((signed?.signatures ?? []).map(({ protected: text }) => {
    try {
      return JSON.parse(atob(text.replaceAll("-", "+").replaceAll("_", "/"))).iss;
    } catch {
      return null;
    }
  }));
}

function heard(cloud) {
  if (cloud === state.cloud.name) return t("this cloud");
  const seen = state.cloud.members.find((m) => m.cloud === cloud);
  if (seen?.trouble) return h("span.bad", {}, said(seen.trouble));
  return !seen || seen.heard_ms_ago === null ? h("span.bad", {}, t("never")) : f.ago(seen.heard_ms_ago);
}

function members({ pact, signed }) {
  const by = signers(signed);
  const rows = pact.members.map((m) => ({
    key: m.cloud,
    cells: [
      cloudName(m.cloud), chip(by.has(m.cloud) ? "signed" : "not signed"), m.role === "witness" ? t("witness") : t("cloud"), heard(m.cloud), f.room(m.terms.lends), f.bytes(m.terms.storage_bytes),
      f.price(m.terms.price_per_cpu_hour, pact.currency), f.ms(m.terms.recall_notice_ms), f.ms(m.terms.lease_ttl_ms_max),
      t("{percent} %, {n} holds", { percent: m.terms.share_per_borrower_percent, n: m.terms.holds_per_borrower }), m.terms.borrowers.length ? said(m.terms.borrowers.join(", ")) : t("every member"), word(m.terms.gives_way ?? "nothing"),
    ],
  }));
  return h("section.sheet", { "aria-label": t("Members and their terms") }, table(t("Members and their terms"),
    [t("Cloud"), t("Signature"), t("Role"), t("Heard"), t("Lends"), t("Storage"), `>${t("A CPU-hour")}`, `>${t("Recall notice")}`, `>${t("A lease lasts")}`, t("To one borrower"), t("May ask"), t("Gives way")], rows));
}

function proposals(list) {
  return list.map((p) => h("article.sheet.plan", { "data-key": p.id, "aria-label": t("Proposal") },
    h("div.sub", {}, h("h2", {}, said(p.what)), chip(p.word), h("span.faint", {}, t("proposed by {cloud}", { cloud: p.by }), " · ", time(p.since))),
    h("p", {}, p.why && said(p.why), p.lends && t(" It would lend {room}.", { room: f.room(p.lends) })),
    p.word === "waiting" && may("operator") && h("div.decide", {}, button("proposal-approve", t("Agree…"), { id: p.id, name: p.what }, "primary"), button("proposal-refuse", t("Refuse…"), { id: p.id, name: p.what }))));
}

function right(v) {
  if (v.right_ms === undefined || v.right_ms === null) return t("no right to write yet");
  return v.right_ms === 0 ? h("span.bad", {}, t("the right to write is over")) : t("may write for {time}", { time: f.ms(v.right_ms) });
}

function vote(v) {
  const title = t("The vote");
  const standing = (c) => [chip(c.standing), c.ailing && h("span.busy", {}, " ", t("ailing")), c.witness && h("span.faint", {}, " ", t("witness"))];
  const remarks = v.remarks?.length ? h("ul.reasons", { lang: "en" }, v.remarks.map((r) => h("li", {}, r))) : null;
  if (!v.votes) return h("section.sheet", { "aria-label": title }, h("div.sub", {}, h("h2", {}, title), h("p", {}, t("This pact does not vote."))), remarks);
  const owned = (v.services ?? []).map((s) => {
    const heirs = s.sync ? s.in_step ?? [] : s.standbys ?? [];
    return { key: s.service, cells: [said(s.service), cloudName(s.owner), s.epoch, chip(s.phase, s.detail), heirs.length ? heirs.map(cloudName) : t("nobody"), s.sync ? t("no acknowledged write is lost") : t("what is not copied yet is lost")] };
  });
  return h("section.sheet", { "aria-label": title }, h("div.sub", {}, h("h2", {}, title), h("p", {}, v.leader ? t("{cloud} leads", { cloud: v.leader }) : t("nobody leads just now"))),
    h("dl.wide", {}, fact(t("Since serial"), v.since ?? "–"), fact(t("Term"), v.term), fact(t("Times"), v.profile ? said(v.profile) : t("its own")), fact(t("Lost after"), f.ms(v.ttl_ms)), fact(t("This cloud"), right(v))),
    table(t("Who votes"), [t("Cloud"), t("Votes"), t("Standing")], (v.clouds ?? []).map((c) => ({ key: c.cloud, cells: [cloudName(c.cloud), c.votes ? t("yes") : t("no"), standing(c)] }))),
    owned.length > 0 && table(t("Who owns what"), [t("Service"), t("Owner"), `>${t("Epoch")}`, t("State"), t("May take over"), t("Loss")], owned),
    remarks);
}

function rehearsed() {
  const title = t("If a member were lost now");
  const r = rehearsal;
  const rows = (r?.services ?? []).map((s) => ({
    key: s.service,
    cells: [said(s.service), said(s.class), s.priority, h("span", {}, chip(s.outcome), s.falls_short && h("span.bad", {}, " ", t("less than promised"))), s.heir ? cloudName(s.heir) : "–",
      s.grows_to ? t("{n}, then {later} of {of}", { n: s.instances, later: s.grows_to, of: s.of }) : t("{n} of {limit}", { n: s.instances, limit: s.of }), s.rto_ms == null ? "–" : f.ms(s.rto_ms), said(s.rpo), said([s.why, s.mend].filter(Boolean).join("; ") || "–")],
  }));
  return h("section.sheet", { "aria-label": title }, h("div.sub", {}, h("h2", {}, title), h("span.faint", {}, t("Nothing is changed by asking."))),
    h("div.decide", {}, state.pact.pact.members.map((m) => button("rehearse", t("Lose {cloud}", { cloud: m.cloud }), { cloud: m.cloud }))),
    r && h("p", { role: "status" }, t("{cloud} would be called lost {time} after its last sign of life.", { cloud: r.lose, time: f.ms(r.noticed_ms) }), r.asks && ` ${t("Operators of a majority would be asked first.")}`,
      r.silent.length > 0 && ` ${t("The plan is made without {clouds}: not heard.", { clouds: r.silent.join(", ") })}`),
    r && (rows.length ? table(t("What would be recovered"), [t("Service"), t("Class"), `>${t("Priority")}`, t("Outcome"), t("Heir"), t("Instances"), `>${t("After")}`, t("Loses"), t("Why")], rows) : h("p.faint", {}, t("It owns nothing that the pact looks after."))));
}

function gameDays() {
  const title = t("Game days");
  const how = (l) => [l.why, l.heir && l.taken_ms != null && `${l.heir} owned it after ${f.ms(l.taken_ms)}`, l.answered_ms != null && `it answered after ${f.ms(l.answered_ms)}`, l.back_ms != null && `it was back after ${f.ms(l.back_ms)}`].filter(Boolean).join("; ");
  const rows = state.gameDays.map((g) => ({
    key: g.service,
    cells: [said(g.service), g.every_ms ? f.ms(g.every_ms) : "–", g.next_at ? time(g.next_at) : "–", g.step ? chip(g.step) : "–", g.last ? chip(g.last.passed ? "passed" : "failed") : "–", g.last ? time(g.last.began_at) : "–", g.last ? said(how(g.last)) : "–"],
  }));
  return h("section.sheet", { "aria-label": title }, h("div.sub", {}, h("h2", {}, title)),
    rows.length ? table(title, [t("Service"), t("Every"), t("Next"), t("Under way"), t("Last"), t("When"), t("How it went")], rows) : h("p.faint", {}, t("No service was given up on purpose. Try one with:"), " ", command("pumasi pact game-day SERVICE")));
}

export function pact() {
  const title = t("Pact");
  if (!state.cloud.currency) return [head(title), empty(t("This cloud is in no pact"), command("pumasi pact init"), " ", t("founds one,"), " ", command("pumasi pact join"), " ", t("joins one."))];
  if (!state.pact) return [head(title), empty(t("Asking the daemon…"), t("The pact is on its way."))];
  const told = outlooks();
  return [
    head(title, null, h("span", {}, id(state.pact.pact.id), " · ", t("serial {n}, prices in {currency}", { n: state.pact.pact.serial, currency: state.pact.pact.currency }))),
    proposals(state.pact.proposals ?? []),
    members(state.pact),
    state.pact.vote && vote(state.pact.vote),
    may("operator") && rehearsed(),
    may("operator") && gameDays(),
    h("section.sheet", { "aria-label": t("Continuity") }, h("div.sub", {}, h("h2", {}, t("If this cloud stopped now")), h("a.more-of", { href: "#/continuity" }, t("All of it"))), told.length ? told : h("p.faint", {}, t("No service yet"))),
    state.divergences.length > 0 && divergences(),
  ].filter(Boolean);
}
