// The sources that get the most attention, as bars. Clicking one shows where it stands. What comes
// after the reply is left out, and the reply itself is not ranked.

import { numbers } from "./blocks.js";
import { counted, shown } from "./numbers.js";

const MOST = 12;
const LONGEST = 90;
const NAMES = {
  messages: "messages",
  sentences: "sentences",
  spans: "named spans",
  sources: "given sources",
};

export function kindName(kind) {
  return NAMES[kind];
}

function beginning(prompt, ranges) {
  const text = ranges.map(([start, end]) => prompt.slice(start, end)).join(" … ");
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > LONGEST ? `${line.slice(0, LONGEST)}…` : line || "↵";
}

// What a source is called: its name, or the beginning of its text.
export function sourceName(prompt, { name, role, ranges }) {
  if (name !== null) return name;
  return role ? `${role}: ${beginning(prompt, ranges)}` : beginning(prompt, ranges);
}

// Where the `count` largest of the listed codes stand, the largest first; of equal ones the first.
export function largest(codes, count, listed = () => true) {
  const found = [];
  for (let index = 0; index < codes.length; index += 1) {
    if (!listed(index)) continue;
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
    let [count, own] = [0, 0];
    const order = largest(attention, MOST, (index) => {
      const one = reply.source(kind, index);
      if (!reply.sees(one)) return false;
      // As in a result's table, a reply is no source of its own; names are the user's to choose.
      const itself = one.name === null && reply.owns(one);
      if (itself) own += table[attention[index]];
      else count += 1;
      return !itself;
    });
    const most = table[attention[order[0]]] || 1;
    for (const index of order) {
      const on = table[attention[index]];
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.className = kind === "sources" ? "bar given" : "bar";
      button.setAttribute("aria-pressed", String(index === source));
      const name = document.createElement("bdi");
      const one = reply.source(kind, index);
      name.textContent = sourceName(reply.prompt, one);
      if (kind === "sources") name.textContent += `: ${beginning(reply.prompt, one.ranges)}`;
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
    const all = counted(count, "source", "sources");
    const first = count > MOST ? `The first ${MOST} of ${all}, by attention.` : `${all}, by attention.`;
    const itself = own > 0 ? ` On the reply itself: ≈ ${shown(own, 2)}.` : "";
    this.said.textContent = first + itself;
  }
}
