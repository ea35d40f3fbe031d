// Pieces that more than one page shows.

import { h } from "./dom.js";
import * as f from "./format.js";
import { hue, state } from "./state.js";
import { t, word } from "./text.js";

const TONES = {
  good: ["serving", "ready", "kept", "active", "running", "current", "approved", "settled", "returned", "chosen", "alive", "signed", "full", "done", "passed"],
  busy: ["starting", "borrowing", "waiting", "recalled", "ending", "deleting", "unready", "backing_off", "ended_unproven", "signing", "sending", "asking", "seeking", "draining", "resting", "coming", "helping", "progressing", "returning", "runs", "stands_back", "moved", "ledgers_differ"],
  bad: ["degraded", "failing", "failed", "silent", "missing", "crashed", "refused", "unreachable", "lost", "unproven", "not_begun", "impossible", "open"],
};
export const tone = (name) => Object.keys(TONES).find((key) => TONES[key].includes(name)) ?? "plain";
export const chip = (name, title) => h("span.chip", { class: tone(name), title }, word(name));
/** The mark has a cloud's colour, the name says which it is. */
export const cloudName = (name) => h("span.cloud", { class: hue(name) }, h("i", { "aria-hidden": "true" }), said(name));
export const empty = (title, ...text) => h("div.empty", {}, h("strong", {}, title), h("p", {}, ...text));
export const fact = (label, ...value) => h("div.fact", {}, h("dt", {}, label), h("dd", {}, ...value));
export const head = (title, note, ...more) => h("div.head", {}, h("h1", {}, title), note && h("p", {}, note), ...more);
export const id = (value) => h("code.id", { title: value }, f.shortId(value));
export const command = (text) => h("code", {}, text);
/** What the daemon or a manifest says: it stays as it is, whatever the language of the page. */
export const said = (text) => h("span", { lang: "en" }, text);
export const time = (wall, show = f.when) => h("time", { datetime: f.iso(wall), title: f.iso(wall) }, show(wall));
export const price = (millionths) => f.price(millionths, state.cloud?.currency);
export const button = (act, text, data, tone_) =>
  h("button", { type: "button", class: tone_, "data-act": act, ...Object.fromEntries(Object.entries(data ?? {}).map(([k, v]) => [`data-${k}`, v])) }, text);

/** Headers with `>` in front are of numbers, which stand right. On a narrow page each row is a card, so roles are named. */
export function table(caption, columns, rows) {
  const titles = columns.map((c) => c.replace(/^>/, ""));
  const side = columns.map((c) => (c.startsWith(">") ? "n" : null));
  return h("div.scroll", { role: "group", "aria-label": caption, tabindex: innerWidth < 1400 ? 0 : null }, h("table", { role: "table" },
    h("caption", {}, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, titles.map((title, i) => h("th", { role: "columnheader", scope: "col", class: side[i] }, title)))),
    h("tbody", { role: "rowgroup" }, rows.map(({ key, cells }) =>
      h("tr", { role: "row", "data-key": key }, cells.map((cell, i) => h("td", { role: "cell", class: side[i], "data-label": titles[i] || null }, cell)))))));
}

/** Parts of a whole, left to right. `parts`: [{ size, class, title }]. */
export function bar(parts, label) {
  const whole = parts.reduce((sum, p) => sum + p.size, 0);
  let at = 0;
  const rects = parts.filter((p) => p.size > 0).map((p) => {
    const width = (p.size * 1000) / whole;
    const rect = h("rect", { x: at, y: 0, width: Math.max(0, width - 3), height: 10, class: p.class }, h("title", {}, p.title));
    at += width;
    return rect;
  });
  return h("svg.bar", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", role: "img", "aria-label": label }, h("rect.rest", { x: 0, y: 0, width: 1000, height: 10 }), rects);
}

/** Who answers now, by cloud. */
export function shareBar(served) {
  const entries = Object.entries(served).filter(([, mps]) => mps > 0).sort(([a], [b]) => a.localeCompare(b));
  const whole = entries.reduce((sum, [, mps]) => sum + mps, 0);
  const parts = entries.map(([cloud, mps]) => ({ size: mps, class: hue(cloud), title: t("{cloud}: {rate} a second", { cloud, rate: f.rate(mps) }) }));
  return h("div.share", {},
    bar(parts, entries.length ? entries.map(([c, m]) => `${c} ${f.percent(m, whole)} %`).join(", ") : t("no traffic")),
    h("div.legend", {}, entries.length ? entries.map(([cloud, mps]) => h("span", {}, cloudName(cloud), h("b", {}, ` ${f.percent(mps, whole)} %`))) : h("span.faint", {}, t("no traffic now"))));
}

/** Time left of a whole, as a thin bar that empties. */
export const fuse = (left, whole, label) => bar([{ size: Math.min(left, whole), class: left < whole / 4 ? "busy" : "ink", title: label }, { size: Math.max(0, whole - left), class: "rest", title: "" }], label);
