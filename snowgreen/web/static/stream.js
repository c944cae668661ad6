// The event stream: opened, watched, and opened again when it is lost.

/** Seconds without a word, after which the stream counts as lost: the node says something every second. */
const SILENCE = 8;
/** Seconds until the next try, where the browser does not try by itself. */
const AGAIN = 5;

export class Stream {
  /** @param heard called with each change. @param told called with the state, and a reason. */
  constructor(url, heard, told) {
    this.url = url;
    this.heard = heard;
    this.told = told;
    this.open();
    setInterval(() => this.watch(), 1000);
    document.addEventListener("visibilitychange", () => this.watch());
  }

  open() {
    this.source?.close();
    clearTimeout(this.again);
    this.last = performance.now();
    const source = (this.source = new EventSource(this.url));
    source.addEventListener("change", (event) => {
      this.last = performance.now();
      this.told("live");
      this.heard(JSON.parse(event.data));
    });
    source.addEventListener("error", () => {
      if (source !== this.source) return;
      this.told("lost");
      if (source.readyState === EventSource.CLOSED) this.ask();
    });
  }

  watch() {
    if (document.hidden || performance.now() - this.last < SILENCE * 1000) return;
    this.told("lost");
    this.open();
  }

  /** The browser has given up, and does not say why: ask. */
  async ask() {
    this.last = Infinity; // until then there is nothing to watch
    let reason;
    try {
      const { status } = await fetch(this.url, { method: "HEAD", cache: "no-store" });
      reason = { 401: "refused", 403: "refused", 503: "full" }[status];
    } catch {
      // Nobody answers: the connection is lost, as was said.
    }
    if (reason) this.told(reason);
    this.again = setTimeout(() => this.open(), AGAIN * 1000);
  }
}
