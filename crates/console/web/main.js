// The frame: sign-in, navigation, the state of the connection, and the page that is open.

import { ACTS, FIELDS, FORMS, hush, said } from "./acts.js";
import { Refused, dropToken, keepToken, takeToken } from "./api.js";
import { fill, h, morph } from "./dom.js";
import * as f from "./format.js";
import * as bill from "./page-bill.js";
import { clouds } from "./page-clouds.js";
import { continuity } from "./page-continuity.js";
import * as deploy from "./page-deploy.js";
import { filterBy, journal } from "./page-journal.js";
import { journeys } from "./page-journeys.js";
import { leases } from "./page-leases.js";
import * as logs from "./page-logs.js";
import * as pact from "./page-pact.js";
import { plans, waiting } from "./page-plans.js";
import * as one from "./page-service.js";
import { services } from "./page-services.js";
import * as tokens from "./page-tokens.js";
import { command, said as daemons } from "./parts.js";
import { may, open, probe, retry, start, state, stop } from "./state.js";
import { LANGUAGES, lang, setLang, t } from "./text.js";

/** In the order of the navigation. `role`: who may; `needs`: what it loads beside the lists. */
const PAGES = {
  clouds: { title: () => t("Clouds"), view: clouds },
  services: { title: () => t("Services"), view: (name) => (name ? one.service(name) : services()), needs: (name) => (name ? one.needs(name) : {}) },
  deploy: { title: () => t("Deploy"), view: deploy.deploy, needs: deploy.needs, role: "customer" },
  logs: { title: () => t("Logs"), view: logs.logs, needs: logs.needs, role: "customer" },
  journeys: { title: () => t("Journeys"), view: journeys },
  plans: { title: () => t("Plans"), view: plans },
  leases: { title: () => t("Leases"), view: leases },
  continuity: { title: () => t("Continuity"), view: continuity },
  pact: { title: () => t("Pact"), view: pact.pact, needs: pact.needs },
  tokens: { title: () => t("Tokens"), view: tokens.tokens, needs: tokens.needs, role: "operator" },
  bill: { title: () => t("Bill"), view: bill.bill, needs: bill.needs, role: "operator" },
  journal: { title: () => t("Journal"), view: journal },
};
const [bar, notices, main, dialog, skip] = ["bar", "notices", "main", "ask", "skip"].map((id) => document.getElementById(id));
/** Without news for so long the figures are called old. */
const STALE_MS = 3500;

let signedIn = false;

const offered = () => Object.entries(PAGES).filter(([, page]) => may(page.role ?? "viewer"));

const route = () => {
  const [, page, rest] = location.hash.split("/");
  const found = PAGES[page] && may(PAGES[page].role ?? "viewer");
  return found ? { page, rest: rest && decodeURIComponent(rest) } : { page: "clouds" };
};

function mark() {
  return h("svg.mark", { viewBox: "0 0 32 32", "aria-hidden": "true" }, h("path.one", { d: "M17.6 10.3A8 8 0 1 0 17.6 21.7" }), h("path.two", { d: "M14.4 21.7A8 8 0 1 0 14.4 10.3" }));
}

function connection() {
  const { live, heardAt, retryAt } = state.link;
  const old = Date.now() - heardAt > STALE_MS;
  if (live && !old) return h("span.link.live", { title: t("Changes arrive as they happen") }, h("i"), t("live"));
  if (!state.loaded && !retryAt) return h("span.link", {}, h("i"), t("connecting"));
  return h("span.link.lost", {}, h("i"), t("no answer"));
}

const act = (name, text, tone) => h("button", { type: "button", class: tone, "data-act": name }, text);

function languages() {
  return Object.entries(LANGUAGES).filter(([key]) => key !== lang()).map(([key, name]) => h("button.quiet", { type: "button", lang: key, "data-act": "language", "data-to": key }, name));
}

function renderBar() {
  const { page } = route();
  const stopped = state.cloud?.automation.stopped;
  const waits = waiting().length;
  const tabs = () => offered().map(([key, { title }], i) =>
    h("a", { href: `#/${key}`, "aria-current": key === page ? "page" : null, "aria-keyshortcuts": i < 9 ? String(i + 1) : null }, title(),
      key === "plans" && waits > 0 && h("span.badge", { "aria-label": t("{n} waiting", { n: waits }) }, waits)));
  fill(bar, signedIn ? [
    h("a.brand", { href: "#/clouds", "aria-label": "Pumasi" }, mark(), h("b", {}, daemons(state.cloud?.name ?? "Pumasi"))),
    h("div.right", {}, connection(),
      may("operator") && state.lab === "crowd" && act("crowd", t("Send a crowd"), "crowd"),
      may("operator") && state.cloud && (stopped ? act("resume", t("Resume automation…"), "resume") : act("stop", t("Stop automation…"), "stop")),
      languages(),
      act("leave", t("Sign out"), "quiet")),
    h("nav", { "aria-label": t("Pages") }, tabs()),
  ] : [h("span.brand", {}, mark(), h("b", {}, "Pumasi")), h("div.right", {}, languages())]);
  document.title = signedIn ? `${PAGES[page].title()} · ${state.cloud?.name ?? "Pumasi"}` : "Pumasi";
  document.documentElement.lang = lang();
  skip.textContent = t("Skip to the page");
}

function renderNotices() {
  const { live, heardAt, retryAt } = state.link;
  const trouble = state.link.trouble || state.link.pageTrouble;
  const lost = signedIn && !live && retryAt > 0;
  const wait = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
  const last = said.now;
  const cloud = signedIn ? state.cloud : null;
  fill(notices, [
    lost && h("div.notice.bad", { role: "alert", "data-key": "lost" }, h("p", {}, h("b", {}, t("The daemon does not answer."), " "), heardAt ? `${t("What you see is {time} old.", { time: f.ms(Date.now() - heardAt) })} ` : "", wait > 0 ? t("Trying again in {n} s.", { n: wait }) : t("Trying again now.")), act("retry", t("Try now"))),
    signedIn && trouble && h("div.notice.bad", { "data-key": "trouble" }, h("p", {}, h("b", {}, t("The daemon refused:"), " "), daemons(trouble))),
    cloud?.automation.stopped && h("div.notice.busy", { "data-key": "stopped" }, h("p", {}, h("b", {}, t("Automation is stopped."), " "), cloud.automation.why ? daemons(cloud.automation.why) : t("No reason was given."), " ", t("What runs goes on; nothing new begins by itself."))),
    cloud && cloud.standing !== "current" && h("div.notice.bad", { "data-key": "standing" }, h("p", {}, h("b", {}, t("The store may be old."), " "), daemons(`${cloud.standing}.`), " ", t("It acts on no other cloud before it is accepted:"), " ", command("pumasi accept-restored"))),
    cloud?.degraded?.length > 0 && h("div.notice.bad", { "data-key": "degraded" }, h("p", {}, h("b", {}, t("Users do not get all that they should."), " "), daemons(cloud.degraded.join("; ")))),
    last && h("div.notice", { class: last.tone, "data-key": `said-${last.at}`, role: last.tone === "bad" ? "alert" : "status" }, h("p", {}, last.text), act("hush", t("Dismiss"), "quiet")),
  ].filter(Boolean));
}

function render() {
  renderBar();
  renderNotices();
  if (!signedIn) return;
  if (!state.loaded || !state.cloud) return fill(main, [h("div.empty", {}, h("strong", {}, t("Asking the daemon…")), h("p", {}, t("The first answers are on their way.")))]);
  const { page, rest } = route();
  const keepEnd = logs.keepEnd();
  const wanted = h("div", {}, PAGES[page].view(rest));
  wanted.setAttribute("data-key", page);
  wanted.setAttribute("class", "page");
  const old = main.firstElementChild;
  if (old?.getAttribute("data-key") === page) morph(old, wanted);
  else fill(main, [wanted]);
  keepEnd();
}

/** What the page that is shown now loads. */
function openPage() {
  const { page, rest } = route();
  open(PAGES[page].needs?.(rest) ?? {});
}

function signIn(message) {
  signedIn = false;
  stop();
  dropToken();
  renderBar();
  renderNotices();
  fill(main, [h("form.signin.sheet", { "data-key": "signin", "data-act": "signin" },
    h("h1", {}, t("Sign in")),
    h("p", {}, t("Paste a token of this cloud. It stays in this tab and is sent to this daemon only.")),
    h("label", { for: "token" }, t("Token")),
    h("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": message ? "signin-why" : null }),
    message && h("p.bad", { id: "signin-why", role: "alert", lang: "en" }, message),
    h("button.primary", { type: "submit" }, t("Sign in")),
    h("p.faint", {}, t("On the machine of the daemon, “pumasi console” prints an address that signs in by itself.")))]);
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
  let knows = state.me !== null;
  start(({ signIn: refused }) => {
    if (refused) return signIn(refused);
    // Where the daemon was not there at first, only now it is known which pages there are.
    if (!knows && state.me) openPage();
    knows = state.me !== null;
    render();
  });
  openPage();
}

const HERE = {
  retry: () => retry(),
  leave: () => signIn(),
  language({ to }) {
    setLang(to);
    if (signedIn) render();
    else signIn();
  },
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  if (button) (HERE[button.dataset.act] ?? ACTS[button.dataset.act])?.(button.dataset);
});
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.act === "signin") {
    event.preventDefault();
    keepToken(document.getElementById("token").value.trim());
    fill(main, []);
    enter();
  } else if (FORMS[form.dataset.act]) {
    event.preventDefault();
    FORMS[form.dataset.act](form);
  }
});
document.addEventListener("input", (event) => {
  if (event.target.dataset.act === "manifest") return deploy.edited();
  if (event.target.dataset.act !== "filter") return;
  filterBy(event.target.value);
  render();
});
document.addEventListener("change", (event) => FIELDS[event.target.dataset.act]?.(event.target));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.open || event.target.closest("input, textarea, select")) return;
  const page = offered()[Number(event.key) - 1]?.[0];
  if (page && signedIn) location.hash = `#/${page}`;
});
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) {
    stop();
    takeToken();
    return enter();
  }
  if (location.hash === "#main") return;
  // Good news is old on another page; bad news waits to be read. A secret is told on its page only.
  if (said.now?.tone === "good") hush();
  tokens.forget();
  if (signedIn) openPage();
  render();
  scrollTo(0, 0);
});
addEventListener("resize", () => signedIn && render());
addEventListener("pagehide", stop);

if (takeToken()) enter();
else signIn();
