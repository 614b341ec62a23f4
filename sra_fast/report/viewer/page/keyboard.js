// What every key does; the help of the page (viewer.html) says the same.

import { MEAN } from "./conversations.js";

// The one after or before `value` in a list, which ends where it ends.
export function neighbour(list, value, by) {
  const at = list.indexOf(value);
  return list[Math.max(0, Math.min(list.length - 1, at + by))];
}

function typing(target) {
  return target instanceof Element && target.closest("input, select, textarea, dialog") !== null;
}

export function listenToKeys({ store, pickers, search, theme, help, moveCursor, goToReply }) {
  const reply = (by) =>
    store.change({ reply: neighbour(pickers.replies(), store.picked.reply, by) });
  const layer = (by) => {
    const { kept } = store.picked.reply;
    store.change({ layer: neighbour([MEAN, ...kept], store.picked.layer, by) });
  };
  const head = (by) => {
    const heads = Array.from({ length: store.picked.reply.heads }, (_, i) => i);
    store.change({ head: neighbour([MEAN, ...heads], store.picked.head, by) });
  };
  const definition = () => {
    const all = store.picked.reply.definitions;
    if (all.length === 0) return;
    store.change({ definition: all[(all.indexOf(store.picked.definition) + 1) % all.length] });
  };
  const keys = {
    ArrowLeft: () => reply(-1),
    ArrowRight: () => reply(1),
    "Shift+ArrowUp": () => layer(-1),
    "Shift+ArrowDown": () => layer(1),
    "Shift+ArrowLeft": () => head(-1),
    "Shift+ArrowRight": () => head(1),
    m: () => store.change({ layer: MEAN, head: MEAN }),
    ",": () => moveCursor(-1),
    ".": () => moveCursor(1),
    g: goToReply,
    d: definition,
    s: () => store.change({ scale: store.picked.scale === "log" ? "percentile" : "log" }),
    t: () => theme.set(!theme.dark),
    "/": () => search.focus(),
    "?": () => help.showModal(),
    Escape: () => {
      search.leave();
      store.change({ source: null, layer: MEAN, head: MEAN });
    },
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    const arrow = event.key.startsWith("Arrow");
    const act = keys[arrow && event.shiftKey ? `Shift+${event.key}` : event.key];
    if (act === undefined) return;
    event.preventDefault();
    act();
  });
}
