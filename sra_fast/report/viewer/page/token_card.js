// What is known of the token under the pointer, or of the one that the keyboard went to.

import { counted, shown } from "./numbers.js";
import { rectangle } from "./transcript.js";

const LONGEST = 60; // characters of a piece that are shown
const MOST_PARTS = 8;

function quoted(text) {
  const visible = text.replace(/\n/g, "↵").replace(/\t/g, "⇥");
  return visible.length > LONGEST ? `${visible.slice(0, LONGEST)}…` : visible;
}

export class TokenCard {
  constructor(card, spoken, transcript, shading) {
    Object.assign(this, { card, spoken, transcript, shading });
    this.cell = null;
    this.spans = [];
    this.waiting = null;
    const { root } = transcript;
    root.addEventListener("pointermove", (event) => this.follow(event.clientX, event.clientY));
    root.addEventListener("pointerleave", () => this.hide());
    document.addEventListener("scroll", () => this.hide(), { passive: true });
  }

  follow(x, y) {
    if (this.waiting === null) {
      requestAnimationFrame(() => {
        const [atX, atY] = this.waiting;
        this.waiting = null;
        const token = this.transcript.tokenAt(atX, atY);
        if (token === null) this.hide();
        else this.show(token);
      });
    }
    this.waiting = [x, y];
  }

  // Show the card of a token; "speak" says it to those who cannot see it.
  show(token, speak = false) {
    const chunk = this.transcript.chunkOf(token);
    const [start, end] = chunk.cellOf(token);
    if (this.cell?.[0] === start && !this.card.hidden) return;
    this.cell = [start, end];
    const lines = this.lines(start, end);
    this.card.replaceChildren(
      ...lines.map(([name, text]) => {
        const line = document.createElement("div");
        line.className = name;
        line.textContent = text;
        return line;
      }),
    );
    this.card.hidden = false;
    this.place(chunk.range(start, end));
    const { begins } = this.transcript.prompt;
    this.shading.mark("cursor", [[begins[start], begins[end]]]);
    if (speak) this.spoken.textContent = lines.map(([, text]) => text).join(", ");
  }

  lines(start, end) {
    const { prompt } = this.transcript;
    const text = ["piece", `“${quoted(prompt.slice(start, end))}”`];
    const place = end - start === 1 ? `token ${start}` : `tokens ${start} to ${end - 1}`;
    const sum = this.shading.attention(start, end);
    const spans = this.spans.filter(([, ranges]) => ranges.some(([a, b]) => a < end && start < b));
    const among = spans.length ? [["spans", `in ${spans.map(([name]) => name).join(", ")}`]] : [];
    if (sum === null) return [text, ["place", place], ["value", "not seen by the reply"], ...among];
    const { codes, table } = this.shading;
    if (end - start === 1) {
      let above = 0;
      for (const code of codes) above += code > codes[start];
      const rank = `${counted(above, "token gets", "tokens get")} more, of ${counted(codes.length, "token", "tokens")}`;
      return [text, ["place", place], ["value", `attention ${shown(sum)}`], ["rank", rank], ...among];
    }
    const parts = codes.subarray(start, Math.min(end, start + MOST_PARTS));
    const each = [...parts].map((code) => shown(table[code]));
    const more = end - start > MOST_PARTS ? " + …" : "";
    return [
      text,
      ["place", place],
      ["value", `attention ≈ ${shown(sum, 2)} together`],
      ["rank", each.join(" + ") + more],
      ...among,
    ];
  }

  place(range) {
    const { left, bottom, top } = rectangle(range);
    const { offsetWidth, offsetHeight } = this.card;
    const x = Math.max(8, Math.min(left, innerWidth - offsetWidth - 8));
    const below = bottom + 6;
    const y = below + offsetHeight > innerHeight ? top - offsetHeight - 6 : below;
    this.card.style.left = `${x}px`;
    this.card.style.top = `${y}px`;
  }

  hide() {
    if (this.card.hidden) return;
    this.card.hidden = true;
    this.cell = null;
    this.shading.mark("cursor", []);
  }
}
