// The sources that get the most attention, as bars. Clicking one shows where it stands.

import { numbers } from "./blocks.js";
import { counted, shown } from "./numbers.js";

const MOST = 12;
const LONGEST = 90;
const NAMES = {
  messages: "messages",
  sentences: "sentences",
  spans: "named spans",
  sources: "sources of your own",
};

export function kindName(kind) {
  return NAMES[kind];
}

// What a source is called: its name, or the beginning of its text.
export function sourceName(prompt, { name, role, ranges }) {
  if (name !== null) return name;
  const text = ranges.map(([start, end]) => prompt.slice(start, end)).join(" … ");
  const line = text.replace(/\s+/g, " ").trim();
  const short = line.length > LONGEST ? `${line.slice(0, LONGEST)}…` : line || "↵";
  return role ? `${role}: ${short}` : short;
}

// Where the `count` largest codes stand, the largest first; of equal ones the first.
export function largest(codes, count) {
  const found = [];
  for (let index = 0; index < codes.length; index += 1) {
    if (found.length === count && codes[index] <= codes[found[count - 1]]) continue;
    let at = found.length;
    while (at > 0 && codes[found[at - 1]] < codes[index]) at -= 1;
    found.splice(at, 0, index);
    found.length = Math.min(found.length, count);
  }
  return found;
}

export class SourceBars {
  constructor(root, said, pick) {
    Object.assign(this, { root, said, pick });
  }

  show({ reply, kind, layer, head, source }) {
    this.root.replaceChildren();
    if (kind === null) {
      this.said.textContent = "There are no sources.";
      return;
    }
    const attention = reply.attentionOn(kind, layer, head);
    const table = numbers();
    const order = largest(attention, MOST);
    const most = table[attention[order[0]]] || 1;
    for (const index of order) {
      const on = table[attention[index]];
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.className = "bar";
      button.setAttribute("aria-pressed", String(index === source));
      const name = document.createElement("bdi");
      name.textContent = sourceName(reply.prompt, reply.source(kind, index));
      const value = document.createElement("span");
      value.className = "value";
      value.textContent = shown(on);
      const length = document.createElement("span");
      length.className = "length";
      length.style.width = `${(100 * on) / most}%`;
      button.append(name, value, length);
      button.addEventListener("click", () => this.pick(index === source ? null : index));
      item.append(button);
      this.root.append(item);
    }
    const all = counted(attention.length, "source", "sources");
    this.said.textContent =
      attention.length > MOST ? `The first ${MOST} of ${all}, by attention.` : `${all}, by attention.`;
  }
}
