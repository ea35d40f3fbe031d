// A manifest on its way: read, checked, compared with what runs, applied, followed until its first instance is ready.
// A browser cannot send a directory: a bundle that is one is the one that runs already, or a fault.

import { get, post, Refused, send } from "./api.js";
import { h } from "./dom.js";
import * as f from "./format.js";
import { button, chip, command, empty, head, said, table } from "./parts.js";
import { redraw, state, touch } from "./state.js";
import { t } from "./text.js";

const FILE_BYTES_MAX = 1 << 20;
const DIGEST = /^blake3:[0-9a-f]{64}$/;

const fresh = () => ({ faults: [], more: false, found: [], problem: "", busy: "", followed: [] });
let view = fresh();
/** The text of a service that is to be changed, by its name. */
const begun = { of: "", text: "" };

/** Whoever opens the page again begins from what runs then. */
export function needs(name) {
  begun.of = "";
  view = fresh();
  return name ? manifestOf(name) : {};
}

const manifestOf = (name) => ({
  manifest: async () => {
    if (begun.of !== name) {
      const { service } = await get(`/v1/services/${encodeURIComponent(name)}`);
      const { name: own, labels } = service.metadata;
      Object.assign(begun, { of: name, text: JSON.stringify({ ...service, metadata: labels ? { name: own, labels } : { name: own } }, null, 2) });
    }
    return begun;
  },
});

const textarea = () => document.getElementById("manifest");

export async function chooseFile(file) {
  if (!file) return;
  if (file.size > FILE_BYTES_MAX) view = { ...fresh(), problem: t("{file} is larger than 1 MiB, the most that is read", { file: file.name }) };
  else {
    textarea().value = await file.text();
    view = fresh();
  }
  redraw();
}

/** What was found holds for the text that was read, and for no other. */
export function edited() {
  if (view.busy || (!view.found.length && !view.faults.length && !view.problem)) return;
  view = fresh();
  redraw();
}

/** Each field by its path. */
function flat(value, path = "", out = new Map()) {
  if (value !== null && typeof value === "object" && Object.keys(value).length > 0) {
    for (const [key, inner] of Object.entries(value)) flat(inner, Array.isArray(value) ? `${path}[${key}]` : path ? `${path}.${key}` : key, out);
  } else out.set(path, typeof value === "string" ? value : JSON.stringify(value));
  return out;
}

function difference(old, wanted) {
  const [before, after] = [flat(old), flat(wanted)];
  const paths = [...new Set([...before.keys(), ...after.keys()])].filter((p) => before.get(p) !== after.get(p)).sort();
  return paths.map((path) => ({ path, before: before.get(path), after: after.get(path) }));
}

const faultsOf = (error) => (error.problem?.fields?.length ? error.problem.fields : [{ field: "", problem: error.message }]);

/** One service of the manifest, as the daemon would take it. */
async function examine(service) {
  const name = service.metadata.name;
  const runs = state.services.some((s) => s.service.metadata.name === name) ? await get(`/v1/services/${encodeURIComponent(name)}`) : null;
  const application = service.spec.application;
  const one = { name, service, runs, kept: "", faults: [], lending: null, changes: [] };
  if (!DIGEST.test(application.bundle)) {
    if (!runs) return { ...one, faults: [{ field: "spec.application.bundle", problem: t("a browser cannot send the directory “{dir}”; send it with: pumasi apply -f FILE", { dir: application.bundle }) }] };
    one.kept = application.bundle;
    application.bundle = runs.service.spec.application.bundle;
  }
  if (runs) one.changes = difference({ labels: runs.service.metadata.labels, spec: runs.service.spec }, { labels: service.metadata.labels, spec: service.spec });
  try {
    one.lending = await post(`/v1/services/${encodeURIComponent(name)}/check`, { service, bundle_bytes: 0, bundle_files: 0 });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    one.faults = faultsOf(error);
  }
  return one;
}

async function working(busy, work) {
  view = { ...view, busy, problem: "" };
  redraw();
  try {
    await work();
  } catch (error) {
    view.problem = error instanceof Refused ? error.message : t("The daemon did not answer; look before you try again.");
    view.faults = error.problem?.fields?.map((x) => ({ line: 0, ...x })) ?? [];
  }
  view.busy = "";
  redraw();
}

export function check() {
  const text = textarea().value;
  return working(t("Checking…"), async () => {
    view = { ...fresh(), busy: view.busy };
    if (!text.trim()) {
      view.problem = t("There is nothing to check: paste a manifest or choose a file");
      return;
    }
    const read = await post("/v1/manifests/read", { text });
    [view.faults, view.more] = [read.faults, read.more];
    view.found = await Promise.all(read.services.map(examine));
  });
}

export function apply() {
  const sent = view.found.map(({ service, runs }) => ({ ...service, metadata: { ...service.metadata, ...(runs ? { revision: runs.service.metadata.revision } : {}) } }));
  const before = new Map(view.found.map((one) => [one.name, one.runs?.status.generation ?? 0]));
  return working(t("Applying…"), async () => {
    const began = Date.now();
    const done = sent.length === 1
      ? [await send("PUT", `/v1/services/${encodeURIComponent(sent[0].metadata.name)}`, sent[0])]
      : (await send("PUT", "/v1/services", { services: sent })).items;
    view = { ...fresh(), followed: done.map((v) => ({ name: v.service.metadata.name, generation: v.status.generation, same: before.get(v.service.metadata.name) === v.status.generation, began, firstMs: null, doneMs: null })) };
    await touch("services", "instances");
  });
}

function fault(x, i) {
  return { key: `f${i}`, cells: [x.line > 0 ? `${x.line}:${x.column}` : "–", x.field ? h("code", {}, x.field) : "–", said(x.problem)] };
}

const faultTable = (faults) => table(t("Faults"), [`>${t("Line")}`, t("Field"), t("What is wrong")], faults.map(fault));

function shown(value) {
  return value === undefined ? h("span.faint", {}, t("not there")) : h("code.value", {}, value);
}

function found(one) {
  const word = one.faults.length ? t("cannot be applied") : !one.runs ? t("will be created") : one.changes.length ? t("will be changed") : t("stays as it is");
  return h("section.sheet", { "data-key": `found-${one.name}`, "aria-label": t("Service {name}", { name: one.name }) },
    h("div.sub", {}, h("h2", {}, said(one.name)), h("p", { class: one.faults.length ? "bad" : null }, word)),
    one.faults.length > 0 && faultTable(one.faults),
    one.kept && h("p.judged", {}, h("span", {}, t("Bundle")), t("“{dir}” is a directory that a browser cannot send: the bundle that runs stays. A new one is sent by", { dir: one.kept }), " ", command("pumasi apply")),
    one.lending?.state === "no" && h("p.judged", {}, h("span", {}, t("Lendable")), said(one.lending.why.join("; "))),
    one.changes.length > 0 && table(t("What changes"), [t("Field"), t("Runs now"), t("Would run")], one.changes.map((c) => ({ key: c.path, cells: [h("code", {}, c.path), shown(c.before), shown(c.after)] }))));
}

function follow(one) {
  const status = state.services.find((s) => s.service.metadata.name === one.name)?.status;
  const r = status?.rollout;
  if (r && r.generation >= one.generation) {
    if (r.ready > 0) one.firstMs ??= Date.now() - one.began;
    if (r.state === "done") one.doneMs ??= Date.now() - one.began;
  }
  const told = one.same ? t("Nothing that runs was changed.")
    : one.firstMs !== null ? [t("The first instance of generation {n} is ready, after {time}.", { n: one.generation, time: f.ms(one.firstMs) }),
      one.doneMs !== null && ` ${t("All instances of generation {n} are ready, after {time}.", { n: one.generation, time: f.ms(one.doneMs) })}`]
    : r?.state === "failing" ? t("Generation {n} does not get ready; it is tried again.", { n: one.generation })
    : t("Waiting for the first instance of generation {n}…", { n: one.generation });
  return h("section.sheet", { "data-key": `follow-${one.name}`, "aria-label": t("Rollout of {name}", { name: one.name }), "aria-live": "polite" },
    h("div.sub", {}, h("h2", {}, h("a", { lang: "en", href: `#/services/${one.name}` }, one.name)), r && !one.same && chip(r.state), h("p", {}, told)),
    r?.why && h("p.judged", {}, h("span", {}, t("Why")), said(r.why)));
}

function results() {
  if (view.busy) return h("p.faint", { role: "status" }, view.busy);
  const clean = view.found.length > 0 && view.found.every((one) => !one.faults.length);
  const changes = view.found.some((one) => !one.runs || one.changes.length);
  return [
    view.problem && h("p.bad", { role: "alert" }, said(view.problem)),
    view.faults.length > 0 && h("section.sheet", { "aria-label": t("Faults") }, h("p.bad", { role: "status" }, view.faults.length === 1 ? t("1 fault. Nothing was changed.") : t("{n} faults. Nothing was changed.", { n: view.faults.length })),
      faultTable(view.faults), view.more && h("p.faint", {}, t("There are more; mend these first."))),
    clean && h("div.verdict", {}, h("p.good", { role: "status" }, changes ? t("No fault was found.") : t("No fault was found, and nothing would change.")), changes && button("deploy-apply", t("Apply"), {}, "primary")),
    view.found.map(found),
    view.followed.map(follow),
  ];
}

export function deploy(name) {
  const ready = !name || begun.of === name;
  if (!ready) return [head(t("Deploy")), empty(t("Asking the daemon…"), t("The manifest of {name} is on its way.", { name }))];
  return [
    head(t("Deploy"), t("A manifest is checked, compared with what runs, and applied")),
    h("section.sheet.deploy", { "aria-label": t("Manifest") },
      h("label", { for: "manifest" }, t("Manifest (YAML or JSON, one service or more)")),
      h("textarea", { id: "manifest", "data-key": `manifest-${name ?? ""}`, rows: 16, spellcheck: "false", autocomplete: "off", "data-act": "manifest" }, name ? begun.text : ""),
      h("div.decide", {},
        button("deploy-check", t("Check"), {}, "primary"),
        h("label.file", {}, h("span", {}, t("Choose a file…")), h("input", { type: "file", accept: ".yaml,.yml,.json", "data-act": "manifest-file" })))),
    h("div.stack", { "data-key": "results" }, results()),
  ];
}
