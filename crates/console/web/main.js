// The frame: sign-in, navigation, the state of the connection, and every act behind a button.

import { Refused, dropToken, keepToken, post, takeToken } from "./api.js";
import { fill, h, morph } from "./dom.js";
import * as f from "./format.js";
import { clouds } from "./page-clouds.js";
import { continuity } from "./page-continuity.js";
import { filterBy, journal } from "./page-journal.js";
import { journeys } from "./page-journeys.js";
import { leases } from "./page-leases.js";
import { plans, waiting } from "./page-plans.js";
import { services } from "./page-services.js";
import { probe, retry, start, state, stop, touch } from "./state.js";

const PAGES = { clouds: ["Clouds", clouds], services: ["Services", services], journeys: ["Journeys", journeys], plans: ["Plans", plans], leases: ["Leases", leases], continuity: ["Continuity", continuity], journal: ["Journal", journal] };
const [bar, notices, main, dialog] = ["bar", "notices", "main", "ask"].map((id) => document.getElementById(id));
/** Without news for so long the figures are called old. */
const STALE_MS = 3500;

let signedIn = false;
let said = null;

const route = () => {
  const [, page, rest] = location.hash.split("/");
  return PAGES[page] ? { page, rest } : { page: "clouds" };
};

function mark() {
  return h("svg.mark", { viewBox: "0 0 32 32", "aria-hidden": "true" }, h("path.one", { d: "M17.6 10.3A8 8 0 1 0 17.6 21.7" }), h("path.two", { d: "M14.4 21.7A8 8 0 1 0 14.4 10.3" }));
}

function connection() {
  const { live, heardAt, retryAt } = state.link;
  const old = Date.now() - heardAt > STALE_MS;
  if (live && !old) return h("span.link.live", { title: "Changes arrive as they happen" }, h("i"), "live");
  if (!state.loaded && !retryAt) return h("span.link", {}, h("i"), "connecting");
  return h("span.link.lost", {}, h("i"), "no answer");
}

function renderBar() {
  const { page } = route();
  const stopped = state.cloud?.automation.stopped;
  const open = waiting().length;
  const tabs = Object.entries(PAGES).map(([key, [title]], i) =>
    h("a", { href: `#/${key}`, "aria-current": key === page ? "page" : null, "aria-keyshortcuts": String(i + 1) }, title,
      key === "plans" && open > 0 && h("span.badge", { "aria-label": `${open} waiting` }, open)));
  fill(bar, signedIn ? [
    h("a.brand", { href: "#/clouds", "aria-label": "Pumasi" }, mark(), h("b", {}, state.cloud?.name ?? "Pumasi")),
    h("nav", { "aria-label": "Pages" }, tabs),
    h("div.right", {}, connection(),
      stopped ? h("button.resume", { type: "button", "data-act": "resume" }, "Resume automation…") : h("button.stop", { type: "button", "data-act": "stop" }, "Stop automation…"),
      h("button.quiet", { type: "button", "data-act": "leave" }, "Sign out")),
  ] : [h("span.brand", {}, mark(), h("b", {}, "Pumasi"))]);
  document.title = signedIn ? `${PAGES[page][0]} · ${state.cloud?.name ?? "Pumasi"}` : "Pumasi";
}

function renderNotices() {
  const { live, heardAt, retryAt, trouble } = state.link;
  const lost = signedIn && !live && retryAt > 0;
  const wait = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
  fill(notices, [
    lost && h("div.notice.bad", { role: "alert", "data-key": "lost" }, h("p", {}, h("b", {}, "The daemon does not answer. "), heardAt ? `What you see is ${f.ms(Date.now() - heardAt)} old. ` : "", `Trying again ${wait > 0 ? `in ${wait} s` : "now"}.`), h("button", { type: "button", "data-act": "retry" }, "Try now")),
    signedIn && trouble && h("div.notice.bad", { "data-key": "trouble" }, h("p", {}, h("b", {}, "The daemon refused: "), trouble)),
    signedIn && state.cloud?.automation.stopped && h("div.notice.busy", { "data-key": "stopped" }, h("p", {}, h("b", {}, "Automation is stopped. "), state.cloud.automation.why || "No reason was given.", " What runs goes on; nothing new begins by itself.")),
    signedIn && state.cloud && state.cloud.standing !== "current" && h("div.notice.bad", { "data-key": "standing" }, h("p", {}, h("b", {}, "The store may be old. "), `${state.cloud.standing}. It acts on no other cloud before it is accepted: pumasi accept-restored`)),
    said && h("div.notice", { class: said.tone, "data-key": `said-${said.at}`, role: said.tone === "bad" ? "alert" : "status" }, h("p", {}, said.text), h("button.quiet", { type: "button", "data-act": "hush" }, "Dismiss")),
  ].filter(Boolean));
}

function render() {
  renderBar();
  renderNotices();
  if (!signedIn) return;
  if (!state.loaded || !state.cloud) return fill(main, [h("div.empty", {}, h("strong", {}, "Asking the daemon…"), h("p", {}, "The first answers are on their way."))]);
  const { page, rest } = route();
  const wanted = h("div", {}, PAGES[page][1](rest));
  wanted.setAttribute("data-key", page);
  wanted.setAttribute("class", "page");
  const old = main.firstElementChild;
  if (old?.getAttribute("data-key") === page) morph(old, wanted);
  else fill(main, [wanted]);
}

function signIn(message) {
  signedIn = false;
  stop();
  dropToken();
  renderBar();
  renderNotices();
  fill(main, [h("form.signin.sheet", { "data-key": "signin", "data-act": "signin" },
    h("h1", {}, "Sign in"),
    h("p", {}, "Paste a token of this cloud. It stays in this tab and is sent to this daemon only."),
    h("label", { for: "token" }, "Token"),
    h("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": message ? "signin-why" : null }),
    message && h("p.bad", { id: "signin-why", role: "alert" }, message),
    h("button.primary", { type: "submit" }, "Sign in"),
    h("p.faint", {}, "On the machine of the daemon, “pumasi console” prints an address that signs in by itself."))]);
  document.getElementById("token").focus();
}

async function enter() {
  try {
    await probe();
  } catch (error) {
    if (error instanceof Refused && [401, 403].includes(error.problem.status)) return signIn(error.message);
    // Not there yet: the page says so and tries again.
  }
  signedIn = true;
  render();
  start(({ signIn: refused }) => (refused ? signIn(refused) : render()));
}

function say(tone, text) {
  said = { tone, text, at: Date.now() };
  render();
}

async function act(what, path, body, lists) {
  try {
    await post(path, body);
    said = null;
    say("good", what);
  } catch (error) {
    const retryable = error instanceof Refused ? (error.problem.retry ? " Trying again may help." : "") : " The daemon did not answer; look before you try again.";
    say("bad", `${what.replace(/\.$/, "")}: not done. ${error.message}.${retryable}`);
  }
  await touch(...lists);
}

/** Asks once more, and for a reason. Nothing happens unless the button is pressed. */
function confirm({ title, text, verb, danger, needed }) {
  return new Promise((done) => {
    // Made anew each time: what was written for one question must not answer the next.
    dialog.replaceChildren(h("form", { method: "dialog" },
      h("h2", { id: "ask-title" }, title), h("p", {}, text),
      h("label", { for: "why" }, needed ? "Reason" : "Reason (for the journal)"), h("input", { id: "why", autocomplete: "off", maxlength: 500, required: needed }),
      h("div.decide", {}, h("button", { type: "submit", value: "no", formnovalidate: true }, "Cancel"), h("button", { type: "submit", value: "yes", class: danger ? "danger" : "primary" }, verb))));
    dialog.returnValue = "";
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes" ? document.getElementById("why").value : null), { once: true });
    dialog.showModal();
    const why = document.getElementById("why");
    // Enter in the field confirms; without this the first button, which cancels, would be taken.
    why.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      dialog.querySelector("button[value=yes]").click();
    });
    why.focus();
  });
}

const ACTS = {
  async stop() {
    const why = await confirm({ title: "Stop automation", text: "This cloud will neither borrow, lend, approve nor shrink anything by itself. Instances and leases that run go on and are renewed.", verb: "Stop automation", danger: true });
    if (why !== null) await act("Automation is stopped.", "/v1/automation", { stopped: true, why }, ["cloud"]);
  },
  async resume() {
    const why = await confirm({ title: "Resume automation", text: "This cloud will act by itself again, within the ceilings of each service.", verb: "Resume automation" });
    if (why !== null) await act("Automation goes on.", "/v1/automation", { stopped: false, why }, ["cloud"]);
  },
  approve: ({ id }) => act("The plan was approved.", `/v1/plans/${id}/approve`, { why: "" }, ["plans", "journeys"]),
  async refuse({ id, name }) {
    const why = await confirm({ title: "Refuse the plan", text: `${name} will have to do with what it has.`, verb: "Refuse", danger: true });
    if (why !== null) await act("The plan was refused.", `/v1/plans/${id}/refuse`, { why }, ["plans", "journeys"]);
  },
  async recall({ id, name }) {
    const why = await confirm({ title: "Recall the lease", text: `${name} must be gone when the notice that was agreed is over.`, verb: "Recall", danger: true, needed: true });
    if (why !== null) await act("The lease was recalled.", `/v1/leases/${id}/recall`, { why }, ["leases"]);
  },
  async cancel({ id, name }) {
    const why = await confirm({ title: "Give all back", text: `What ${name} rents in this journey is drained and given back, in order. No request is lost.`, verb: "Give all back", danger: true });
    if (why !== null) await act("The journey is being ended.", `/v1/journeys/${id}/cancel`, { why }, ["journeys", "leases"]);
  },
  retry: () => retry(),
  hush() {
    said = null;
    render();
  },
  leave: () => signIn(),
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  if (button) ACTS[button.dataset.act]?.(button.dataset);
});
document.addEventListener("submit", (event) => {
  if (event.target.dataset.act !== "signin") return;
  event.preventDefault();
  keepToken(document.getElementById("token").value.trim());
  fill(main, []);
  enter();
});
document.addEventListener("input", (event) => {
  if (event.target.dataset.act !== "filter") return;
  filterBy(event.target.value);
  render();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.open || event.target.closest("input, textarea, select")) return;
  const page = Object.keys(PAGES)[Number(event.key) - 1];
  if (page && signedIn) location.hash = `#/${page}`;
});
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) {
    stop();
    takeToken();
    return enter();
  }
  if (location.hash === "#main") return;
  // Good news is old on another page; bad news waits to be read.
  if (said?.tone === "good") said = null;
  render();
  scrollTo(0, 0);
});
addEventListener("pagehide", stop);

if (takeToken()) enter();
else signIn();
