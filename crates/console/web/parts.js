// Pieces that more than one page shows.

import { h } from "./dom.js";
import * as f from "./format.js";
import { hue } from "./state.js";

const TONES = {
  good: ["serving", "ready", "kept", "active", "running", "current", "approved", "settled", "returned", "chosen"],
  busy: ["starting", "borrowing", "waiting", "recalled", "ending", "deleting", "unready", "backing_off", "ended_unproven", "signing", "sending", "asking", "seeking", "draining", "resting", "coming", "helping"],
  bad: ["degraded", "failed", "silent", "missing", "crashed", "refused", "unreachable", "lost", "unproven", "not_begun"],
};
export const tone = (word) => Object.keys(TONES).find((t) => TONES[t].includes(word)) ?? "plain";
export const chip = (word, title) => h("span.chip", { class: tone(word), title }, f.words(word));
export const cloudName = (name) => h("span.cloud", { class: hue(name) }, h("i", { "aria-hidden": "true" }), name);
export const empty = (title, text) => h("div.empty", {}, h("strong", {}, title), h("p", {}, text));
export const fact = (label, ...value) => h("div.fact", {}, h("dt", {}, label), h("dd", {}, ...value));
export const head = (title, note, ...more) => h("div.head", {}, h("h1", {}, title), note && h("p", {}, note), ...more);
export const id = (value) => h("code.id", { title: value }, f.shortId(value));

/** A table with its headers named; cells that begin with a number stand right. */
export function table(caption, columns, rows) {
  return h("div.scroll", {}, h("table", {},
    h("caption", {}, caption),
    h("thead", {}, h("tr", {}, columns.map((c) => h("th", { scope: "col", class: c.startsWith(">") ? "n" : null }, c.replace(/^>/, ""))))),
    h("tbody", {}, rows.map(({ key, cells }) => h("tr", { "data-key": key }, cells.map((cell, i) => h("td", { class: columns[i].startsWith(">") ? "n" : null }, cell)))))));
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
  const entries = Object.entries(served).filter(([, mps]) => mps > 0).sort(([a], [b]) => hue(a).localeCompare(hue(b)));
  const whole = entries.reduce((sum, [, mps]) => sum + mps, 0);
  const parts = entries.map(([cloud, mps]) => ({ size: mps, class: hue(cloud), title: `${cloud}: ${f.rate(mps)} a second` }));
  return h("div.share", {},
    bar(parts, entries.length ? entries.map(([c, m]) => `${c} ${f.percent(m, whole)} %`).join(", ") : "no traffic"),
    h("div.legend", {}, entries.length ? entries.map(([cloud, mps]) => h("span", {}, cloudName(cloud), h("b", {}, ` ${f.percent(mps, whole)} %`))) : h("span.faint", {}, "no traffic now")));
}

/** Two minutes of queue delay against the objective. */
export function sparkline(name, samples, objective) {
  const [w, tall] = [240, 44];
  const known = samples.filter((s) => s !== null);
  const top = Math.max(objective * 2, ...known.map((s) => s.delay), 1);
  const y = (v) => tall - 2 - (Math.min(v, top) / top) * (tall - 6);
  const x = (i) => (i * w) / (samples.length - 1);
  const runs = [];
  samples.forEach((s, i) => {
    if (s === null) return;
    if (samples[i - 1] == null) runs.push([]);
    runs.at(-1).push([x(i).toFixed(1), y(s.delay).toFixed(1)]);
  });
  const line = runs.map((run) => `M${run.map((p) => p.join(" ")).join("L")}`).join("");
  const area = runs.map((run) => `M${run[0][0]} ${tall}L${run.map((p) => p.join(" ")).join("L")}L${run.at(-1)[0]} ${tall}Z`).join("");
  const border = y(objective).toFixed(1);
  const last = known.at(-1);
  const told = last ? `queue delay now ${f.us(last.delay)}, objective ${f.us(objective)}` : "no measurements yet";
  return h("svg.spark", { viewBox: `0 0 ${w} ${tall}`, preserveAspectRatio: "none", role: "img", "aria-label": told },
    h("defs", {},
      h("clipPath", { id: `over-${name}` }, h("rect", { x: 0, y: 0, width: w, height: border })),
      h("clipPath", { id: `under-${name}` }, h("rect", { x: 0, y: border, width: w, height: tall }))),
    h("path.area", { d: area }),
    h("path.area.missed", { d: area, "clip-path": `url(#over-${name})` }),
    h("line.objective", { x1: 0, x2: w, y1: border, y2: border }),
    h("path.kept", { d: line, "clip-path": `url(#under-${name})` }),
    h("path.missed", { d: line, "clip-path": `url(#over-${name})` }));
}

/** Time left of a whole, as a thin bar that empties. */
export const fuse = (left, whole, label) => bar([{ size: Math.min(left, whole), class: left < whole / 4 ? "busy" : "ink", title: label }, { size: Math.max(0, whole - left), class: "rest", title: "" }], label);
