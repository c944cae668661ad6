// The page: what the stream brings goes into the model, and from there into each part of the page, in one frame.

import { Links } from "./links.js";
import { Mesh } from "./mesh.js";
import { Model } from "./model.js";
import { Events, Facts, Failures } from "./panels.js";
import { Stream } from "./stream.js";
import { clock, write } from "./text.js";

const model = new Model();
const links = new Links(model);
const parts = [new Facts(model), links, new Mesh(model, (peer) => links.look(peer)), new Failures(model), new Events(model)];

const pulse = document.getElementById("pulse");
const notice = document.getElementById("notice");
let state = "connecting";
let asked = false;

const NOTICES = {
  lost: () => `The connection to this node is lost. ${model.at ? `What is shown is from ${clock(model.at)}; trying` : "Trying"} again…`,
  full: () => "As many people look at this dashboard as may at once. Trying again in a few seconds…",
  refused: () => "The dashboard answers this browser no longer. Open the page again with ?token= behind its address.",
  stopped: () => "This node is stopped. The page goes on when it is started again.",
};
const PULSES = { live: ["live", "good"], connecting: ["connecting", "quiet"], stopped: ["stopped", "bad"], lost: ["reconnecting", "bad"] };

function tell(next) {
  const stopped = next === "live" && model.about.name && model.about.incarnation === null;
  state = stopped ? "stopped" : next;
  model.silent = next !== "live";
  const [word, tone] = PULSES[state] ?? PULSES.lost;
  write(pulse, word);
  pulse.dataset.tone = tone;
  document.body.dataset.state = state;
  notice.hidden = !(state in NOTICES);
  if (!notice.hidden) write(notice, NOTICES[state]());
}

function update() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    for (const part of parts) part.update();
  });
}

new Stream(
  "events",
  (change) => {
    model.apply(change);
    tell("live");
    update();
  },
  (next) => {
    if (next !== "live" && next !== state) tell(next);
  },
);
setInterval(() => state === "live" && update(), 1000);
