// The journal as it grows, newest first.

import { h } from "./dom.js";
import * as f from "./format.js";
import { empty, head, id, table } from "./parts.js";
import { state } from "./state.js";

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
    cells: [String(e.seq), h("time", { title: new Date(e.at).toISOString() }, f.clock(e.at)), e.actor, h("b", {}, f.words(e.action)), h("span", {}, `${e.subject_kind} `, id(e.subject)), e.reasons.join("; ") || "–"],
  }));
  return [
    head("Journal", `${found.length} of the newest ${state.events.length} entries`,
      h("label.search", {}, h("span", {}, "Filter"), h("input", { type: "search", "data-act": "filter", id: "filter", autocomplete: "off", placeholder: "service, action, reason…" }))),
    rows.length ? h("section.sheet.bare", { "aria-label": "Journal" }, table("Journal", [">Entry", "Time (UTC)", "Who", "What", "On", "Why"], rows)) : empty("No such entry", wanted ? "Nothing in the newest entries holds this text." : "Nothing has happened yet."),
  ];
}
