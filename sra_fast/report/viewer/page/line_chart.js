// The score of every reply of a conversation by its turn: a line whose points are picked.

import { shown } from "./numbers.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [340, 150];
const [LEFT, RIGHT, TOP, BOTTOM] = [52, 10, 10, 24];
const RATIO_FOR_LOG = 30; // between the highest and the lowest score

function draw(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function axis(scores) {
  const known = scores.filter((score) => score !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const logarithmic = low > 0 && high / low > RATIO_FOR_LOG;
  const of = logarithmic ? Math.log10 : (score) => score;
  const [from, to] = logarithmic || low === high ? [of(low), of(high)] : [Math.min(0, low), high];
  const height = HEIGHT - TOP - BOTTOM;
  const y = (score) =>
    to === from ? TOP + height / 2 : TOP + height * (1 - (of(score) - from) / (to - from));
  const middle = logarithmic ? 10 ** ((from + to) / 2) : (from + to) / 2;
  const ticks = low === high ? [low] : [logarithmic ? low : from, middle, high];
  return { y, ticks, logarithmic };
}

export class LineChart {
  constructor(root, title, pick) {
    Object.assign(this, { root, title, pick });
  }

  show(replies, definition, picked) {
    this.title.textContent = definition === null ? "" : `Score by turn (${definition})`;
    const points = replies.filter((reply) => (reply.scores[definition] ?? null) !== null);
    this.root.replaceChildren();
    if (points.length === 0) {
      this.root.textContent = "There are no scores.";
      return;
    }
    const { y, ticks, logarithmic } = axis(points.map((reply) => reply.scores[definition]));
    if (logarithmic) this.title.textContent += ", log";
    const turns = points.map((reply) => reply.turn);
    const [first, last] = [Math.min(...turns), Math.max(...turns)];
    const wide = WIDTH - LEFT - RIGHT;
    const x = (reply) =>
      first === last ? LEFT + wide / 2 : LEFT + (wide * (reply.turn - first)) / (last - first);
    const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img" });
    svg.setAttribute("aria-label", `${this.title.textContent}, ${points.length} replies`);
    for (const tick of ticks) {
      svg.append(draw("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }));
      svg.append(draw("text", { class: "tick", x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, shown(tick, 2)));
    }
    for (const turn of new Set([first, last])) {
      const at = first === last ? LEFT + wide / 2 : turn === first ? LEFT : WIDTH - RIGHT;
      svg.append(draw("text", { class: "tick", x: at, y: HEIGHT - 6, "text-anchor": turn === first ? "start" : "end" }, `turn ${turn}`));
    }
    const path = points.map((reply) => `${x(reply)},${y(reply.scores[definition])}`);
    svg.append(draw("polyline", { class: "line", points: path.join(" ") }));
    for (const reply of points) {
      const [cx, cy] = [x(reply), y(reply.scores[definition])];
      const here = reply === picked;
      const point = draw("circle", { class: here ? "point picked" : "point", cx, cy, r: here ? 6 : 3.5 });
      point.append(draw("title", {}, `turn ${reply.turn}: ${shown(reply.scores[definition], 4)}`));
      svg.append(point);
    }
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      const scale = WIDTH / box.width;
      const [atX, atY] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
      const far = (reply) =>
        (x(reply) - atX) ** 2 + ((y(reply.scores[definition]) - atY) / 10) ** 2;
      this.pick(points.reduce((best, reply) => (far(reply) < far(best) ? reply : best)));
    });
    this.root.append(svg);
  }
}
