// Elements without a framework: `h` builds them, `morph` brings the page to what was built, keeping focus and what is open.
// Text is always text: nothing from the API is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "g", "path", "line", "circle", "rect", "polyline", "polygon", "text", "tspan", "title", "defs", "clipPath", "marker"]);

export function h(tag, attributes, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = SVG_TAGS.has(name) ? document.createElementNS(SVG, name) : document.createElement(name || "div");
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") node.setAttribute("class", [...classes, value].filter(Boolean).join(" "));
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(node, child);
    else node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

// What the user did to these belongs to the user.
const OWN = { DETAILS: ["open"], DIALOG: ["open"], INPUT: ["value", "checked"] };

function key(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
}

function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && key(a) === key(b);
}

export function morph(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  const own = OWN[old.nodeName] ?? [];
  for (const { name, value } of [...fresh.attributes]) {
    if (!own.includes(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!own.includes(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  if (old.nodeName === "TEXTAREA") return;
  fill(old, [...fresh.childNodes]);
}

export function fill(parent, wanted) {
  // What shares a key is matched in its order: none stands for another.
  const keyed = new Map();
  for (const child of parent.childNodes) if (key(child) !== null) keyed.set(key(child), [...(keyed.get(key(child)) ?? []), child]);
  let at = parent.firstChild;
  for (const fresh of wanted) {
    let old = key(fresh) !== null ? keyed.get(key(fresh))?.shift() : at && key(at) === null ? at : null;
    if (old && !alike(old, fresh)) old = null;
    if (!old) {
      parent.insertBefore(fresh, at);
      continue;
    }
    if (old === at) at = at.nextSibling;
    else parent.insertBefore(old, at);
    morph(old, fresh);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** How wide a part of the page is; until it stands there, how wide the page is. */
export function roomOf(name) {
  return document.querySelector(`[data-room="${name}"]`)?.clientWidth || document.getElementById("main").clientWidth;
}
