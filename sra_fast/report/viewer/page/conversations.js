// The data of the page as objects: prompts with their texts, and what each reply attends to.

import { codes, hasBlock, wholes } from "./blocks.js";

export const MEAN = -1; // a layer or head that is none: the mean over all

class Prompt {
  constructor(described, number) {
    Object.assign(this, described);
    this.number = number;
    this.known = null;
  }

  // Where every token begins in the text, and at the end where the last one ends.
  get begins() {
    if (this.known === null) {
      const lengths = wholes(`lengths-${this.number}`);
      this.known = new Uint32Array(lengths.length + 1);
      for (let i = 0; i < lengths.length; i += 1) this.known[i + 1] = this.known[i] + lengths[i];
    }
    return this.known;
  }

  get tokenCount() {
    return this.begins.length - 1;
  }

  slice(start, end) {
    return this.text.slice(this.begins[start], this.begins[end]);
  }
}

class Reply {
  constructor(described, prompt) {
    Object.assign(this, described);
    this.prompt = prompt;
  }

  get definitions() {
    return Object.keys(this.scores);
  }

  // The row of the numbers that are picked: 0 the mean, then layers, then heads, then both.
  row(layer, head) {
    const place = this.kept.indexOf(layer);
    if (layer === MEAN && head === MEAN) return 0;
    if (head === MEAN) return 1 + place;
    if (layer === MEAN) return 1 + this.kept.length + head;
    return 1 + this.kept.length + this.heads + place * this.heads + head;
  }

  // The codes of the attention on every token that the reply sees.
  attention(layer, head) {
    const row = this.row(layer, head);
    if (row === 0) return codes(`${this.name}-mean`);
    const all = codes(`${this.name}-rows`);
    return all.subarray((row - 1) * this.tokens, row * this.tokens);
  }

  // The kinds of sources that there are, those that were given first.
  kinds() {
    const all = ["sources", "sentences", "messages", "spans"];
    return all.filter((kind) => hasBlock(`${this.name}-${kind}`));
  }

  // Whether the reply sees anything of a source.
  sees({ ranges }) {
    return ranges.some(([start]) => start < this.tokens);
  }

  // Whether a source is the reply itself, or a part of it.
  owns({ ranges }) {
    return ranges.every(([start, end]) => this.start <= start && end <= this.end);
  }

  // A source of a kind: {name, role, ranges}; one without a name is called by its text.
  source(kind, index) {
    if (kind === "spans" || kind === "sources") {
      const [name, ranges] = this[kind][index];
      return { name, ranges };
    }
    const borders = wholes(`${kind}-${this.prompt.number}`);
    const role = kind === "messages" ? this.prompt.turns[index][0] : null;
    return { name: null, role, ranges: [[borders[2 * index], borders[2 * index + 1]]] };
  }

  // The codes of the attention on every source of a kind.
  attentionOn(kind, layer, head) {
    const all = codes(`${this.name}-${kind}`);
    const count = all.length / (1 + this.kept.length + this.heads * (1 + this.kept.length));
    const row = this.row(layer, head);
    return all.subarray(row * count, (row + 1) * count);
  }
}

// What the page holds: conversations by title, each with the replies of all its prompts.
export function readConversations() {
  const index = JSON.parse(document.getElementById("index").textContent);
  const byTitle = new Map();
  index.conversations.forEach((described, number) => {
    const prompt = new Prompt(described, number);
    prompt.replies = described.replies.map((one) => new Reply(one, prompt));
    if (!byTitle.has(prompt.title)) byTitle.set(prompt.title, []);
    byTitle.get(prompt.title).push(...prompt.replies);
  });
  return {
    titles: [...byTitle].filter(([, replies]) => replies.length > 0),
    definition: index.definition,
    leftOut: index.leftOut,
  };
}
