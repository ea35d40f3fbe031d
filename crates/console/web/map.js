// Clouds where they are, the links between them, and what flows over them now. Who has not said where it is, is not drawn.

import { h } from "./dom.js";
import * as f from "./format.js";
import { rings } from "./land.js";
import { hue } from "./state.js";
import { t } from "./text.js";

/** Text keeps its size on every screen: the sheet has as many units as the page has pixels. */
let [W, H, PAD] = [960, 470, 84];
function measure(width) {
  W = Math.round(Math.min(1100, Math.max(320, width)));
  H = Math.round(Math.min(470, Math.max(320, W * 0.5)));
  PAD = Math.round(Math.min(84, W / 6));
}
const STEPS = [0.5, 1, 2, 5, 10, 15, 30];

/** Degrees to the page: a plain cylinder, true at the middle latitude. */
function projection(places) {
  const lat = places.map((p) => p.latitude);
  const lon = places.map((p) => p.longitude);
  const middle = { lat: (Math.min(...lat) + Math.max(...lat)) / 2, lon: (Math.min(...lon) + Math.max(...lon)) / 2 };
  const squeeze = Math.max(0.2, Math.cos((middle.lat * Math.PI) / 180));
  // A single city still gets some country around it.
  const tall = Math.max(Math.max(...lat) - Math.min(...lat), 2);
  const wide = Math.max((Math.max(...lon) - Math.min(...lon)) * squeeze, 4);
  const scale = Math.min((H - 2 * PAD) / tall, (W - 2 * PAD) / wide);
  return {
    x: (d) => W / 2 + (d - middle.lon) * squeeze * scale,
    y: (d) => H / 2 - (d - middle.lat) * scale,
    lonAt: (x) => middle.lon + (x - W / 2) / squeeze / scale,
    latAt: (y) => middle.lat - (y - H / 2) / scale,
  };
}

function graticule(p) {
  const [west, east, south, north] = [p.lonAt(0), p.lonAt(W), p.latAt(H), p.latAt(0)];
  const step = STEPS.find((s) => (east - west) / s <= W / 80) ?? 30;
  const marks = [];
  const named = (d, plus, minus) => `${Number(Math.abs(d).toFixed(1))}°${d === 0 ? "" : d > 0 ? plus : minus}`;
  for (let d = Math.ceil(west / step) * step; d <= east; d += step) {
    marks.push(h("line.graticule", { x1: p.x(d), x2: p.x(d), y1: 0, y2: H }), h("text.degree", { x: p.x(d) + 4, y: H - 7 }, named(d, "E", "W")));
  }
  for (let d = Math.ceil(south / step) * step; d <= north; d += step) {
    marks.push(h("line.graticule", { x1: 0, x2: W, y1: p.y(d), y2: p.y(d) }), h("text.degree", { x: 6, y: p.y(d) - 4 }, named(d, "N", "S")));
  }
  return marks;
}

/** What of a ring lies on the inner side of one edge (Sutherland and Hodgman). */
function cut(points, axis, edge, sign) {
  const beyond = (p) => sign * (p[axis] - edge);
  const out = [];
  points.forEach((b, i) => {
    const a = points[(i || points.length) - 1];
    const [da, db] = [beyond(a), beyond(b)];
    if (da > 0 !== db > 0) out.push([0, 1].map((n) => a[n] + (da / (da - db)) * (b[n] - a[n])));
    if (db <= 0) out.push(b);
  });
  return out;
}

/** Along the edges the cut is drawn so far outside that it is not seen. */
const OUTSIDE = 8;
function outline(points) {
  const sides = [[0, -OUTSIDE, -1], [0, W + OUTSIDE, 1], [1, -OUTSIDE, -1], [1, H + OUTSIDE, 1]];
  const seen = sides.reduce((left, side) => cut(left, ...side), points);
  return seen.length > 2 ? `M${seen.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}Z` : "";
}

const drawn = { key: "", d: "" };
function land(p) {
  const [west, east, south, north] = [p.lonAt(0), p.lonAt(W), p.latAt(H), p.latAt(0)];
  const key = [W, H, west, east, south, north].join(" ");
  if (drawn.key !== key) {
    const seen = rings().filter((r) => r.east > west && r.west < east && r.north > south && r.south < north);
    Object.assign(drawn, { key, d: seen.map((r) => outline(r.points.map(([lon, lat]) => [p.x(lon), p.y(lat)]))).join("") });
  }
  return h("path.land", { d: drawn.d });
}

function positions(clouds) {
  const p = projection(clouds.map((c) => c.place));
  clouds.forEach((c) => Object.assign(c, { x: p.x(c.place.longitude), y: p.y(c.place.latitude) }));
  // Two sites of one city would cover each other.
  for (let round = 0; round < 24; round += 1) {
    for (const a of clouds) for (const b of clouds) {
      if (a === b) continue;
      const [dx, dy] = [b.x - a.x, b.y - a.y];
      const apart = Math.hypot(dx, dy) || 1;
      if (apart >= 64) continue;
      const push = (64 - apart) / 4;
      const [ux, uy] = apart === 1 ? [1, 0] : [dx / apart, dy / apart];
      a.x -= ux * push; a.y -= uy * push; b.x += ux * push; b.y += uy * push;
    }
  }
  for (const c of clouds) Object.assign(c, { x: Math.min(W - 34, Math.max(34, c.x)), y: Math.min(H - 34, Math.max(34, c.y)) });
  return p;
}

function ring(c, r) {
  const around = 2 * Math.PI * r;
  let at = 0;
  return c.ring.map(({ part, kind }) => {
    const arc = h("circle.ring", { class: `${c.hue} ${kind}`, r, "stroke-dasharray": `${Math.max(0, part * around - 1.5)} ${around}`, "stroke-dashoffset": -at, transform: "rotate(-90)" });
    at += part * around;
    return arc;
  });
}

const LABELS = [[0, 1], [0, -1], [1, 0], [-1, 0]];
/** The side where a label disturbs least. */
function labelSide(c, clouds, streams) {
  const cost = LABELS.map(([dx, dy]) => {
    const [x, y] = [c.x + dx * 76, c.y + dy * 46];
    let sum = x < 80 || x > W - 80 || y < 24 || y > H - 24 ? 500 : 0;
    for (const o of clouds) if (o !== c) sum += 3000 / (1 + Math.hypot(o.x - x, o.y - y));
    for (const s of streams) for (const p of s.points) sum += 2 * Math.max(0, 60 - Math.hypot((p.x - x) * 0.7, p.y - y));
    return sum;
  });
  return LABELS[cost.indexOf(Math.min(...cost))];
}

const BENDS = [12, -12, 34, -34, 58, -58, 84, -84];
/** The curve from `a` to `b` that keeps clear of other clouds and of the streams drawn before. */
function curve(a, b, clouds, before) {
  const [mx, my] = [(a.x + b.x) / 2, (a.y + b.y) / 2];
  const away = Math.hypot(b.x - a.x, b.y - a.y) || 1;
  const candidates = BENDS.map((bend) => {
    const [cx, cy] = [mx - ((b.y - a.y) / away) * bend * 2, my + ((b.x - a.x) / away) * bend * 2];
    const at = (t) => ({ x: (1 - t) ** 2 * a.x + 2 * t * (1 - t) * cx + t * t * b.x, y: (1 - t) ** 2 * a.y + 2 * t * (1 - t) * cy + t * t * b.y });
    const points = Array.from({ length: 15 }, (_, i) => at((i + 1) / 16));
    let cost = Math.abs(bend) * 2;
    for (const p of points) {
      for (const c of clouds) if (c !== a && c !== b) cost += Math.max(0, 44 - Math.hypot(c.x - p.x, c.y - p.y)) * 4;
      // Near the cloud where all begin they cannot be apart.
      if (Math.hypot(p.x - a.x, p.y - a.y) < 60 || Math.hypot(p.x - b.x, p.y - b.y) < 60) continue;
      for (const s of before) for (const q of s.points) cost += Math.max(0, 24 - Math.hypot(q.x - p.x, q.y - p.y));
    }
    return { cost, points, at, d: `M${a.x.toFixed(1)} ${a.y.toFixed(1)}Q${cx.toFixed(1)} ${cy.toFixed(1)} ${b.x.toFixed(1)} ${b.y.toFixed(1)}` };
  });
  return candidates.reduce((best, c) => (c.cost < best.cost ? c : best));
}

/** What flows to and from each member now: our requests to lenders, theirs to us. */
function streamsOf(home, others, clouds, leases, shares) {
  const whole = Object.values(shares).reduce((a, b) => a + b, 0);
  const streams = [];
  const near = [...others].sort((a, b) => Math.hypot(a.x - home.x, a.y - home.y) - Math.hypot(b.x - home.x, b.y - home.y));
  for (const o of near) {
    const ready = (side, who) => leases.filter((l) => l.side === side && l[who] === o.name).reduce((sum, l) => sum + l.instances_ready, 0);
    if (ready("rented", "lender")) {
      const share = whole > 0 ? (shares[o.name] ?? 0) / whole : 0;
      streams.push({ ...curve(home, o, clouds, streams), hue: o.hue, width: 3 + 15 * share, text: `${Math.round(share * 100)} %` });
    }
    const lent = ready("lent", "borrower");
    if (lent) streams.push({ ...curve(o, home, clouds, streams), hue: o.hue, width: 3 + Math.min(12, lent * 1.5), text: t("{n} lent", { n: lent }) });
  }
  return streams;
}

export const isPlaced = (cloud) => Boolean(cloud.place);

/** Nothing where no cloud has said where it is. */
export function map(cloud, leases, shares, width) {
  measure(width);
  const own = {
    name: cloud.name, place: cloud.place, own: true,
    ring: ringOf(cloud.capacity.cpu_millis, [[cloud.used_home.cpu_millis, "used"], [cloud.lent.cpu_millis, "lent"]]),
    note: [cloud.place?.city].filter(Boolean),
  };
  const members = cloud.members.filter((m) => m.cloud !== cloud.name).map((m) => ({
    name: m.cloud, place: m.place, trouble: m.trouble, rtt: m.rtt_us, silent: m.heard_ms_ago === null,
    ring: ringOf(m.lends.cpu_millis, [[m.lends.cpu_millis - (m.free?.cpu_millis ?? m.lends.cpu_millis), "lent"]]),
    note: [m.place?.city, m.trouble ? t("trouble") : m.heard_ms_ago === null ? t("not heard") : m.rtt_us === null ? null : f.us(m.rtt_us)].filter(Boolean),
  }));
  const clouds = [own, ...members].filter(isPlaced);
  if (!clouds.length) return null;
  clouds.forEach((c) => { c.hue = hue(c.name); });
  const p = positions(clouds);
  // From a home that is nowhere no line can be drawn.
  const others = own.place ? clouds.filter((c) => c !== own) : [];
  const streams = streamsOf(own, others, clouds, leases, shares);
  const idle = others.filter((o) => !leases.some((l) => l.instances_ready > 0 && (l.lender === o.name || l.borrower === o.name)));
  const links = idle.map((o) => h("line.link", { class: o.trouble || o.silent ? "bad" : null, x1: own.x, y1: own.y, x2: o.x, y2: o.y }));
  const told = clouds.filter((c) => c !== own).map((o) => `${o.name}: ${o.trouble ? t("trouble, {why}", { why: o.trouble }) : o.rtt === null ? t("not heard") : t("{time} away", { time: f.us(o.rtt) })}`).join("; ");
  return h("svg.map", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": t("{cloud} and its pact. {others}", { cloud: cloud.name, others: told }) },
    land(p), graticule(p), links, streams.map(stream), clouds.map((c) => node(c, labelSide(c, clouds, streams))), streams.map((s) => share(s, streams, clouds)));
}

function ringOf(whole, parts) {
  const share = (n) => (whole > 0 ? Math.min(1, Math.max(0, n / whole)) : 0);
  const taken = parts.map(([n, kind]) => ({ part: share(n), kind }));
  const left = Math.max(0, 1 - taken.reduce((sum, one) => sum + one.part, 0));
  return [...taken, { part: left, kind: "free" }].filter((one) => one.part > 0.001);
}

function stream(s) {
  return [h("path.flow", { class: s.hue, d: s.d, "stroke-width": s.width.toFixed(1) }), h("path.stream", { class: s.hue, d: s.d, "stroke-width": Math.max(1.5, s.width / 3).toFixed(1) })];
}

/** Beside its curve, where it sits on nothing that moves and on no cloud. */
function share(s, streams, clouds) {
  const places = [0.5, 0.4, 0.6, 0.3, 0.7].flatMap((along) => [1, -1].map((side) => {
    const [before, after, on] = [s.at(along - 0.02), s.at(along + 0.02), s.at(along)];
    const step = Math.hypot(after.x - before.x, after.y - before.y) || 1;
    const off = side * (s.width / 2 + 18);
    const x = Math.min(W - 32, Math.max(32, on.x - ((after.y - before.y) / step) * off));
    const y = on.y + ((after.x - before.x) / step) * off;
    let cost = Math.abs(along - 0.5) * 20;
    for (const o of streams) for (const p of o.points) cost += Math.max(0, 24 + o.width / 2 - Math.hypot((p.x - x) * 0.8, p.y - y));
    for (const c of clouds) cost += Math.max(0, 60 - Math.hypot(c.x - x, c.y - y));
    return { x, y, cost };
  }));
  const at = places.reduce((best, place) => (place.cost < best.cost ? place : best));
  return h("text.part", { class: s.hue, x: at.x.toFixed(1), y: (at.y + 4).toFixed(1), "text-anchor": "middle" }, s.text);
}

function node(c, [dx, dy]) {
  const r = c.own ? 22 : 16;
  const anchor = dx === 0 ? "middle" : dx > 0 ? "start" : "end";
  const at = dx === 0 ? { x: 0, y: dy > 0 ? r + 22 : -r - 24 } : { x: dx * (r + 12), y: -2 };
  return h("g.node", { class: c.trouble || c.silent ? "bad" : null, transform: `translate(${c.x.toFixed(1)} ${c.y.toFixed(1)})`, "data-key": `node-${c.name}` },
    h("circle.disc", { r: r + 5 }), ring(c, r), h("circle.core", { class: c.hue, r: c.own ? 8 : 5 }),
    h("text.name", { x: at.x, y: at.y, "text-anchor": anchor }, c.name),
    // Where there is little room the names must do: the rest stands in the table below.
    W >= 600 && h("text.city", { x: at.x, y: at.y + 15, "text-anchor": anchor }, c.note.join(" · ")));
}
