// Passkeys, for forms with data-passkey: "sign-in" asks for one, "sign-up" and "add" make one.
"use strict";

const bytes = (text) =>
  Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const text = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

class Told extends Error {}

async function ask(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    credentials: "same-origin",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const said = await answer.json().catch(() => ({}));
  if (said.to) {
    location.assign(said.to);
    return null;
  }
  if (!answer.ok) throw new Told(said.error || "");
  return said;
}

async function get(options) {
  const made = await navigator.credentials.get({ publicKey: { ...options, challenge: bytes(options.challenge) } });
  return {
    id: text(made.rawId),
    client_data: text(made.response.clientDataJSON),
    authenticator_data: text(made.response.authenticatorData),
    signature: text(made.response.signature),
    user_handle: made.response.userHandle ? text(made.response.userHandle) : "",
  };
}

async function create(options) {
  const made = await navigator.credentials.create({
    publicKey: {
      ...options,
      challenge: bytes(options.challenge),
      user: { ...options.user, id: bytes(options.user.id) },
      excludeCredentials: options.excludeCredentials.map((known) => ({ ...known, id: bytes(known.id) })),
    },
  });
  return { client_data: text(made.response.clientDataJSON), attestation: text(made.response.attestationObject) };
}

function fields(form) {
  const all = Object.fromEntries(new FormData(form));
  delete all.password;
  return all;
}

async function run(form) {
  const path = form.dataset.path;
  const begun = await ask(`${path}/begin`, fields(form));
  if (!begun) return;
  const proof = form.dataset.passkey === "sign-in" ? await get(begun.options) : await create(begun.options);
  await ask(`${path}/finish`, { ...fields(form), ...proof, subject: begun.subject || "" });
}

for (const form of document.querySelectorAll("form[data-passkey]")) {
  const button = form.querySelector("[data-begin]");
  const status = form.querySelector(".passkey-status");
  const tell = (words, bad) => {
    status.hidden = false;
    status.classList.toggle("bad", bad);
    status.textContent = words;
  };
  if (!window.PublicKeyCredential) {
    button.disabled = true;
    tell(status.dataset.unsupported, true);
    continue;
  }
  if (form.dataset.passkey !== "sign-up") {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      button.click();
    });
  }
  button.addEventListener("click", async () => {
    const needed = form.querySelectorAll("input[required]:not([type=password])");
    if (![...needed].every((input) => input.reportValidity())) return;
    button.disabled = true;
    tell(status.dataset.waiting, false);
    try {
      await run(form);
    } catch (error) {
      // What the browser says to the page is the same for "cancelled", "none here" and "too slow".
      const denied = error.name === "NotAllowedError" || error.name === "AbortError";
      const words = error instanceof Told && error.message;
      tell(words || (denied ? status.dataset.cancelled : status.dataset.failed), true);
      button.focus();
    } finally {
      button.disabled = false;
    }
  });
}
