// Numbers and times in words, and elements made without a line of markup: every text is a text node.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** An element with a class and a text. */
export function element(tag, name = "", text = "") {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== "") made.textContent = text;
  return made;
}

/** An SVG element with attributes. */
export function drawn(tag, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
}

/** Set a text only where it differs: writing costs a layout. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function count(number) {
  return number.toLocaleString("en");
}

export function plural(number, one, many = one + "s") {
  return `${count(number)} ${number === 1 ? one : many}`;
}

export function bytes(number) {
  let unit = 0;
  while (number >= 999.5 && unit < UNITS.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${unit === 0 || number >= 99.5 ? Math.round(number) : number.toFixed(1)} ${UNITS[unit]}`;
}

/** A duration in seconds, in its two largest units. */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  if (minutes) return `${minutes} min ${whole % 60} s`;
  return `${whole} s`;
}

/** A round trip in seconds, as milliseconds. */
export function roundTrip(seconds) {
  if (seconds === null) return "–";
  const ms = seconds * 1000;
  return `${ms < 1 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : count(Math.round(ms))} ms`;
}

/** Time of day; with the date where it is not today's. */
export function clock(at) {
  const moment = new Date(at * 1000);
  const time = moment.toLocaleTimeString("en-GB");
  if (moment.toDateString() === new Date().toDateString()) return time;
  return `${moment.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}

export function exactly(at) {
  return new Date(at * 1000).toISOString();
}

/** Whether every word of a filter is in a text, both in lower case. */
export function fits(text, filter) {
  return filter.split(/\s+/).every((word) => text.includes(word));
}
