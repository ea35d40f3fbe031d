// Tokens: who may ask this cloud, as whom; a secret is told once.

import { post } from "./api.js";
import { h } from "./dom.js";
import { button, empty, head, id, said, table, time } from "./parts.js";
import { SOURCES, state } from "./state.js";
import { t, word } from "./text.js";

const DAY_MS = 86_400_000;

export const needs = () => ({ tokens: SOURCES.tokens, customers: SOURCES.customers });

/** What was made last, until the page is left. */
let made = null;
export const forget = () => { made = null; };

export async function make(form) {
  const { name, role, customer, days } = Object.fromEntries(new FormData(form));
  const wish = { name: name.trim(), role, ttl_ms: Number(days) * DAY_MS, ...(role === "operator" ? {} : { customer }) };
  made = await post("/v1/tokens", wish);
  form.reset();
}

function maker() {
  const customers = [...new Set(["default", ...state.customers.map((c) => c.name)])];
  const field = (label, input) => h("label", {}, h("span", {}, label), input);
  return h("form.sheet", { "data-act": "token-make", "aria-label": t("A new token") }, h("h2", {}, t("A new token")), h("div.asks", {},
    field(t("Whose"), h("input", { name: "name", required: true, autocomplete: "off", pattern: "[a-z0-9]([a-z0-9\\-]{0,61}[a-z0-9])?", title: t("lower-case letters, digits, hyphens") })),
    field(t("Role"), h("select", { name: "role" }, ["viewer", "customer", "operator"].map((r) => h("option", { value: r }, word(r))))),
    field(t("For customer"), h("select", { name: "customer" }, customers.map((c) => h("option", { value: c, lang: "en" }, c)))),
    field(t("Good for"), h("select", { name: "days" }, [[0, t("ever")], [1, t("1 day")], [7, t("7 days")], [30, t("30 days")], [365, t("1 year")]].map(([days, text]) => h("option", { value: days }, text)))),
    h("button.primary", { type: "submit" }, t("Make it"))),
    h("p.faint", {}, t("An operator acts for the whole cloud: the customer counts for the other roles only.")));
}

export function tokens() {
  const rows = [...state.tokens].sort((a, b) => b.created_at - a.created_at).map((k) => ({
    key: k.id,
    cells: [said(k.name), word(k.role), k.customer ? said(k.customer) : "–", id(k.id), time(k.created_at), k.expires_at ? time(k.expires_at) : t("never"), button("token-revoke", t("Revoke…"), { id: k.id, name: k.name }, "quiet")],
  }));
  return [
    head(t("Tokens"), t("Who may ask this cloud, and as whom")),
    made && h("section.sheet.plan", { "data-key": "secret", "aria-label": t("The new secret"), role: "status" }, h("h2", {}, t("The secret of “{name}” is told only now", { name: made.name })),
      h("p", {}, h("code.secret", {}, made.secret)), h("div.decide", {}, button("token-forget", t("I have it"), {}, "primary"))),
    maker(),
    rows.length ? h("section.sheet.bare", { "aria-label": t("All tokens") }, table(t("Tokens"), [t("Whose"), t("Role"), t("Customer"), t("Token"), t("Made"), t("Ends"), t("Act")], rows)) : empty(t("No tokens"), t("People on this machine need none: the socket tells who they are.")),
  ];
}
