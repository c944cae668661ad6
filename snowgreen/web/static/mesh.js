// The mesh as a picture: this node, its peers around it, and outside them whom only the peers report.

import { count, drawn, plural, write } from "./text.js";

const NODES = 150;
const LINES = 600;
const TURN = 2 * Math.PI;
const names = new Intl.Collator("en", { numeric: true });

export class Mesh {
  constructor(model, choose) {
    this.model = model;
    this.choose = choose;
    this.$box = document.getElementById("mesh");
    this.$count = document.getElementById("mesh-count");
    this.$about = document.getElementById("mesh-about");
    this.svg = drawn("svg", { role: "img" });
    this.$box.append(this.svg);
    new ResizeObserver(() => {
      model.changed.mesh = true;
      this.update();
    }).observe(this.$box);
    this.svg.addEventListener("pointerover", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.svg.addEventListener("click", (event) => {
      const peer = this.peerOf(event);
      if (peer) this.choose(peer);
    });
  }

  update() {
    if (!this.model.changed.mesh || this.asked) return;
    this.model.changed.mesh = false;
    this.asked = requestAnimationFrame(() => {
      this.asked = undefined;
      this.draw();
    });
  }

  /** Who is drawn, and how many are not. */
  gather() {
    const { model } = this;
    const own = model.about.name ?? "";
    const peers = [...model.links.values()].map((link) => link.peer).sort(names.compare);
    const linked = new Set(peers);
    const missing = (model.about.missing ?? []).filter((name) => !linked.has(name));
    const others = new Map();
    for (const [peer, told] of model.mesh) {
      for (const name of told) {
        if (name !== own && !linked.has(name)) others.set(name, [...(others.get(name) ?? []), peer]);
      }
    }
    for (const name of missing) if (!others.has(name)) others.set(name, []);
    const inner = peers.slice(0, NODES - 1 - Math.min(others.size, 40));
    const outer = [...others.keys()].sort(names.compare).slice(0, NODES - 1 - inner.length);
    const more = peers.length + others.size - inner.length - outer.length;
    return { own, inner, outer, others, missing: new Set(missing), more };
  }

  draw() {
    const picture = this.gather();
    const { own, inner, outer, others, missing, more } = picture;
    const width = Math.max(280, this.$box.clientWidth);
    const height = Math.round(Math.min(460, Math.max(300, width * 0.62)));
    const many = inner.length + outer.length;
    const labelled = many <= (width < 560 ? 16 : 36);
    const [rx, ry] = [width / 2 - (labelled ? Math.min(110, width * 0.24) : 18), height / 2 - (labelled ? 30 : 18)];
    const depth = outer.length ? 0.7 : 0.94;
    const places = new Map([[own, { x: width / 2, y: height / 2, turn: 0 }]]);
    const place = (name, turn, ring) =>
      places.set(name, { x: width / 2 + Math.cos(turn) * rx * ring, y: height / 2 + Math.sin(turn) * ry * ring, turn });
    inner.forEach((name, at) => place(name, (at / inner.length - 0.25) * TURN, depth));
    this.spread(outer, others, places, inner.length).forEach(([name, turn]) => place(name, turn, 1));

    this.lines = new Map();
    const [lines, dots] = [drawn("g", { class: "lines" }), drawn("g", { class: "dots" })];
    this.drawLines(lines, places, picture);
    for (const name of [own, ...inner, ...outer]) {
      const kind = name === own ? "own" : missing.has(name) ? "missing" : outer.includes(name) ? "told" : "peer";
      dots.append(this.dot(name, kind, places.get(name), labelled || name === own, many));
    }
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", String(height));
    this.svg.setAttribute("aria-label", `This node and ${plural(inner.length, "peer")}`);
    this.svg.classList.toggle("crowded", many > 60);
    this.svg.replaceChildren(lines, dots);
    write(this.$count, many ? count(many + more + 1) : "");
    this.explain = this.explanation(picture);
    write(this.$about, this.explain);
  }

  explanation({ inner, outer, more, missing }) {
    if (!inner.length && !outer.length) return "No peers yet.";
    const parts = [];
    if (inner.length) parts.push("Strong lines are this node's links");
    if (this.model.mesh.size) parts.push("thin ones are what its peers said when they were linked");
    if (missing.size) parts.push("dashed ones are kept and not up");
    return `${parts.join(", ")}.${more ? ` ${plural(more, "more node is", "more nodes are")} not drawn.` : ""}`;
  }

  /** Those outside, in gaps between those inside, each near whoever reports it. */
  spread(outer, others, places, gaps) {
    const wanted = outer.map((name) => {
      const by = others.get(name).map((peer) => places.get(peer)).filter(Boolean);
      const x = by.reduce((sum, { turn }) => sum + Math.cos(turn), 0);
      const y = by.reduce((sum, { turn }) => sum + Math.sin(turn), 0);
      return [name, (Math.atan2(y, x) / TURN + 1.25) % 1];
    });
    wanted.sort(([, a], [, b]) => a - b);
    const room = Math.max(gaps, wanted.length);
    let next = 0;
    return wanted.map(([name, turn], at) => {
      const slot = Math.min(Math.max(next, Math.floor(turn * room)), room - wanted.length + at);
      next = slot + 1;
      return [name, ((slot + 0.5) / room - 0.25) * TURN];
    });
  }

  drawLines(lines, places, { own, inner, outer, missing }) {
    let room = LINES;
    const done = new Set();
    const line = (one, other, kind) => {
      const [a, b] = [places.get(one), places.get(other)];
      const key = [one, other].sort().join("\n");
      if (!a || !b || done.has(key) || room-- <= 0) return;
      done.add(key);
      const middle = places.get(own);
      const pull = kind === "told" ? 0.3 : 0;
      const [cx, cy] = [(a.x + b.x) / 2, (a.y + b.y) / 2].map((at, axis) => at + pull * ((axis ? middle.y : middle.x) - at));
      const path = drawn("path", { class: kind, d: `M${a.x.toFixed(1)} ${a.y.toFixed(1)}Q${cx.toFixed(1)} ${cy.toFixed(1)} ${b.x.toFixed(1)} ${b.y.toFixed(1)}` });
      for (const name of [one, other]) this.lines.set(name, [...(this.lines.get(name) ?? []), path]);
      lines.append(path);
    };
    for (const name of inner) line(own, name, "link");
    for (const name of outer) if (missing.has(name)) line(own, name, "missing");
    for (const [peer, told] of this.model.mesh) for (const name of told) line(peer, name, "told");
  }

  dot(name, kind, { x, y, turn }, labelled, many) {
    const group = drawn("g", { class: kind });
    group.peer = name;
    const title = drawn("title");
    title.textContent = kind === "missing" ? `${name}: kept, and not linked` : name;
    const radius = kind === "own" ? 9 : many > 60 ? 4 : 6;
    group.append(title, drawn("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: radius }));
    if (labelled) {
      const [right, upright] = [Math.cos(turn), Math.sin(turn)];
      const centred = kind === "own" || Math.abs(right) < 0.3;
      const label = drawn("text", {
        x: (x + (centred ? 0 : Math.sign(right) * (radius + 5))).toFixed(1),
        y: (y + (kind === "own" ? radius + 14 : centred ? (upright < 0 ? -radius - 6 : radius + 14) : 4)).toFixed(1),
        "text-anchor": centred ? "middle" : right > 0 ? "start" : "end",
      });
      const short = name.split("@")[0];
      label.textContent = short.length > 16 ? `${short.slice(0, 15)}…` : short;
      group.append(label);
    }
    return group;
  }

  peerOf(event) {
    return event?.target.closest?.("g")?.peer;
  }

  point(event) {
    const peer = this.peerOf(event);
    if (peer === this.pointed) return;
    for (const path of this.lines?.get(this.pointed) ?? []) path.classList.remove("lit");
    for (const path of this.lines?.get(peer) ?? []) path.classList.add("lit");
    this.pointed = peer;
    write(this.$about, peer ?? this.explain);
  }
}
