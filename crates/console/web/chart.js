// Curves over time. Where nothing is known there is no line: nothing is drawn as zero that was not measured.

import { h } from "./dom.js";
import * as f from "./format.js";
import { hue, state } from "./state.js";
import { t } from "./text.js";

/** A longer pause between two points is a gap. */
const GAP_MS = 15_000;

/** Runs of points without a gap; `value` gives null where there is none. */
function runs(points, value) {
  const out = [];
  let last = null;
  for (const p of points) {
    const v = value(p);
    if (v === null) {
      last = null;
      continue;
    }
    if (last === null || p.at - last > GAP_MS) out.push([]);
    out.at(-1).push([p.at, v]);
    last = p.at;
  }
  return out;
}

function scales(span, top, width, tall) {
  const to = state.traffic?.at ?? Date.now();
  return {
    from: to - span,
    x: (at) => Math.max(0, ((at - (to - span)) / span) * width).toFixed(1),
    y: (v) => (tall - 2 - (Math.min(v, top) / top) * (tall - 6)).toFixed(1),
  };
}

const within = (points, from) => points.filter((p) => p.at >= from);

/** Queue delay against the objective. */
export function delays(name, points, objective, span, tall) {
  const width = 240;
  const recent = within(points, scales(span, 1, width, tall).from);
  const known = recent.filter((p) => p.delay !== null);
  const top = Math.max(objective * 2, ...known.map((p) => p.delay), 1);
  const { x, y } = scales(span, top, width, tall);
  const lines = runs(recent, (p) => p.delay).map((run) => run.map(([at, v]) => `${x(at)} ${y(v)}`));
  const line = lines.map((run) => `M${run.join("L")}`).join("");
  const area = lines.map((run) => `M${run[0].split(" ")[0]} ${tall}L${run.join("L")}L${run.at(-1).split(" ")[0]} ${tall}Z`).join("");
  const border = y(objective);
  const told = known.length
    ? t("queue delay, the worst {worst}, objective {objective}", { worst: f.us(Math.max(...known.map((p) => p.delay))), objective: f.us(objective) })
    : t("nobody waited in this time");
  return h("svg.spark", { viewBox: `0 0 ${width} ${tall}`, preserveAspectRatio: "none", role: "img", "aria-label": told },
    h("defs", {},
      h("clipPath", { id: `over-${name}` }, h("rect", { x: 0, y: 0, width, height: border })),
      h("clipPath", { id: `under-${name}` }, h("rect", { x: 0, y: border, width, height: tall }))),
    h("path.area", { d: area }),
    h("path.area.missed", { d: area, "clip-path": `url(#over-${name})` }),
    h("line.objective", { x1: 0, x2: width, y1: border, y2: border }),
    h("path.kept", { d: line, "clip-path": `url(#under-${name})` }),
    h("path.missed", { d: line, "clip-path": `url(#over-${name})` }));
}

/** Answers a second, a layer a cloud, and what was shed as a line. Returns the clouds from the lowest layer up. */
export function answers(points, span, tall) {
  const width = 240;
  const recent = within(points, scales(span, 1, width, tall).from);
  const clouds = [...new Set(recent.flatMap((p) => Object.keys(p.served)))].sort();
  const top = Math.max(1000, ...recent.map((p) => Math.max(p.arrivals, Object.values(p.served).reduce((a, b) => a + b, 0))));
  const { x, y } = scales(span, top, width, tall);
  const upTo = (p, n) => clouds.slice(0, n).reduce((sum, c) => sum + (p.served[c] ?? 0), 0);
  const byTime = new Map(recent.map((p) => [p.at, p]));
  const layers = clouds.map((cloud, n) => {
    const d = runs(recent, (p) => upTo(p, n + 1)).map((run) => {
      const upper = run.map(([at, v]) => `${x(at)} ${y(v)}`);
      const lower = run.map(([at]) => `${x(at)} ${y(upTo(byTime.get(at), n))}`).reverse();
      return `M${[...upper, ...lower].join("L")}Z`;
    }).join("");
    return h("path.layer", { class: hue(cloud), d });
  });
  const shed = runs(recent, (p) => (p.shed > 0 ? p.shed : null)).map((run) => `M${run.map(([at, v]) => `${x(at)} ${y(v)}`).join("L")}`).join("");
  const told = recent.length ? t("answers a second by cloud, at most {most}", { most: f.rate(top) }) : t("no traffic in this time");
  return {
    clouds, top,
    svg: h("svg.spark", { viewBox: `0 0 ${width} ${tall}`, preserveAspectRatio: "none", role: "img", "aria-label": told }, layers, h("path.missed", { d: shed })),
  };
}

/** From when to when, in words and by the clock. */
export function axis(span) {
  const to = state.traffic?.at ?? Date.now();
  return h("p.axis", {}, h("span", {}, f.ago(span), " · ", f.minute(to - span)), h("span", {}, t("now"), " · ", f.minute(to)));
}
