// Cut long texts into chunks: blocks of the page that are laid out and coloured when they are seen.

import { firstAbove } from "./numbers.js";

export const MOST = 400; // tokens
const LEAST = 200;

// How well a chunk can end before a token: 2 after a line break, 1 at a space, 0 elsewhere.
function quality(text, begins, token) {
  const at = begins[token];
  if (begins[token + 1] === at) return -1; // inside a character
  if (text[at - 1] === "\n") return 2;
  return /\s/.test(text[at - 1]) || /\s/.test(text[at]) ? 1 : 0;
}

// The token ranges of the chunks of tokens start … end.
export function cut(text, begins, start, end) {
  const chunks = [];
  let from = start;
  while (end - from > MOST) {
    let best = from + MOST;
    let found = -2;
    for (let token = from + MOST; token >= from + LEAST && found < 2; token -= 1) {
      const here = quality(text, begins, token);
      if (here > found) [best, found] = [token, here];
    }
    chunks.push([from, best]);
    from = best;
  }
  if (from < end) chunks.push([from, end]);
  return chunks;
}

const PICTURES = 0x2400; // of control characters, in their order

// What a text looks like on the page: line breaks are marked, control characters are pictures.
export function displayed(text) {
  return text
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (one) =>
      String.fromCharCode(PICTURES + one.charCodeAt(0)),
    )
    .replace(/\n/g, "↵\n");
}

// A chunk of a prompt with the element that shows it.
export class Chunk {
  constructor(prompt, start, end, element) {
    this.prompt = prompt;
    this.start = start;
    this.end = end;
    this.element = element;
    this.offset = prompt.begins[start];
    this.cells = null;
    const text = prompt.slice(start, end);
    this.breaks = [];
    for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) {
      this.breaks.push(at);
    }
    element.append(displayed(text));
    this.node = element.firstChild;
  }

  // The place in the text node of a place in the prompt's text; a line break has one more sign.
  placeOf(offset) {
    const inside = offset - this.offset;
    return inside + firstAbove(this.breaks, inside - 1);
  }

  // The place in the prompt's text of a place in the text node.
  offsetOf(place) {
    const marks = this.breaks.map((at, index) => at + index);
    return this.offset + place - firstAbove(marks, place - 1);
  }

  // Where the cells begin: tokens that make a character together are one. Then the chunk's end.
  cellStarts() {
    if (this.cells !== null) return this.cells;
    const { begins } = this.prompt;
    const text = this.prompt.slice(this.start, this.end);
    const inside = /[^\u0000-\u02ff]/.test(text) ? insideClusters(text) : new Set();
    this.cells = [];
    for (let token = this.start; token < this.end; token += 1) {
      const empty = begins[token] === begins[token + 1];
      if (token === this.start || !(empty || inside.has(begins[token] - this.offset))) {
        this.cells.push(token);
      }
    }
    // What comes before the first character and is empty belongs to it.
    while (this.cells.length > 1 && begins[this.cells[1]] === begins[this.start]) {
      this.cells.splice(1, 1);
    }
    this.cells.push(this.end);
    return this.cells;
  }

  // The cell [first token, token after the last] that holds a token.
  cellOf(token) {
    const starts = this.cellStarts();
    const index = firstAbove(starts, token) - 1;
    return [starts[index], starts[index + 1]];
  }

  // The range of the document that shows tokens start … end, as far as they are in this chunk.
  range(start, end) {
    const { begins } = this.prompt;
    return this.rangeOfText(
      begins[Math.max(start, this.start)],
      begins[Math.min(end, this.end)],
    );
  }

  // The same for places in the prompt's text.
  rangeOfText(from, to) {
    const last = this.prompt.begins[this.end];
    return new StaticRange({
      startContainer: this.node,
      startOffset: this.placeOf(Math.max(from, this.offset)),
      endContainer: this.node,
      endOffset: this.placeOf(Math.min(to, last)),
    });
  }
}

const segmenter = new Intl.Segmenter(undefined, { granularity: "grapheme" });

// The places inside a text that are not between two characters as people read them.
function insideClusters(text) {
  const inside = new Set();
  for (const { index, segment } of segmenter.segment(text)) {
    for (let at = 1; at < segment.length; at += 1) inside.add(index + at);
  }
  return inside;
}
