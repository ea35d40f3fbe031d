// What the instances of a service write, here and where they are rented, as they write it.

import { getText } from "./api.js";
import { h } from "./dom.js";
import * as f from "./format.js";
import { lines, logList } from "./logs.js";
import { empty, head, said } from "./parts.js";
import { state } from "./state.js";
import { t } from "./text.js";

const SHOWN = 500;
const KEPT = 5000;
const BACK_MS = 600_000;
/** So much of the end is asked for again: lenders' lines come later. */
const AGAIN_MS = 5_000;

const view = { of: "", lines: [], follows: true, instance: "" };

const chosen = (name) => (state.services.some((s) => s.service.metadata.name === name) ? name : state.services[0]?.service.metadata.name ?? "");

/** What came since the newest line, in place of that end; all of the last minutes at first. */
async function read(name) {
  if (view.of !== name) Object.assign(view, { of: name, lines: [], instance: "" });
  if (!name || (!view.follows && view.lines.length)) return view;
  const newest = view.lines.at(-1)?.at ?? 0;
  const since = newest ? newest - AGAIN_MS : Date.now() - BACK_MS;
  const fresh = lines(await getText(`/v1/services/${encodeURIComponent(name)}/logs?since_ms=${since}`));
  if (view.of === name) view.lines = [...view.lines.filter((l) => l.at < since), ...(newest ? fresh.filter((l) => l.at >= since) : fresh)].slice(-KEPT);
  return view;
}

export const needs = (name) => ({ log: () => read(chosen(name)) });

export function choose({ instance, follows }) {
  if (instance !== undefined) view.instance = instance;
  if (follows !== undefined) view.follows = follows;
}

export function logs(rest) {
  const name = chosen(rest);
  if (!name) return [head(t("Logs")), empty(t("No services yet"), t("The log of a service is read here as it is written."))];
  const own = view.of === name ? view.lines : [];
  const instances = [...new Map(own.map((l) => [l.instance, l.cloud]))].filter(([instance]) => instance);
  const found = own.filter((l) => !view.instance || l.instance === view.instance);
  return [
    head(t("Logs"), found.length > SHOWN ? t("the last {n} of {all} lines", { n: SHOWN, all: found.length }) : t("{n} lines of the last 10 minutes and since", { n: found.length })),
    h("section.sheet", { "aria-label": t("Which lines") }, h("div.asks", {},
      h("label", {}, h("span", {}, t("Service")), h("select", { "data-act": "log-service" }, state.services.map(({ service }) => {
        const one = service.metadata.name;
        return h("option", { value: one, selected: one === name, lang: "en" }, one);
      }))),
      h("label", {}, h("span", {}, t("Instance")), h("select", { "data-act": "log-instance" }, h("option", { value: "", selected: !view.instance }, t("all")),
        instances.map(([instance, cloud]) => h("option", { value: instance, selected: instance === view.instance, lang: "en" }, `${f.shortId(instance)} ${cloud}`)))),
      h("label.tick", {}, h("input", { type: "checkbox", "data-act": "log-follow", checked: view.follows }), h("span", {}, t("Follow"))))),
    h("section.sheet.bare", { "aria-label": t("Lines") }, found.length ? logList(found.slice(-SHOWN), t("Log of {name}", { name })) : h("p.faint", {}, t("No line of {name} in this time.", { name }), " ", said(`pumasi logs ${name}`))),
  ];
}

/** The newest line is in sight, where whoever reads did not scroll away from it. */
export function keepEnd() {
  const list = document.querySelector(".log");
  const atEnd = !list || list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  return () => {
    const now = document.querySelector(".log");
    if (now && view.follows && atEnd) now.scrollTop = now.scrollHeight;
  };
}
