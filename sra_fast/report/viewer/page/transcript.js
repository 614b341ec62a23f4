// The prompt as a person reads it: messages with their roles, and what the template puts between.

import { Chunk, cut } from "./chunking.js";
import { firstAbove, shown } from "./numbers.js";

const SIGNS_A_LINE = 80; // to guess the height of what was never seen

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function guessHeight(target, text) {
  let lines = 0;
  for (const line of text.split("\n")) lines += 1 + Math.floor(line.length / SIGNS_A_LINE);
  target.style.setProperty("--lines", String(lines));
}

function roleName(role) {
  return role.charAt(0).toUpperCase() + role.slice(1);
}

// What an observer said last of each element: a busy page hears several frames at once.
export function latest(entries) {
  return new Map(entries.map(({ target, isIntersecting }) => [target, isIntersecting]));
}

// Of several texts that are shown one after another, the pieces: messages and what is between.
function parts(prompt) {
  const found = [];
  let at = 0;
  for (const [role, start, end] of prompt.turns) {
    found.push({ before: [at, start], role, start, end });
    at = end;
  }
  if (at < prompt.tokenCount) found.push({ before: [at, prompt.tokenCount], role: null });
  return found;
}

export class Transcript {
  constructor(root, onSeen) {
    this.root = root;
    this.chunks = [];
    this.visible = new Set();
    this.onSeen = onSeen;
    const rootMargin = "200px 0px";
    this.ofSections = new IntersectionObserver((entries) => this.nearing(entries), { rootMargin });
    this.ofChunks = new IntersectionObserver((entries) => this.seen(entries), { rootMargin });
  }

  show(prompt, pick) {
    this.ofSections.disconnect();
    this.ofChunks.disconnect();
    this.visible.clear();
    this.chunks = [];
    this.goal = null;
    this.prompt = prompt;
    this.buttons = new Map();
    this.sections = parts(prompt).map((part) => [
      this.section(part, pick),
      part.start ?? part.before[0],
    ]);
    this.root.replaceChildren(...this.sections.map(([section]) => section));
    this.byElement = new Map(this.chunks.map((chunk) => [chunk.element, chunk]));
    this.starts = this.chunks.map((chunk) => chunk.start);
    for (const [section] of this.sections) this.ofSections.observe(section);
  }

  section({ before, role, start, end }, pick) {
    const section = element("section", role === null ? "turn rest" : "turn");
    guessHeight(section, this.prompt.slice(before[0], role === null ? before[1] : end));
    if (before[0] < before[1]) {
      const strip = element("div", "between");
      this.addChunks(strip, ...before);
      section.append(strip);
    }
    if (role === null) return section;
    const message = element("div", "message");
    message.dataset.role = role;
    const head = element("h3", "", roleName(role));
    for (const reply of this.prompt.replies) {
      if (reply.start >= start && reply.start < Math.max(end, start + 1)) {
        head.append(this.replyButton(reply, pick));
        message.classList.add("scored");
      }
    }
    message.append(head);
    this.addChunks(message, start, end);
    section.append(message);
    return section;
  }

  replyButton(reply, pick) {
    const button = element("button", "reply");
    button.type = "button";
    button.addEventListener("click", () => pick(reply));
    this.buttons.set(reply, button);
    return button;
  }

  // Show which reply is picked, what it does not see, and the scores of all.
  mark(picked, definition) {
    for (const [reply, button] of this.buttons) {
      const label = reply.label ? ` · ${reply.label}` : "";
      const score = definition === null ? "" : ` · ${shown(reply.scores[definition], 4)}`;
      button.textContent = `reply ${reply.turn}${label}${score}`;
      button.setAttribute("aria-pressed", String(reply === picked));
      button.closest(".message").classList.toggle("picked", reply === picked);
    }
    for (const [section, first] of this.sections) {
      section.classList.toggle("after", first >= picked.tokens);
    }
  }

  addChunks(parent, start, end) {
    for (const [from, to] of cut(this.prompt.text, this.prompt.begins, start, end)) {
      const chunk = new Chunk(this.prompt, from, to, element("div", "chunk"));
      guessHeight(chunk.element, chunk.node.data);
      this.chunks.push(chunk);
      parent.append(chunk.element);
    }
  }

  // Chunks are watched while their section is near: of what is inside a section that is not laid
  // out, no observer says that it went out of sight.
  nearing(entries) {
    const went = [];
    for (const [target, isIntersecting] of latest(entries)) {
      for (const element of target.querySelectorAll(".chunk")) {
        if (isIntersecting) {
          this.ofChunks.observe(element);
        } else {
          this.ofChunks.unobserve(element);
          went.push(this.byElement.get(element));
        }
      }
    }
    this.change([], went);
  }

  seen(entries) {
    const chunks = (wanted) =>
      [...latest(entries)]
        .filter(([, isIntersecting]) => isIntersecting === wanted)
        .map(([target]) => this.byElement.get(target));
    this.change(chunks(true), chunks(false));
  }

  change(seen, unseen) {
    const came = seen.filter((chunk) => chunk && !this.visible.has(chunk));
    const went = unseen.filter((chunk) => this.visible.has(chunk));
    came.forEach((chunk) => this.visible.add(chunk));
    went.forEach((chunk) => this.visible.delete(chunk));
    if (came.length || went.length) this.onSeen(came, went);
  }

  chunkOf(token) {
    return this.chunks[firstAbove(this.starts, token) - 1];
  }

  // Whether the first line of what begins with a token is in the window, below `above`.
  shows(token, above) {
    const { top, bottom } = rectangle(this.chunkOf(token).range(token, token + 1));
    return top >= above && bottom <= innerHeight;
  }

  // Scroll to a range of tokens. Heights above are guesses until they are laid out, so again.
  async goTo(start, end) {
    const chunk = this.chunkOf(start);
    const goal = (this.goal = {});
    chunk.element.scrollIntoView({ block: "center" });
    for (let tries = 0; tries < 3; tries += 1) {
      await new Promise((done) => requestAnimationFrame(done));
      if (this.goal !== goal) return; // the reader went elsewhere since
      const { top, height } = rectangle(chunk.range(start, Math.min(end, chunk.end)));
      scrollBy({ top: top - (innerHeight - height) / 2, behavior: "instant" });
    }
    await new Promise((done) => requestAnimationFrame(done)); // its scroll events come first
  }

  // The token at a point of the window, or null.
  tokenAt(x, y) {
    const [node, place] = caret(x, y);
    const chunk = this.byElement.get(node?.parentNode);
    if (chunk === undefined) return null;
    for (const at of [place, place - 1]) {
      if (at < 0 || at >= chunk.node.length || !holds(chunk.node, at, x, y)) continue;
      const token = firstAbove(this.prompt.begins, chunk.offsetOf(at)) - 1;
      return Math.min(token, chunk.end - 1);
    }
    return null;
  }
}

function caret(x, y) {
  if (document.caretPositionFromPoint) {
    const found = document.caretPositionFromPoint(x, y);
    return found ? [found.offsetNode, found.offset] : [null, 0];
  }
  const found = document.caretRangeFromPoint(x, y);
  return found ? [found.startContainer, found.startOffset] : [null, 0];
}

// Whether the sign at a place of a text node is shown at a point; halves of a pair count as one.
function holds(node, at, x, y) {
  const range = document.createRange();
  const low = /[\udc00-\udfff]/.test(node.data[at]);
  const high = /[\ud800-\udbff]/.test(node.data[at]);
  range.setStart(node, low ? at - 1 : at);
  range.setEnd(node, high ? at + 2 : at + 1);
  return [...range.getClientRects()].some(
    ({ left, right, top, bottom }) => left <= x && x <= right && top <= y && y <= bottom,
  );
}

// Where a static range is in the window.
export function rectangle(range) {
  const live = document.createRange();
  live.setStart(range.startContainer, range.startOffset);
  live.setEnd(range.endContainer, range.endOffset);
  return live.getClientRects()[0] ?? live.startContainer.parentNode.getBoundingClientRect();
}
