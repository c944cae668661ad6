// The facts about this node, its failed handshakes, and its events.

import { bytes, clock, count, duration, element, exactly, fits, plural, write } from "./text.js";

const FAILURES = 100;
const EVENTS = 300;
const MISSING = 8;
const KINDS = {
  up: ["up", "good"],
  down: ["down", "bad"],
  handshake_failed: ["failed", "warn"],
  connections_refused: ["refused", "warn"],
  loop_stalled: ["stalled", "bad"],
  certificate_problem: ["certificate", "bad"],
  messages_dropped: ["dropped", "bad"],
  peer_list_refused: ["peer list", "warn"],
  events_dropped: ["missed", "quiet"],
};

const byId = (id) => document.getElementById(id);
const worded = (cause) => cause.replaceAll("_", " ");

/** Who this is, for how long, and what went wrong in all. */
export class Facts {
  constructor(model) {
    this.model = model;
    this.values = new Map();
    this.$facts = byId("facts");
    this.$missing = byId("missing");
  }

  update() {
    const { about, rateIn, rateOut } = this.model;
    if (!about.name) return;
    const running = about.started_at !== null;
    document.title = `${about.name} · snowgreen`;
    write(byId("name"), about.name);
    const where = about.address ? `listens on ${about.address}` : "only dials";
    write(byId("life"), running ? `incarnation ${about.incarnation} · ${where}` : "not started");
    write(byId("version"), `snowgreen ${about.version}, process ${about.pid}`);
    const up = running ? this.model.now() - about.started_at : null;
    this.fact("Uptime", up === null ? "–" : duration(up), running ? `since ${clock(about.started_at)}` : "stopped");
    this.fact("Links", count(about.links), about.kept ? `${count(about.kept)} kept` : "none kept");
    this.fact("Traffic in", `${bytes(rateIn)}/s`, "payload, all links");
    this.fact("Traffic out", `${bytes(rateOut)}/s`, "payload, all links");
    this.fact("Loop stalls", count(about.stalls), `${about.stalled.toFixed(1)} s in all`, about.stalls > 0);
    this.fact("Failed", count(about.failed), "handshakes", about.failed > 0);
    this.fact("Refused", count(about.refused), "at the door", about.refused > 0);
    this.fact("Dropped", count(about.messages_dropped), "messages", about.messages_dropped > 0);
    this.missing(about);
  }

  missing({ missing, missing_count: all }) {
    const shown = missing.slice(0, MISSING);
    this.$missing.hidden = !all;
    const more = all > shown.length ? ` and ${count(all - shown.length)} more` : "";
    write(this.$missing, `Kept, and not linked: ${shown.join(", ")}${more}`);
  }

  fact(title, value, remark, bad = false) {
    if (!this.values.has(title)) {
      const tile = element("div", "fact");
      const [term, main, small] = [element("dt", "", title), element("dd", "main"), element("dd", "muted")];
      tile.append(term, main, small);
      this.$facts.append(tile);
      this.values.set(title, { tile, main, small });
    }
    const { tile, main, small } = this.values.get(title);
    write(main, value);
    write(small, remark);
    tile.classList.toggle("bad", bad);
  }
}

/** Failed handshakes by cause and address, the newest first. */
export class Failures {
  constructor(model) {
    this.model = model;
    this.rows = new Map();
    this.$list = byId("failures");
    this.$none = byId("failures-none");
    this.$count = byId("failures-count");
  }

  update() {
    const { changed, failures, about } = this.model;
    if (!changed.failures) return;
    changed.failures = false;
    const newest = [...failures.values()].reverse();
    const shown = newest.slice(0, FAILURES);
    const kept = new Map();
    for (const failure of shown) {
      const row = this.rows.get(failure.id) ?? this.make();
      this.fill(row, failure);
      kept.set(failure.id, row);
    }
    this.rows = kept;
    this.$list.replaceChildren(...[...kept.values()].map(({ node }) => node));
    this.$none.hidden = shown.length > 0;
    const more = newest.length > shown.length ? `, the newest ${FAILURES} shown` : "";
    write(this.$count, about.failed ? `${count(about.failed)}${more}` : "");
  }

  make() {
    const node = element("li");
    const part = (name) => node.appendChild(element("span", name));
    const row = { node, cause: part("cause"), number: part("number"), from: part("from"), at: part("at"), problem: part("problem") };
    row.cause.classList.add("pill");
    row.cause.dataset.tone = "warn";
    return row;
  }

  fill(row, failure) {
    write(row.cause, worded(failure.cause));
    write(row.number, `${count(failure.count)} ×`);
    const who = failure.claimed && failure.claimed !== failure.host ? failure.claimed : null;
    const from = failure.initiated ? `dialing ${who ?? failure.host}` : `from ${failure.host}`;
    write(row.from, !failure.initiated && who ? `${from}, claiming to be ${who}` : from);
    write(row.problem, failure.problem);
    write(row.at, clock(failure.at));
    row.at.title = exactly(failure.at);
  }
}

/** The events, the newest first, each in its own words. */
export class Events {
  constructor(model) {
    this.model = model;
    this.filter = "";
    this.$list = byId("events");
    this.$none = byId("events-none");
    this.$count = byId("events-count");
    this.$bad = byId("events-bad");
    this.$filter = byId("events-filter");
    this.$bad.addEventListener("change", () => this.sift());
    this.$filter.addEventListener("input", () => {
      this.filter = this.$filter.value.trim().toLowerCase();
      this.sift();
    });
  }

  sift() {
    this.model.changed.events = true;
    this.update();
  }

  update() {
    if (!this.model.changed.events) return;
    this.model.changed.events = false;
    const { events } = this.model;
    const wanted = events.filter((event) => (event.bad || !this.$bad.checked) && this.fits(event));
    const shown = wanted.slice(0, EVENTS);
    const stay = new Set(shown.map((event) => (event.node ??= this.make(event))));
    for (const node of [...this.$list.children]) if (!stay.has(node)) node.remove();
    let before = this.$list.firstChild;
    for (const node of stay) {
      if (node === before) before = before.nextSibling;
      else this.$list.insertBefore(node, before);
    }
    this.$none.hidden = shown.length > 0;
    write(this.$none, events.length ? "None of the events fits the filter." : "None so far.");
    write(this.$count, shown.length === events.length ? "" : `${plural(shown.length, "event")} of ${count(events.length)}`);
  }

  fits(event) {
    if (!this.filter) return true;
    event.search ??= `${event.kind} ${event.cause ?? ""} ${event.text}`.toLowerCase();
    return fits(event.search, this.filter);
  }

  make(event) {
    const [word, tone] = KINDS[event.kind] ?? [worded(event.kind), "quiet"];
    const node = element("li", event.bad ? "bad" : "");
    const at = element("time", "", event.at === null ? "" : clock(event.at));
    if (event.at !== null) at.dateTime = at.title = exactly(event.at);
    const left = event.kind === "down" && !event.bad;
    const kind = element("span", "pill", left ? "left" : word);
    kind.dataset.tone = left ? "quiet" : tone;
    const text = element("span", "text", event.text);
    node.append(at, kind, text);
    if (event.cause) node.append(element("span", "cause", worded(event.cause)));
    return node;
  }
}
