// The table of links. Only the rows that can be seen are in the page, however many there are.

import { bytes, count, drawn, duration, element, fits, plural, roundTrip, write } from "./text.js";

const SPARE = 6;
const TREND = { width: 72, height: 18 };
const names = new Intl.Collator("en", { numeric: true });

/** Key, title, what it sorts by, and whether the first click sorts downwards. */
const COLUMNS = [
  ["peer", "Peer", (link) => link.peer, false],
  ["direction", "Direction", (link) => link.direction, false],
  ["form", "Form", (link) => link.form, false],
  ["age", "Age", (link) => -link.since, true],
  ["rtt", "Round trip", (link) => link.rtt ?? -1, true],
  ["in", "In", (link) => link.rateIn, true],
  ["out", "Out", (link) => link.rateOut, true],
  ["waiting", "Waiting", (link) => link.waiting, true],
  ["state", "State", (link) => link.state, false],
];

export class Links {
  constructor(model) {
    this.model = model;
    this.column = COLUMNS[0];
    this.downwards = false;
    this.filter = "";
    this.shown = [];
    this.pool = [];
    this.height = 36;
    this.stale = true;
    for (const part of ["view", "size", "head", "count", "filter", "sort", "none"]) {
      this[`$${part}`] = document.getElementById(`links-${part}`);
    }
    this.$table = document.getElementById("links");
    this.makeHead();
    this.$view.addEventListener("scroll", () => this.ask(), { passive: true });
    this.$filter.addEventListener("input", () => this.look(this.$filter.value));
    new ResizeObserver(() => this.measure()).observe(this.$view);
    this.measure();
  }

  makeHead() {
    for (const column of COLUMNS) {
      const cell = element("div", `cell ${column[0]}`);
      const button = element("button", "", column[1]);
      cell.setAttribute("role", "columnheader");
      button.type = "button";
      button.addEventListener("click", () => this.sortBy(column, this.column === column ? !this.downwards : column[3]));
      cell.append(button);
      this.$head.append(cell);
      const option = element("option", "", column[1]);
      option.value = column[0];
      this.$sort.append(option);
    }
    this.$sort.addEventListener("change", () => {
      const column = COLUMNS.find(([key]) => key === this.$sort.value);
      this.sortBy(column, column[3]);
    });
    this.sortBy(COLUMNS[0], false);
  }

  sortBy(column, downwards) {
    this.column = column;
    this.downwards = downwards;
    COLUMNS.forEach((other, at) => {
      const how = other !== column ? "none" : downwards ? "descending" : "ascending";
      this.$head.children[at].setAttribute("aria-sort", how);
    });
    this.$sort.value = column[0];
    this.stale = true;
    this.ask();
  }

  /** Filter by what a person typed, or a picture was clicked for. */
  look(text) {
    if (this.$filter.value !== text) this.$filter.value = text;
    this.filter = text.trim().toLowerCase();
    this.$view.scrollTop = 0;
    this.stale = true;
    this.ask();
  }

  measure() {
    this.height = Number(getComputedStyle(this.$view).getPropertyValue("--row")) || 36;
    this.ask();
  }

  ask() {
    this.asked ??= requestAnimationFrame(() => {
      this.asked = undefined;
      this.draw();
    });
  }

  /** Called when the model has changed, and once a second for the ages. */
  update() {
    if (this.model.changed.links) this.stale = true;
    this.model.changed.links = false;
    this.ask();
  }

  arrange() {
    const [, , key] = this.column;
    const sign = this.downwards ? -1 : 1;
    const rows = this.model.rows().filter((link) => !this.filter || fits(`${link.search} ${link.state}`, this.filter));
    const keyed = rows.map((link) => [key(link), link]);
    keyed.sort(([a, one], [b, other]) => {
      const order = typeof a === "string" ? names.compare(a, b) : a - b;
      return order * sign || names.compare(one.peer, other.peer) || one.serial - other.serial;
    });
    this.shown = keyed.map(([, link]) => link);
    this.stale = false;
    const [all, some] = [this.model.links.size, this.shown.length];
    write(this.$count, this.filter ? `${count(some)} of ${count(all)}` : count(all));
    this.$table.setAttribute("aria-rowcount", String(some + 1));
    this.$table.hidden = some === 0;
    this.$none.hidden = some !== 0;
    write(this.$none, this.filter && all ? `None of ${plural(all, "link")} fits the filter.` : "No links.");
    this.$size.style.height = `${some * this.height}px`;
  }

  draw() {
    if (this.stale) this.arrange();
    this.$size.style.height = `${this.shown.length * this.height}px`;
    const first = Math.max(0, Math.floor(this.$view.scrollTop / this.height) - SPARE);
    const room = Math.ceil((this.$view.clientHeight || 400) / this.height) + 2 * SPARE;
    const seen = this.shown.slice(first, first + room);
    while (this.pool.length < seen.length) {
      const row = new Row();
      this.pool.push(row);
      this.$size.append(row.node);
    }
    const now = this.model.now();
    this.pool.forEach((row, at) => row.show(seen[at], first + at, this.height, now));
  }
}

class Row {
  constructor() {
    this.node = element("div", "row");
    this.node.setAttribute("role", "row");
    this.cells = {};
    for (const [key] of COLUMNS) {
      const cell = element("div", `cell ${key}`);
      cell.setAttribute("role", "cell");
      this.cells[key] = element("span", "value");
      cell.append(this.cells[key]);
      this.node.append(cell);
    }
    this.cells.state.classList.add("pill");
    this.address = element("span", "address");
    this.cells.peer.after(this.address);
    this.trend = drawn("svg", { ...TREND, viewBox: `0 0 ${TREND.width} ${TREND.height}`, class: "trend", "aria-hidden": "true" });
    this.line = drawn("polyline", { points: "" });
    this.dot = drawn("circle", { r: 1.8 });
    this.trend.append(this.line, this.dot);
    this.cells.rtt.after(this.trend);
    this.link = null;
  }

  show(link, index, height, now) {
    this.node.hidden = !link;
    if (!link) return;
    if (this.index !== index || this.height !== height) {
      this.index = index;
      this.height = height;
      this.node.style.transform = `translateY(${index * height}px)`;
      this.node.setAttribute("aria-rowindex", String(index + 2));
    }
    const { cells } = this;
    write(cells.peer, link.peer);
    write(this.address, link.address);
    write(cells.direction, link.direction);
    write(cells.form, link.form);
    write(cells.age, duration((link.goneAt ?? now) - link.since));
    write(cells.rtt, roundTrip(link.rtt));
    write(cells.in, `${bytes(link.rateIn)}/s`);
    write(cells.out, `${bytes(link.rateOut)}/s`);
    write(cells.waiting, bytes(link.waiting));
    write(cells.state, link.state);
    if (this.state !== link.state) {
      this.state = link.state;
      this.node.dataset.state = link.state;
      cells.state.dataset.tone = { up: "good", waiting: "warn", down: "bad" }[link.state] ?? "quiet";
    }
    this.node.classList.toggle("idle", !link.rateIn && !link.rateOut);
    if (this.link !== link) {
      this.node.title = `${link.peer} at ${link.address}`;
      cells.form.dataset.tone = link.form === "classic" ? "warn" : "";
    }
    if (this.link !== link || !link.drawn) this.draw(link);
    this.link = link;
  }

  draw(link) {
    const { trips } = link;
    const top = Math.max(...trips, 0) || 1;
    const low = Math.min(...trips, top);
    const span = Math.max(top - low, top * 0.2);
    const step = (TREND.width - 6) / Math.max(trips.length - 1, 1);
    const points = trips.map((value, at) => [
      (TREND.width - 3 - (trips.length - 1 - at) * step).toFixed(1),
      (TREND.height - 3 - ((value - low) / span) * (TREND.height - 6)).toFixed(1),
    ]);
    this.line.setAttribute("points", points.map((point) => point.join(",")).join(" "));
    const last = points.at(-1);
    this.dot.setAttribute("display", last ? "inline" : "none");
    if (last) {
      this.dot.setAttribute("cx", last[0]);
      this.dot.setAttribute("cy", last[1]);
    }
    link.drawn = true;
  }
}
