// The text of a log as lines: instance, time, words.

import { h } from "./dom.js";
import * as f from "./format.js";
import { time } from "./parts.js";

const STAMP = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) /;

/** Lines of all instances by their time. A line without one has that of the line above it, for it goes on with it. */
export function lines(text) {
  const out = [];
  let [instance, cloud, at] = ["", "", 0];
  for (const line of text.split("\n")) {
    if (line.startsWith("== ")) {
      [, instance, cloud] = /^== (\S+)(?: at (\S+))?/.exec(line) ?? ["", line.slice(3), ""];
      at = 0;
      continue;
    }
    if (!line) continue;
    const stamp = STAMP.exec(line);
    if (stamp) at = Date.parse(stamp[1]);
    out.push({ instance, cloud: cloud ?? "", at, text: stamp ? line.slice(stamp[0].length) : line });
  }
  // Stable: lines of one instant keep their order.
  return out.sort((a, b) => a.at - b.at);
}

export function logList(all, label) {
  return h("div.log", { role: "log", tabindex: 0, "aria-label": label, "aria-live": "off" }, all.map((l) =>
    h("p", {}, l.at > 0 ? time(l.at, f.clock) : h("time", {}, ""), h("span.from", { title: `${l.instance} ${l.cloud}`, lang: "en" }, [l.cloud, f.shortId(l.instance)].filter(Boolean).join(" ")), h("code", { lang: "en" }, l.text))));
}
