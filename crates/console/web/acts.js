// Everything that a person can do here. Each act says what it did, what it did not do, or that this is not known.

import { post, Refused, send } from "./api.js";
import { h } from "./dom.js";
import * as bill from "./page-bill.js";
import * as deploy from "./page-deploy.js";
import * as logs from "./page-logs.js";
import * as pact from "./page-pact.js";
import * as tokens from "./page-tokens.js";
import { redraw, state, touch } from "./state.js";
import { t, word } from "./text.js";

const dialog = document.getElementById("ask");

/** What was said last, until it is dismissed: { tone, text, at }. */
export const said = { now: null };
export function say(tone, text) {
  said.now = { tone, text, at: Date.now() };
  redraw();
}
export function hush() {
  said.now = null;
}

function refusal(error) {
  if (error.problem.status === 403 && state.me) return t("the token “{name}” ({role}) may not do that", { name: state.me.name, role: word(state.me.role) });
  return error.message;
}

/** `texts`: what is said when it was done, when it was not, and when nobody knows. */
async function act(texts, call, lists) {
  try {
    await call();
    hush();
    say("good", texts.done);
  } catch (error) {
    if (!(error instanceof Refused)) say("bad", `${texts.unknown} ${t("The daemon did not answer; look before you try again.")}`);
    else say("bad", `${texts.not} ${refusal(error)}.${error.problem.retry ? ` ${t("Trying again may help.")}` : ""}`);
  }
  await touch(...lists);
}

/** Asks once more, and for a reason. Nothing happens unless the button is pressed. */
function confirm({ title, text, verb, danger, needed, silent }) {
  return new Promise((done) => {
    // Made anew each time: what was written for one question must not answer the next.
    dialog.replaceChildren(h("form", { method: "dialog" },
      h("h2", { id: "ask-title" }, title), h("p", {}, text),
      !silent && [h("label", { for: "why" }, needed ? t("Reason") : t("Reason (for the journal)")), h("input", { id: "why", autocomplete: "off", maxlength: 500, required: needed })],
      h("div.decide", {}, h("button", { type: "submit", value: "no", formnovalidate: true }, t("Cancel")), h("button", { type: "submit", value: "yes", class: danger ? "danger" : "primary" }, verb))));
    dialog.returnValue = "";
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes" ? document.getElementById("why")?.value ?? "" : null), { once: true });
    dialog.showModal();
    const why = document.getElementById("why");
    if (!why) return dialog.querySelector("button[value=no]").focus();
    // Enter in the field confirms; without this the first button, which cancels, would be taken.
    why.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      dialog.querySelector("button[value=yes]").click();
    });
    why.focus();
  });
}

async function asked(question, texts, call, lists) {
  const why = await confirm(question);
  if (why !== null) await act(texts, () => call(why), lists);
}

export const ACTS = {
  stop: () => asked(
    { title: t("Stop automation"), text: t("This cloud will neither borrow, lend, approve nor shrink anything by itself. Instances and leases that run go on and are renewed."), verb: t("Stop automation"), danger: true },
    { done: t("Automation is stopped."), not: t("Automation was not stopped."), unknown: t("It is not known whether automation was stopped.") },
    (why) => post("/v1/automation", { stopped: true, why }), ["cloud"]),
  resume: () => asked(
    { title: t("Resume automation"), text: t("This cloud will act by itself again, within the ceilings of each service."), verb: t("Resume automation") },
    { done: t("Automation goes on."), not: t("Automation was not resumed."), unknown: t("It is not known whether automation was resumed.") },
    (why) => post("/v1/automation", { stopped: false, why }), ["cloud"]),
  approve: ({ id }) => act(
    { done: t("The plan was approved."), not: t("The plan was not approved."), unknown: t("It is not known whether the plan was approved.") },
    () => post(`/v1/plans/${id}/approve`, { why: "" }), ["plans", "journeys"]),
  refuse: ({ id, name }) => asked(
    { title: t("Refuse the plan"), text: t("{name} will have to do with what it has.", { name }), verb: t("Refuse"), danger: true },
    { done: t("The plan was refused."), not: t("The plan was not refused."), unknown: t("It is not known whether the plan was refused.") },
    (why) => post(`/v1/plans/${id}/refuse`, { why }), ["plans", "journeys"]),
  recall: ({ id, name }) => asked(
    { title: t("Recall the lease"), text: t("{name} must be gone when the notice that was agreed is over.", { name }), verb: t("Recall"), danger: true, needed: true },
    { done: t("The lease was recalled."), not: t("The lease was not recalled."), unknown: t("It is not known whether the lease was recalled.") },
    (why) => post(`/v1/leases/${id}/recall`, { why }), ["leases"]),
  cancel: ({ id, name }) => asked(
    { title: t("Give all back"), text: t("What {name} rents in this journey is drained and given back, in order. No request is lost.", { name }), verb: t("Give all back"), danger: true },
    { done: t("The journey is being ended."), not: t("Giving everything back was not done."), unknown: t("It is not known whether everything is given back.") },
    (why) => post(`/v1/journeys/${id}/cancel`, { why }), ["journeys", "leases"]),
  undo: ({ name, to }) => asked(
    { title: t("Run generation {n} again", { n: to }), text: t("{name} runs what it ran then; its data stay as they are.", { name }), verb: t("Run it") },
    { done: t("{name} goes back to generation {n}.", { name, n: to }), not: t("{name} was not changed.", { name }), unknown: t("It is not known whether {name} was changed.", { name }) },
    (why) => post(`/v1/services/${name}/undo`, { to: Number(to), why }), ["services", "instances", "generations"]),
  restart: ({ name }) => asked(
    { title: t("Exchange every instance"), text: t("Each instance of {name} is followed by a new one, one by one; users notice nothing.", { name }), verb: t("Exchange them") },
    { done: t("Every instance of {name} is exchanged.", { name }), not: t("{name} was not changed.", { name }), unknown: t("It is not known whether {name} was changed.", { name }) },
    (why) => post(`/v1/services/${name}/restart`, { why }), ["services", "instances", "generations"]),
  "proposal-approve": ({ id, name }) => asked(
    { title: t("Agree: {what}", { what: name }), text: t("With the word of all operators the pact is changed."), verb: t("Agree") },
    { done: t("This cloud agrees."), not: t("This cloud did not agree."), unknown: t("It is not known whether this cloud agreed.") },
    (why) => post(`/v1/pact/proposals/${id}/approve`, { why }), ["pact"]),
  "proposal-refuse": ({ id, name }) => asked(
    { title: t("Refuse: {what}", { what: name }), text: t("One refusal is enough: the pact stays as it is."), verb: t("Refuse"), danger: true },
    { done: t("This cloud refuses."), not: t("This cloud did not refuse."), unknown: t("It is not known whether this cloud refused.") },
    (why) => post(`/v1/pact/proposals/${id}/refuse`, { why }), ["pact"]),
  "settle-accept": ({ id, name }) => asked(
    { title: t("Settle by the lesser reading"), text: t("{name} is settled although the readings differ.", { name }), verb: t("Settle") },
    { done: t("The lease is settled."), not: t("The lease was not settled."), unknown: t("It is not known whether the lease was settled.") },
    (why) => post(`/v1/settlements/${id}/accept`, { why }), ["bill", "settlements"]),
  "settle-dispute": ({ id, name }) => asked(
    { title: t("Dispute the settlement"), text: t("{name} stays open until both sides agree.", { name }), verb: t("Dispute"), danger: true, needed: true },
    { done: t("The settlement is disputed."), not: t("The settlement was not disputed."), unknown: t("It is not known whether the settlement was disputed.") },
    (why) => post(`/v1/settlements/${id}/dispute`, { why }), ["settlements"]),
  "token-revoke": ({ id, name }) => asked(
    { title: t("Revoke the token of “{name}”", { name }), text: t("Whoever uses it is refused from now on."), verb: t("Revoke"), danger: true, silent: true },
    { done: t("The token was revoked."), not: t("The token was not revoked."), unknown: t("It is not known whether the token was revoked.") },
    () => send("DELETE", `/v1/tokens/${id}`), ["tokens"]),
  "token-forget": () => {
    tokens.forget();
    redraw();
  },
  rehearse: ({ cloud }) => act(
    { done: t("The loss of {cloud} was rehearsed.", { cloud }), not: t("The loss of {cloud} was not rehearsed.", { cloud }), unknown: t("The loss of {cloud} was not rehearsed.", { cloud }) },
    () => pact.rehearse(cloud), []),
  crowd: () => act(
    { done: t("A crowd is on its way: look at the services."), not: t("No crowd was sent."), unknown: t("It is not known whether a crowd was sent.") },
    () => post("/lab/crowd", {}), []),
  "deploy-check": () => deploy.check(),
  "deploy-apply": () => deploy.apply(),
  hush() {
    hush();
    redraw();
  },
};

/** Forms that are sent. */
export const FORMS = {
  "token-make": (form) => act(
    { done: t("The token was made."), not: t("No token was made."), unknown: t("It is not known whether a token was made.") },
    () => tokens.make(form), ["tokens"]),
};

/** Fields that are changed. */
export const FIELDS = {
  "manifest-file": (input) => deploy.chooseFile(input.files[0]),
  "log-service": (input) => { location.hash = `#/logs/${input.value}`; },
  "log-instance": (input) => {
    logs.choose({ instance: input.value });
    redraw();
  },
  "log-follow": (input) => logs.choose({ follows: input.checked }),
  "bill-month": (input) => {
    bill.choose(input.value);
    return touch("bill");
  },
};
