// The journal as it grows, newest first.

import { h } from "./dom.js";
import { empty, head, id, said, table, time } from "./parts.js";
import { state } from "./state.js";
import { t } from "./text.js";
import * as f from "./format.js";

const SHOWN = 200;
let wanted = "";

export function filterBy(text) {
  wanted = text.trim().toLowerCase();
}

export function journal() {
  const has = (e) => !wanted || `${e.action} ${e.subject_kind} ${e.subject} ${e.actor} ${e.cause ?? ""} ${e.reasons.join(" ")}`.toLowerCase().includes(wanted);
  const found = state.events.filter(has);
  const rows = found.slice(-SHOWN).reverse().map((e) => ({
    key: `j${e.seq}`,
    cells: [String(e.seq), time(e.at), said(e.actor), h("b", { lang: "en" }, f.words(e.action)), h("span", { lang: "en" }, `${e.subject_kind} `, id(e.subject)), e.reasons.length ? said(e.reasons.join("; ")) : "–"],
  }));
  return [
    head(t("Journal"), t("{n} of the newest {all} entries", { n: found.length, all: state.events.length }),
      h("label.search", {}, h("span", {}, t("Filter")), h("input", { type: "search", "data-act": "filter", id: "filter", autocomplete: "off", placeholder: t("service, action, reason…") }))),
    rows.length
      ? h("section.sheet.bare", { "aria-label": t("Entries") }, table(t("Journal"), [`>${t("Entry")}`, t("Time"), t("Who"), t("What"), t("On"), t("Why")], rows))
      : empty(t("No such entry"), wanted ? t("Nothing in the newest entries holds this text.") : t("Nothing has happened yet.")),
  ];
}
