// Explore a graph: move, find, follow what lies up- and downstream, fold frames, show every step.
// Without this script the page shows the picture as it was drawn.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const READABLE = 0.55; // the scale below which a picture opens on its first nodes
const part = (id) => document.getElementById(id);

function element(name, attributes, ...inside) {
  const made = name.startsWith("svg:")
    ? document.createElementNS(SVG, name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

/** All that can be reached from a node along a table of neighbours, without itself. */
function reached(start, neighbours) {
  const found = new Set(), open = [start];
  while (open.length)
    for (const next of neighbours[open.pop()])
      if (!found.has(next) && next !== start) { found.add(next); open.push(next); }
  return found;
}

/** Where a line from the middle of a box towards a point leaves the box. */
function border(box, x, y) {
  const cx = box.x + box.width / 2, cy = box.y + box.height / 2;
  const dx = x - cx, dy = y - cy;
  const scale = 1 / Math.max(Math.abs(dx) / (box.width / 2), Math.abs(dy) / (box.height / 2), 1e-9);
  return [cx + dx * Math.min(scale, 1), cy + dy * Math.min(scale, 1)];
}

/** One picture: its nodes, arrows and frames, where it is looked at from, and what is chosen. */
class View {
  constructor(data, holder) {
    Object.assign(this, data);
    this.holder = holder;
    this.svg = holder.querySelector("svg");
    this.drawing = part(this.id);
    this.size = this.svg.viewBox.baseVal;
    this.size = { width: this.size.width, height: this.size.height };
    this.elements = this.nodes.map((_, i) => part(`${this.id}-n${i}`));
    this.places = new Map(this.elements.map((each, i) => [each, i]));
    this.parents = this.nodes.map(() => []);
    this.children = this.nodes.map(() => []);
    for (const arrow of this.arrows) {
      this.children[arrow[0]].push(arrow[1]);
      this.parents[arrow[1]].push(arrow[0]);
    }
    this.paths = this.arrows.map(([a, b]) => part(`${this.id}-n${a}-n${b}`));
    this.boxes = this.frames.map((frame) => part(`${this.id}-${frame.id}`));
    this.folded = new Set();
    this.chosen = null;
    this.isOpened = false;
    this.prepare();
  }

  prepare() {
    this.camera = element("svg:g", {});
    this.camera.append(this.drawing);
    this.svg.append(this.camera);
    this.stubs = element("svg:g", {});
    this.drawing.append(this.stubs);
    const head = element("svg:marker", {
      id: `${this.id}-head`, viewBox: "0 0 10 10", refX: 10, refY: 5, markerWidth: 9,
      markerHeight: 9, orient: "auto", markerUnits: "userSpaceOnUse",
    }, element("svg:path", { d: "M0 0L10 5L0 10z", fill: "context-stroke" }));
    this.svg.append(element("svg:defs", {}, head));
    for (const name of ["viewBox", "width", "height"]) this.svg.removeAttribute(name);
    this.svg.setAttribute("role", "group");
    this.svg.setAttribute("aria-label", "Nodes: arrow keys follow the arrows, Enter chooses");
    this.elements.forEach((each, i) => {
      each.setAttribute("role", "button");
      each.setAttribute("aria-pressed", "false");
      each.setAttribute("aria-label", this.spoken(i));
      each.setAttribute("tabindex", i ? -1 : 0);
    });
  }

  spoken(i) {
    const names = this.parents[i].map((p) => this.nodes[p].name).join(", ");
    const { name, facts } = this.nodes[i];
    return `${name}, ${facts.join(", ")}${names ? `, depends on ${names}` : ""}`;
  }

  // The camera is an outer group: to move it is cheap, where another viewBox would draw all anew.
  place(x, y, scale) {
    this.at = { x, y, scale: Math.min(Math.max(scale, 0.02), 8) };
    const { scale: k } = this.at;
    this.camera.setAttribute("transform", `translate(${x} ${y}) scale(${k})`);
  }

  zoom(factor, x, y) {
    const room = this.holder.getBoundingClientRect();
    x ??= room.width / 2;
    y ??= room.height / 2;
    const scale = Math.min(Math.max(this.at.scale * factor, 0.02), 8);
    const ratio = scale / this.at.scale;
    this.place(x - (x - this.at.x) * ratio, y - (y - this.at.y) * ratio, scale);
  }

  fit() {
    const room = this.holder.getBoundingClientRect();
    const scale = Math.min(room.width / this.size.width, room.height / this.size.height, 2);
    this.place(
      (room.width - this.size.width * scale) / 2, (room.height - this.size.height * scale) / 2, scale);
  }

  open() {
    if (this.isOpened) return;
    this.isOpened = true;
    this.fit();
    if (this.at.scale >= READABLE || !this.nodes.length) return;
    const room = this.holder.getBoundingClientRect();
    this.place(0, 0, 1);
    const seen = this.elements[0].getBoundingClientRect();
    this.place(
      room.x + room.width / 2 - seen.x - seen.width / 2, room.y + 40 - seen.y, 1);
  }

  reveal(i) {
    const seen = this.elements[i].getBoundingClientRect(), room = this.holder.getBoundingClientRect();
    const isInside = seen.left > room.left && seen.right < room.right
      && seen.top > room.top && seen.bottom < room.bottom;
    if (isInside) return;
    this.place(
      this.at.x + room.x + room.width / 2 - seen.x - seen.width / 2,
      this.at.y + room.y + room.height / 2 - seen.y - seen.height / 2, this.at.scale);
  }

  /** The outermost folded frame that a node is in, none if it is shown. */
  frameOf(i) {
    for (const f of this.folded) if (!this.isWithin(f) && this.frames[f].members.includes(i)) return f;
    return null;
  }

  isWithin(f) {
    for (let outer = this.frames[f].outer; outer !== null; outer = this.frames[outer].outer)
      if (this.folded.has(outer)) return true;
    return false;
  }

  fold(f, isFolded = !this.folded.has(f)) {
    if (isFolded) this.folded.add(f); else this.folded.delete(f);
    this.show();
    const { name, members } = this.frames[f];
    say(`${name} ${isFolded ? "folded" : "unfolded"}, ${members.length} nodes`);
  }

  /** Draw what the folded frames leave to see: arrows to what is hidden end at its frame. */
  show() {
    const owner = this.nodes.map((_, i) => this.frameOf(i));
    this.elements.forEach((each, i) => each.toggleAttribute("hidden", owner[i] !== null));
    this.boxes.forEach((box, f) => {
      const isFolded = this.folded.has(f);
      box.button?.setAttribute("aria-expanded", !isFolded);
      box.classList.toggle("folded", isFolded && !this.isWithin(f));
      box.toggleAttribute("hidden", this.isWithin(f));
      box.querySelector(".summary")?.remove();
      if (!isFolded) return;
      const shape = box.querySelector("polygon, path").getBBox();
      const { members } = this.frames[f];
      box.append(element("svg:text", {
        class: "summary", x: shape.x + shape.width / 2, y: shape.y + shape.height / 2 + 5,
      }, `${members.length} nodes`));
    });
    this.stubs.replaceChildren();
    const drawn = new Map();
    this.arrows.forEach(([a, b], n) => {
      const isShown = owner[a] === null && owner[b] === null;
      this.paths[n].toggleAttribute("hidden", !isShown);
      if (isShown || (owner[a] !== null && owner[a] === owner[b])) return;
      const key = `${owner[a] ?? `n${a}`} ${owner[b] ?? `n${b}`}`;
      if (!drawn.has(key)) drawn.set(key, { a, b, ends: [] });
      drawn.get(key).ends.push([a, b]);
    });
    for (const { a, b, ends } of drawn.values()) this.stubs.append(this.stub(a, b, owner, ends));
    if (this.current().hasAttribute("hidden")) {
      const first = owner.indexOf(null);
      if (first >= 0) this.rove(first, false);
    }
    this.light();
  }

  stub(a, b, owner, ends) {
    const shape = (i) => owner[i] === null
      ? this.elements[i].getBBox()
      : this.boxes[owner[i]].querySelector("polygon, path").getBBox();
    const from = shape(a), to = shape(b);
    const [x1, y1] = border(from, to.x + to.width / 2, to.y + to.height / 2);
    const [x2, y2] = border(to, from.x + from.width / 2, from.y + from.height / 2);
    const line = element("svg:line", { x1, y1, x2, y2, "marker-end": `url(#${this.id}-head)` });
    const made = element("svg:g", { class: "stub" }, line);
    made.ends = ends;
    return made;
  }

  choose(i) {
    this.chosen = i === this.chosen ? null : i;
    this.light();
    describe(this);
    if (this.chosen === null) return say("nothing is chosen");
    this.rove(i, false);
    say(`${this.nodes[i].name}: ${this.up.size} upstream, ${this.down.size} downstream`);
  }

  light() {
    const i = this.chosen, isLit = i !== null;
    this.up = isLit ? reached(i, this.parents) : new Set();
    this.down = isLit ? reached(i, this.children) : new Set();
    this.svg.classList.toggle("is-lit", isLit);
    this.elements.forEach((each, n) => {
      each.classList.toggle("chosen", n === i);
      each.classList.toggle("up", this.up.has(n));
      each.classList.toggle("down", this.down.has(n));
      each.setAttribute("aria-pressed", String(n === i));
    });
    const isUp = ([a, b]) => this.up.has(a) && (b === i || this.up.has(b));
    const isDown = ([a, b]) => this.down.has(b) && (a === i || this.down.has(a));
    const mark = (each, ends) => {
      each.classList.toggle("up", ends.some(isUp));
      each.classList.toggle("down", ends.some(isDown));
    };
    this.paths.forEach((path, n) => mark(path, [this.arrows[n]]));
    for (const stub of this.stubs.children) mark(stub, stub.ends);
  }

  // One node is in the order of the Tab key; arrow keys go on from it.
  current() { return this.svg.querySelector('.node[tabindex="0"]'); }

  rove(i, isFocused = true) {
    this.current().setAttribute("tabindex", -1);
    this.elements[i].setAttribute("tabindex", 0);
    if (!isFocused) return;
    this.elements[i].focus({ preventScroll: true });
    this.reveal(i);
  }

  /** The node to go to from another with an arrow key: along the arrows, or beside it. */
  beside(i, key) {
    const isSeen = (n) => !this.elements[n].hasAttribute("hidden");
    const middle = (n) => {
      const box = this.elements[n].getBBox();
      return [box.x + box.width / 2, box.y + box.height / 2, box.height];
    };
    const [x, y, height] = middle(i);
    const distance = (n) => Math.abs(middle(n)[0] - x) + Math.abs(middle(n)[1] - y);
    const among = {
      ArrowUp: () => this.parents[i],
      ArrowDown: () => this.children[i],
      ArrowLeft: () => this.row(i, (n) => middle(n)[0] < x && Math.abs(middle(n)[1] - y) < height),
      ArrowRight: () => this.row(i, (n) => middle(n)[0] > x && Math.abs(middle(n)[1] - y) < height),
    }[key]?.().filter((n) => n !== i && isSeen(n));
    return among?.length ? among.reduce((a, b) => (distance(b) < distance(a) ? b : a)) : null;
  }

  row(i, isThere) { return this.nodes.map((_, n) => n).filter((n) => n !== i && isThere(n)); }
}

const data = JSON.parse(part("data").textContent);
const stage = document.querySelector(".views");
let view;

function say(text) { part("said").textContent = text; }

function buttons(view, numbers) {
  return element("ul", {}, ...numbers.map((i) => {
    const button = element("button", { type: "button" }, view.nodes[i].name);
    button.addEventListener("click", () => go(view, i));
    return element("li", {}, button);
  }));
}

function go(view, i) {
  unhide(view, i);
  if (view.chosen !== i) view.choose(i);
  view.rove(i);
}

function unhide(view, i) {
  for (let f = view.frameOf(i); f !== null; f = view.frameOf(i)) view.fold(f, false);
}

function describe(view) {
  const panel = part("about"), i = view.chosen;
  if (i === null) {
    panel.replaceChildren(element("p", { class: "quiet" },
      "Choose a node to see what it depends on, and what depends on it."));
    return;
  }
  const { name, facts, source } = view.nodes[i];
  const count = (set, word, where) => element("p", { class: where }, `${set.size} ${word}`);
  panel.replaceChildren(
    element("h2", {}, name),
    ...facts.map((fact) => element("p", {}, fact)),
    element("p", { class: "quiet" }, source[0]),
    ...(source[1] ? [element("code", {}, source[1])] : []),
    count(view.up, "upstream", "up"),
    count(view.down, "downstream", "down"),
    ...(view.parents[i].length ? [element("h2", {}, "Depends on"), buttons(view, view.parents[i])] : []),
    ...(view.children[i].length ? [element("h2", {}, "Is used by"), buttons(view, view.children[i])] : []),
  );
}

function listFrames(view) {
  const list = view.frames.map((frame, f) => {
    const button = element("button", { type: "button", "aria-expanded": !view.folded.has(f) }, frame.name);
    button.addEventListener("click", () => view.fold(f));
    view.boxes[f].button = button;
    return element("li", {}, button);
  });
  part("frames").replaceChildren(...(list.length
    ? [element("h2", {}, "Frames"), element("ul", {}, ...list)] : []));
}

const percent = (share) => share > 0 && share < 0.005 ? "under 1%"
  : share >= 0.995 && share < 1 ? "over 99%" : `${Math.round(100 * share)}%`;

/** What the colours mean where the graph has shares, and the sites by theirs. */
function listShares(view) {
  const { nodes } = view;
  const order = nodes.map((_, i) => i).filter((i) => nodes[i].share !== null)
    .sort((a, b) => nodes[b].share - nodes[a].share);
  const rows = order.map((i) => {
    const button = element("button", { type: "button" },
      element("span", { class: "swatch", style: `--share: ${nodes[i].share}` }),
      nodes[i].name, " ", element("b", {}, percent(nodes[i].share)));
    button.addEventListener("click", () => go(view, i));
    return element("li", {}, button);
  });
  part("shares").replaceChildren(...(rows.length ? [
    element("h2", {}, "Share of the gradient's variance"),
    element("p", { class: "scale" }, element("span", {}, "0%"), element("span", {}, "100%")),
    element("ol", {}, ...rows)] : []));
}

function look(at) {
  view = at;
  for (const each of views) each.holder.hidden = each !== at;
  listShares(at);
  listFrames(at);
  describe(at);
  find();
  at.open(); // into the room that these leave
}

function find() {
  const text = part("search").value.trim().toLowerCase();
  view.found = text
    ? view.nodes.map((_, i) => i).filter((i) => {
      const { name, facts, source } = view.nodes[i];
      return [name, ...facts, ...source].join("\n").toLowerCase().includes(text);
    })
    : [];
  part("found").textContent = text ? `${view.found.length} found` : "";
}

function findNext() {
  if (!view.found.length) return;
  view.next = ((view.next ?? -1) + 1) % view.found.length;
  const i = view.found[view.next];
  unhide(view, i);
  if (view.chosen !== i) view.choose(i);
  view.reveal(i);
}

document.documentElement.classList.add("is-live");
for (const holder of document.querySelectorAll(".views > div")) holder.hidden = false;
const views = data.views.map((each) => new View(each, part(each.id).closest("div")));
look(views[0]);

// Moving: one pointer drags, two pinch, the wheel zooms where it points.
const pointers = new Map();
let moved = 0;
const spread = () => {
  const [a, b] = [...pointers.values()];
  return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, far: Math.hypot(a.x - b.x, a.y - b.y) };
};
stage.addEventListener("pointerdown", (event) => {
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  moved = 0;
});
addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const old = pointers.size === 2 ? spread() : null;
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  const dx = event.clientX - before.x, dy = event.clientY - before.y;
  moved += Math.abs(dx) + Math.abs(dy);
  if (moved < 4) return;
  stage.classList.add("is-moving");
  if (old) {
    const now = spread(), room = stage.getBoundingClientRect();
    view.place(view.at.x + now.x - old.x, view.at.y + now.y - old.y, view.at.scale);
    view.zoom(now.far / old.far, now.x - room.x, now.y - room.y);
  } else if (pointers.size === 1) view.place(view.at.x + dx, view.at.y + dy, view.at.scale);
});
for (const kind of ["pointerup", "pointercancel"]) addEventListener(kind, (event) => {
  pointers.delete(event.pointerId);
  stage.classList.remove("is-moving");
});
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  const room = stage.getBoundingClientRect();
  const step = event.deltaY * (event.deltaMode ? 18 : 1);
  view.zoom(Math.exp(-step * 0.0018), event.clientX - room.x, event.clientY - room.y);
}, { passive: false });

stage.addEventListener("click", (event) => {
  if (moved >= 4) return;
  const node = event.target.closest(".node"), box = event.target.closest(".cluster");
  if (node) return view.choose(view.places.get(node));
  const f = view.boxes.indexOf(box);
  if (box && (box.classList.contains("folded") || event.target.closest("text"))) return view.fold(f);
  if (view.chosen !== null) view.choose(view.chosen);
});

stage.addEventListener("keydown", (event) => {
  const i = view.places.get(event.target.closest(".node"));
  const zooms = { "+": 1.25, "=": 1.25, "-": 0.8 };
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (zooms[event.key]) view.zoom(zooms[event.key]);
  else if (event.key === "0") view.fit();
  else if (event.key === "Escape") { if (view.chosen !== null) view.choose(view.chosen); }
  else if (i === undefined) return;
  else if (event.key === "Enter" || event.key === " ") view.choose(i);
  else if (event.key.startsWith("Arrow")) {
    const next = view.beside(i, event.key);
    if (next !== null) view.rove(next);
  } else return;
  event.preventDefault();
});

part("search").addEventListener("input", () => { view.next = -1; find(); });
part("search").addEventListener("keydown", (event) => { if (event.key === "Enter") findNext(); });
part("closer").addEventListener("click", () => view.zoom(1.25));
part("farther").addEventListener("click", () => view.zoom(0.8));
part("fit").addEventListener("click", () => view.fit());
part("steps")?.addEventListener("click", (event) => {
  const isAll = view === views[0];
  event.target.setAttribute("aria-pressed", isAll);
  look(views[isAll ? 1 : 0]);
  say(isAll ? "every step is shown" : "the steps of loops are one node");
});
part("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
});
