// Colour the tokens that can be seen. Colours are CSS highlights: ranges of the text, no elements,
// so that a long text stays as light as it is, and the browser shapes its words as one.

import { MEAN } from "./conversations.js";
import { numbers } from "./blocks.js";
import { adoptPalette, shadeName, STEPS } from "./palette.js";
import { scaleOfCodes, stepOf } from "./scale.js";

const MARKS = ["span", "source", "hit", "current-hit", "cursor"]; // those on top come last

export function canColour() {
  return typeof Highlight === "function" && "highlights" in CSS;
}

function highlight(name, priority) {
  const made = new Highlight();
  made.priority = priority;
  CSS.highlights.set(name, made);
  return made;
}

export class Shading {
  constructor(transcript) {
    this.transcript = transcript;
    this.codes = new Uint16Array(0);
    this.table = numbers();
    this.borders = null;
    this.painted = new Map();
    this.marked = new Map(MARKS.map((name) => [name, []]));
    if (!canColour()) return;
    adoptPalette();
    this.steps = Array.from({ length: STEPS }, (_, step) => highlight(shadeName(step), 0));
    this.marks = new Map(MARKS.map((name, place) => [name, highlight(name, place + 1)]));
  }

  // Take the attention of a reply, and colour what is seen by it.
  take(reply, layer = MEAN, head = MEAN, kind = "log") {
    this.codes = reply.attention(layer, head);
    this.borders = scaleOfCodes(kind, this.codes);
    this.repaint();
  }

  // The attention on a cell: on its tokens together; null beyond what the reply sees.
  attention(start, end) {
    if (start >= this.codes.length) return null;
    let sum = 0;
    const last = Math.min(end, this.codes.length);
    for (let token = start; token < last; token += 1) sum += this.table[this.codes[token]];
    return sum;
  }

  repaint() {
    if (!canColour()) return;
    for (const step of this.steps) step.clear();
    this.painted.clear();
    this.see([...this.transcript.visible], []);
  }

  // Colour chunks that came into sight, and forget those that went out of it.
  see(came, went) {
    if (!canColour() || this.borders === null) return;
    for (const chunk of went) {
      for (const [step, range] of this.painted.get(chunk) ?? []) step.delete(range);
      this.painted.delete(chunk);
    }
    for (const chunk of came) this.painted.set(chunk, this.paint(chunk));
    for (const name of MARKS) this.refresh(name);
  }

  paint(chunk) {
    const cells = chunk.cellStarts();
    const steps = [];
    for (let i = 0; i < cells.length - 1; i += 1) {
      steps.push(stepOf(this.borders, this.attention(cells[i], cells[i + 1]) ?? 0));
    }
    const painted = [];
    for (let first = 0; first < steps.length; ) {
      let last = first + 1; // equal neighbours are one range
      while (last < steps.length && steps[last] === steps[first]) last += 1;
      if (steps[first] >= 0) {
        const range = chunk.range(cells[first], cells[last]);
        this.steps[steps[first]].add(range);
        painted.push([this.steps[steps[first]], range]);
      }
      first = last;
    }
    return painted;
  }

  // Mark ranges of the prompt's text, sorted: [[from, to], …].
  mark(name, ranges) {
    this.marked.set(name, ranges);
    if (canColour()) this.refresh(name);
  }

  refresh(name) {
    const mark = this.marks.get(name);
    const ranges = this.marked.get(name);
    mark.clear();
    if (ranges.length === 0) return;
    for (const chunk of this.transcript.visible) {
      const { begins } = chunk.prompt;
      const [from, to] = [begins[chunk.start], begins[chunk.end]];
      for (const [start, end] of overlapping(ranges, from, to)) {
        mark.add(chunk.rangeOfText(start, end));
      }
    }
  }
}

// Of sorted ranges, those that share something with from … to.
function overlapping(ranges, from, to) {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ranges[middle][1] > from) high = middle;
    else low = middle + 1;
  }
  const found = [];
  for (let i = low; i < ranges.length && ranges[i][0] < to; i += 1) found.push(ranges[i]);
  return found;
}
