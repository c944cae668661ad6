// What the node has told: changes come in, and are put together here. Nothing here touches the page.

const EVENTS = 500;
/** Round trips that are remembered of each link, for its sparkline. */
const TRIPS = 40;
/** Seconds for which a link that went down is still shown. */
const FAREWELL = 8;

export class Model {
  constructor() {
    this.silent = false;
    this.clear();
  }

  clear() {
    this.about = {};
    this.links = new Map();
    this.gone = new Map();
    this.failures = new Map();
    this.mesh = new Map();
    this.events = [];
    this.at = 0;
    this.fullAt = 0;
    this.busy = new Set();
    this.rateIn = 0;
    this.rateOut = 0;
    this.changed = { links: true, mesh: true, failures: true, events: true, about: true };
  }

  /** Seconds since the epoch, by the node's clock; while nothing is heard of it, it stands still. */
  now() {
    return this.at && this.at + (this.silent ? 0 : (performance.now() - this.heardAt) / 1000);
  }

  apply(change) {
    if (change.reset) this.begin(change);
    this.at = change.at;
    this.heardAt = performance.now();
    if (change.node) {
      Object.assign(this.about, change.node);
      this.changed.about = this.changed.mesh = true;
    }
    for (const serial of change.down ?? []) this.down(serial);
    for (const row of change.up ?? []) this.up(row);
    if (change.full) this.move(change);
    for (const [peer, others] of Object.entries(change.mesh ?? {})) {
      if (others === null) this.mesh.delete(peer);
      else this.mesh.set(peer, others);
      this.changed.mesh = true;
    }
    for (const id of change.forgotten ?? []) this.failures.delete(id);
    for (const failure of change.failures ?? []) {
      this.failures.delete(failure.id);
      this.failures.set(failure.id, failure);
    }
    if (change.failures || change.forgotten) this.changed.failures = true;
    if (change.events) {
      this.events = [...change.events.toReversed(), ...this.events].slice(0, EVENTS);
      this.changed.events = true;
    }
  }

  begin(change) {
    // After a reconnect the same links are known again by their serials, and keep their sparklines.
    const [life, links] = [this.about.incarnation, this.links];
    this.clear();
    this.columns = change.columns;
    this.moving = change.moving;
    this.former = change.node && change.node.incarnation === life ? links : new Map();
  }

  up(row) {
    const link = Object.fromEntries(this.columns.map((name, at) => [name, row[at]]));
    const former = this.former.get(link.serial);
    link.trips = former ? former.trips : [];
    link.rateIn = link.rateOut = 0;
    link.direction = link.initiated ? "dialed" : "accepted";
    link.search = `${link.peer} ${link.address} ${link.form} ${link.direction}`.toLowerCase();
    this.trip(link);
    this.links.set(link.serial, link);
    for (const [serial, other] of this.gone) if (other.peer === link.peer) this.gone.delete(serial);
    this.changed.links = this.changed.mesh = true;
  }

  down(serial) {
    const link = this.links.get(serial);
    if (!link) return;
    this.links.delete(serial);
    this.busy.delete(link);
    link.state = "down";
    link.rateIn = link.rateOut = 0;
    link.goneAt = this.at;
    this.gone.set(serial, link);
    this.changed.links = this.changed.mesh = true;
  }

  /** Counts that have moved, and rates from them; what has not moved has none. */
  move(change) {
    const seconds = change.at - this.fullAt;
    const before = this.busy;
    this.busy = new Set();
    for (const row of change.links ?? []) {
      const link = this.links.get(row[0]);
      if (!link) continue;
      const [into, out, rtt] = [link.bytes_received, link.bytes_sent, link.rtt];
      this.moving.forEach((name, at) => (link[name] = row[at + 1]));
      if (link.rtt !== rtt) this.trip(link);
      if (this.fullAt && seconds > 0) {
        link.rateIn = Math.max(0, link.bytes_received - into) / seconds;
        link.rateOut = Math.max(0, link.bytes_sent - out) / seconds;
        if (link.rateIn || link.rateOut) this.busy.add(link);
      }
    }
    this.rateIn = this.rateOut = 0;
    for (const link of before) if (!this.busy.has(link)) link.rateIn = link.rateOut = 0;
    for (const link of this.busy) {
      this.rateIn += link.rateIn;
      this.rateOut += link.rateOut;
    }
    for (const [serial, link] of this.gone) if (this.at - link.goneAt > FAREWELL) this.gone.delete(serial);
    this.fullAt = change.at;
    this.changed.links = this.changed.about = true;
  }

  trip(link) {
    if (link.rtt === null || link.trips.at(-1) === link.rtt) return;
    link.trips.push(link.rtt);
    if (link.trips.length > TRIPS) link.trips.shift();
    link.drawn = false;
  }

  /** Live links, and those that went down a moment ago. */
  rows() {
    return [...this.links.values(), ...this.gone.values()];
  }
}
