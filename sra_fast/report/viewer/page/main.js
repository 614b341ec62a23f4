// Connect the parts of the page: what is picked goes to all that show it.

import { numbers } from "./blocks.js";
import { MEAN, readConversations } from "./conversations.js";
import { HeatMap } from "./heat_map.js";
import { listenToKeys } from "./keyboard.js";
import { drawLegend } from "./legend.js";
import { LineChart } from "./line_chart.js";
import { shown } from "./numbers.js";
import { Pickers } from "./pickers.js";
import { Search } from "./search.js";
import { canColour, Shading } from "./shading.js";
import { SourceBars, sourceName } from "./source_bars.js";
import { Store } from "./store.js";
import { Theme } from "./theme.js";
import { TokenCard } from "./token_card.js";
import { Transcript } from "./transcript.js";

const byId = (name) => document.getElementById(name);
const data = readConversations();
const firstReply = data.titles[0][1][0];

// What of the picked there is in a reply too, so that going through replies keeps the view.
function fitting(picked, reply) {
  const kinds = reply.kinds();
  const usual = ["sources", "sentences", "spans", "messages"].find((one) => kinds.includes(one));
  return {
    reply,
    layer: reply.kept.includes(picked.layer) ? picked.layer : MEAN,
    head: picked.head < reply.heads ? picked.head : MEAN,
    definition: reply.definitions.includes(picked.definition)
      ? picked.definition
      : (reply.definitions[0] ?? null),
    kind: kinds.includes(picked.kind) ? picked.kind : (usual ?? null),
    scale: picked.scale,
    source: null,
  };
}

const start = { layer: MEAN, head: MEAN, definition: data.definition, kind: null, scale: "log" };
export const store = new Store(fitting(start, firstReply));
const pickReply = (reply) => store.change(reply === store.picked.reply ? {} : fitting(store.picked, reply));

export const transcript = new Transcript(byId("transcript"), (came, went) => shading.see(came, went));
const shading = new Shading(transcript);
const card = new TokenCard(byId("card"), byId("spoken"), transcript, shading);
const search = new Search(byId("search"), transcript, shading);
const pickers = new Pickers(store, data.titles);
const line = new LineChart(byId("line"), byId("line-title"), pickReply);
const heatParts = {
  canvas: byId("heat"),
  title: byId("heat-title"),
  scale: byId("heat-scale"),
  said: byId("heat-said"),
};
export const heat = new HeatMap(heatParts, (layer, head) => {
  const kept = store.picked.reply.kept.includes(layer);
  if (kept) store.change({ layer, head: head < store.picked.reply.heads ? head : MEAN });
});
const bars = new SourceBars(byId("bars"), byId("bars-said"), (source) => store.change({ source }));

// The map of layers and heads: of the source that is picked, of the first span, or of the scores.
function heatOf({ reply, kind, source, definition }) {
  const { kept, heads, layers } = reply;
  if (source !== null && kept.length > 0) {
    const name = sourceName(reply.prompt, reply.source(kind, source));
    const title = `Attention on “${name.slice(0, 40)}${name.length > 40 ? "…" : ""}”`;
    const across = heads ? Array.from({ length: heads }, (_, head) => head) : [MEAN];
    const table = numbers();
    const rows = layers.map((_, layer) =>
      across.map((head) =>
        kept.includes(layer) ? table[reply.attentionOn(kind, layer, head)[source]] : null,
      ),
    );
    return { title, rows, layers, heads: heads > 0 };
  }
  if (reply.heat !== null) {
    const name = reply.spans[0]?.[0] ?? "first span";
    return { title: `Attention on “${name}”`, rows: reply.heat, layers, heads: true };
  }
  const scores = reply.layerScores[definition];
  if (!scores?.length) return null;
  return { title: `Score by layer (${definition})`, rows: scores.map((one) => [one]), layers, heads: false };
}

function showHeat(picked) {
  const map = heatOf(picked);
  const picks = picked.reply.kept.length > 0;
  heat.show(map && { ...map, picks }, picked.layer, picked.head, theme.dark);
  byId("heat-note").textContent = heat.map === null ? "" : notKept(picked.reply);
}

// What of layers and heads cannot be picked, and what to do about it.
function notKept({ kept, heads }) {
  if (heads > 0) return "";
  const what = kept.length > 0 ? "heads" : "layers and heads";
  const picks = kept.length > 0 ? "a click picks the layer" : "a click picks nothing";
  const why = data.leftOut.length > 0 ? "are left out of this page" : "were not kept (--profile heads keeps them)";
  return `Single ${what} ${why}: ${picks}.`;
}

function showSummary({ reply, definition, layer, head }) {
  const title = document.createElement("h2");
  title.textContent = `Reply ${reply.turn}${reply.label ? ` · ${reply.label}` : ""}`;
  const scores = document.createElement("dl");
  for (const name of reply.definitions) {
    const [term, value] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    value.textContent = shown(reply.scores[name], 4);
    term.className = value.className = name === definition ? "picked" : "";
    scores.append(term, value);
  }
  const what = document.createElement("p");
  const layerName = layer === MEAN ? "mean over layers" : `layer ${reply.layers[layer]}`;
  const headName = head === MEAN ? "mean over heads" : `head ${head}`;
  what.className = "shown";
  what.textContent = `Shown: ${layerName}, ${headName}`;
  const over = document.createElement("p");
  over.className = "over";
  over.textContent = "The scores are over all layers and heads.";
  byId("summary").replaceChildren(title, scores, ...(reply.definitions.length ? [over] : []), what);
}

// Token ranges as sorted ranges of the text.
function textRanges({ begins }, ranges) {
  return ranges.map(([from, to]) => [begins[from], begins[to]]).sort((a, b) => a[0] - b[0]);
}

function showSource({ reply, kind, source }, scroll) {
  const ranges = source === null ? [] : reply.source(kind, source).ranges;
  shading.mark("source", textRanges(reply.prompt, ranges));
  if (scroll && ranges.length > 0) transcript.goTo(...ranges[0]);
}

function shade({ reply, layer, head, scale }) {
  shading.take(reply, layer, head, scale);
  drawLegend(byId("legend"), shading.borders, theme.dark);
}

function showReply(picked, changed) {
  const { reply, definition } = picked;
  const before = transcript.prompt;
  const other = before !== reply.prompt;
  if (other) transcript.show(reply.prompt, pickReply);
  if (other && changed) scrollTo(0, 0);
  card.hide();
  card.spans = reply.spans;
  transcript.mark(reply, definition);
  const spans = reply.spans.flatMap(([, ranges]) => ranges);
  shading.marked.set("span", textRanges(reply.prompt, spans));
  shading.marked.set("source", []);
  shade(picked);
  if (other && changed) search.run();
  // Another conversation is shown from its beginning.
  if (changed?.has("reply") && before.title === reply.prompt.title) {
    const top = byId("bar").getBoundingClientRect().bottom;
    if (!transcript.shows(reply.start, top)) transcript.goTo(reply.start, reply.end);
  }
}

let cursor = null;

async function moveCursor(by) {
  const { reply } = store.picked;
  const from = card.cell ?? cursor ?? [reply.start - Number(by > 0), reply.start];
  const token = by > 0 ? from[1] : from[0] - 1;
  if (token < 0 || token >= reply.prompt.tokenCount) return;
  const chunk = transcript.chunkOf(token);
  const cell = chunk.cellOf(token);
  const { top, bottom } = chunk.element.getBoundingClientRect();
  if (bottom < 0 || top > innerHeight || !transcript.visible.has(chunk)) await transcript.goTo(...cell);
  card.show(token, true);
  cursor = cell;
}

const goToReply = () => {
  const { reply } = store.picked;
  transcript.goTo(reply.start, reply.end);
};

const theme = new Theme(byId("theme"), (dark) => {
  if (shading.borders === null) return;
  drawLegend(byId("legend"), shading.borders, dark);
  showHeat(store.picked);
});

const everything = ["reply", "layer", "head", "definition", "kind", "scale", "source"];
store.on(everything, (picked) => pickers.show(picked));
store.on(["reply", "definition"], showReply);
store.on(["layer", "head", "scale"], (picked, changed) => changed.has("reply") || shade(picked));
store.on(["reply", "definition"], ({ reply, definition }) => line.show(pickers.replies(), definition, reply));
store.on(["reply", "layer", "head", "definition", "kind", "source"], showHeat);
store.on(["reply", "layer", "head", "definition"], showSummary);
store.on(["reply", "layer", "head", "kind", "source"], (picked) => bars.show(picked));
store.on(["kind", "source"], (picked, changed) => showSource(picked, !changed.has("reply")));

const help = byId("help");
byId("help-button").addEventListener("click", () => help.showModal());
listenToKeys({ store, pickers, search, theme, help, moveCursor, goToReply });

byId("no-colour").hidden = canColour();
byId("left-out").hidden = data.leftOut.length === 0;
byId("left-out").textContent = data.leftOut.join(" ");
showReply(store.picked);
pickers.show(store.picked);
line.show(pickers.replies(), store.picked.definition, firstReply);
showHeat(store.picked);
showSummary(store.picked);
bars.show(store.picked);
