// Search in the whole text of the prompt, also in what is not laid out; all hits are counted.

import { counted } from "./numbers.js";
import { firstAbove } from "./numbers.js";

// The places of a text where `wanted` stands, whatever the case of its letters.
export function hitsIn(text, wanted) {
  if (wanted === "") return [];
  const pattern = new RegExp(wanted.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&"), "gi");
  return Array.from(text.matchAll(pattern), ({ index, 0: found }) => [index, index + found.length]);
}

export class Search {
  constructor(form, transcript, shading) {
    Object.assign(this, { form, transcript, shading, hits: [], at: -1 });
    this.input = form.querySelector("input");
    this.count = form.querySelector("output");
    this.input.addEventListener("input", () => this.run());
    form.addEventListener("submit", (event) => event.preventDefault());
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.step(event.shiftKey ? -1 : 1);
      else if (event.key === "Escape") this.leave();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    form.querySelector("#search-back").addEventListener("click", () => this.step(-1));
    form.querySelector("#search-on").addEventListener("click", () => this.step(1));
  }

  focus() {
    this.input.focus();
    this.input.select();
  }

  leave() {
    this.input.value = "";
    this.run();
    this.input.blur();
  }

  run() {
    this.hits = hitsIn(this.transcript.prompt.text, this.input.value);
    this.at = -1;
    this.shading.mark("hit", this.hits);
    this.shading.mark("current-hit", []);
    this.count.textContent =
      this.input.value === "" ? "" : counted(this.hits.length, "hit", "hits");
  }

  step(by) {
    if (this.hits.length === 0) return;
    const { length } = this.hits;
    this.at = this.at < 0 ? (by > 0 ? 0 : length - 1) : (this.at + by + length) % length;
    const hit = this.hits[this.at];
    this.count.textContent = `${this.at + 1} of ${counted(length, "hit", "hits")}`;
    this.shading.mark("current-hit", [hit]);
    const { begins } = this.transcript.prompt;
    const first = firstAbove(begins, hit[0]) - 1;
    this.transcript.goTo(first, firstAbove(begins, hit[1] - 1));
  }
}
