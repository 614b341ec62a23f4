// The menus on top: each shows what is picked, and picks.

import { MEAN } from "./conversations.js";
import { kindName } from "./source_bars.js";

function fill(select, options, chosen) {
  const names = JSON.stringify(options);
  if (select.dataset.names !== names) {
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    select.dataset.names = names;
  }
  select.value = chosen === null ? "" : String(chosen);
  select.closest("label").hidden = options.length < 2;
}

function replyName(reply) {
  return `${reply.turn}${reply.label ? ` · ${reply.label}` : ""}`;
}

export class Pickers {
  constructor(store, titles) {
    this.store = store;
    this.titles = titles;
    const listen = (name, act) =>
      this.select(name).addEventListener("change", (event) => act(event.target.value));
    listen("title", (value) => store.change({ reply: titles[Number(value)][1][0] }));
    listen("reply", (value) => store.change({ reply: this.replies()[Number(value)] }));
    listen("layer", (value) => store.change({ layer: Number(value) }));
    listen("head", (value) => store.change({ head: Number(value) }));
    listen("definition", (value) => store.change({ definition: value }));
    listen("scale", (value) => store.change({ scale: value }));
    listen("sources", (value) => store.change({ kind: value, source: null }));
  }

  select(name) {
    return document.getElementById(`pick-${name}`);
  }

  // The replies of the conversation that the picked one is in.
  replies() {
    return this.titles.find(([, replies]) => replies.includes(this.store.picked.reply))[1];
  }

  show({ reply, layer, head, definition, kind, scale }) {
    const title = this.titles.findIndex(([, replies]) => replies.includes(reply));
    fill(this.select("title"), this.titles.map(([name], i) => [i, name]), title);
    const replies = this.replies();
    fill(this.select("reply"), replies.map((one, i) => [i, replyName(one)]), replies.indexOf(reply));
    const layers = reply.kept.map((place) => [place, String(reply.layers[place])]);
    fill(this.select("layer"), [[MEAN, "mean"], ...layers], layer);
    const heads = Array.from({ length: reply.heads }, (_, i) => [i, String(i)]);
    fill(this.select("head"), [[MEAN, "mean"], ...heads], head);
    fill(this.select("definition"), reply.definitions.map((name) => [name, name]), definition);
    fill(this.select("sources"), reply.kinds().map((name) => [name, kindName(name)]), kind);
    this.select("scale").value = scale;
  }
}
