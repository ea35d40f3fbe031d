// Units as people read them. Integers from the API, text for the page.

import { locale, t } from "./text.js";

export const ms = (n) =>
  n < 1000 ? `${Math.round(n)} ms`
  : n < 10_000 ? `${(n / 1000).toFixed(1)} s`
  : n < 120_000 ? `${Math.floor(n / 1000)} s`
  : n < 7_200_000 ? `${Math.floor(n / 60_000)} min`
  : n < 172_800_000 ? `${Math.floor(n / 3_600_000)} h`
  : `${Math.floor(n / 86_400_000)} d`;

export const us = (n) => (n < 1000 ? `${n} µs` : n < 100_000 ? `${(n / 1000).toFixed(1)} ms` : ms(n / 1000));

export const age = (from, now) => {
  const past = Math.max(0, now - from);
  return past < 10_000 ? `${Math.floor(past / 1000)} s` : ms(past);
};

export const rate = (mps) => (mps < 100_000 ? (mps / 1000).toFixed(mps === 0 ? 0 : 1) : String(Math.round(mps / 1000)));

export const money = (millionths) => {
  const text = (millionths / 1e6).toFixed(6);
  return text.replace(/(\.\d\d\d*?)0+$/, "$1");
};

/** With the pact's currency; in no pact nothing is priced. */
export const price = (millionths, currency) => (currency ? `${money(millionths)} ${currency}` : money(millionths));

export const bytes = (n) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${n >= 100 || unit === 0 ? n.toFixed(0) : n.toFixed(1)} ${units[unit]}`;
};

export const cpu = (millis) => (millis % 1000 === 0 ? `${millis / 1000}` : (millis / 1000).toFixed(2));
export const room = (r) => (r ? `${cpu(r.cpu_millis)} CPU · ${bytes(r.memory_mib * 1048576)}` : "–");
export const percent = (part, whole) => (whole > 0 ? Math.round((part * 100) / whole) : 0);
export const shortId = (id) => String(id ?? "").replace(/^([a-z]+-)([0-9a-z]{8})[0-9a-z]+$/, "$1$2");
export const words = (name) => String(name ?? "").replace(/[._-]+/g, " ");
export const count = (n) => n.toLocaleString(locale());
export const ago = (n) => t("{time} ago", { time: ms(n) });

const formats = new Map();
function local(wall, options) {
  const key = `${locale()} ${JSON.stringify(options)}`;
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat(locale(), options));
  return formats.get(key).format(new Date(wall));
}
const DAY = { year: "numeric", month: "short", day: "numeric" };
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };

/** By this browser's clock, with the name of its zone. */
export const when = (wall) => local(wall, { ...DAY, ...CLOCK, timeZoneName: "short" });
export const clock = (wall) => local(wall, CLOCK);
export const minute = (wall) => local(wall, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
export const day = (wall) => local(wall, DAY);
export const iso = (wall) => new Date(wall).toISOString();

/** The tag of a variant such as `{"phase": "running"}`, or the text itself. */
export const tag = (value) =>
  value === null || value === undefined ? ""
  : typeof value === "object" ? String(value.state ?? value.phase ?? value.kind ?? Object.keys(value)[0] ?? "")
  : String(value);
