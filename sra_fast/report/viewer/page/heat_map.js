// Layers × heads as a map of colours that is clicked. It is drawn on a canvas: one element, however
// many heads there are.

import { MEAN } from "./conversations.js";
import { drawScale } from "./legend.js";
import { shown } from "./numbers.js";
import { palette } from "./palette.js";
import { scaleOfValues, stepOf } from "./scale.js";

const WIDTH = 340;
const LEFT = 34;
const NARROWEST = 140; // room for the names of the axes
const BELOW = 18;
const [LEAST, MOST] = [5, 18]; // pixels of a cell's side

export class HeatMap {
  // `parts` are the elements it fills: {canvas, title, scale, said}.
  constructor(parts, pick) {
    Object.assign(this, { ...parts, pick, map: null });
    const { canvas } = parts;
    canvas.addEventListener("pointermove", (event) => this.say(this.cellAt(event)));
    canvas.addEventListener("pointerleave", () => this.say(null));
    canvas.addEventListener("click", (event) => {
      const cell = this.cellAt(event);
      if (cell === null) return;
      this.pick(cell.row, this.map.heads ? cell.column : MEAN);
    });
  }

  // Show a map {title, layers, rows: [[value or null, …], …], heads: whether columns are
  // heads, picks: whether a click picks anything}.
  show(map, layer, head, dark) {
    this.map = map;
    this.canvas.hidden = map === null;
    this.scale.hidden = true;
    this.title.textContent = map === null ? "" : map.title;
    this.picked = [layer, head];
    this.said.textContent = "";
    if (map === null) return;
    const columns = map.rows[0].length;
    this.wide = map.heads ? Math.max(LEAST, Math.min(MOST, (WIDTH - LEFT) / columns)) : WIDTH - LEFT;
    this.high = Math.max(LEAST, Math.min(MOST, map.heads ? this.wide : 12));
    this.draw(dark);
    this.say(null);
  }

  draw(dark) {
    const { rows, heads, layers } = this.map;
    const width = Math.max(LEFT + rows[0].length * this.wide, NARROWEST);
    const height = rows.length * this.high + BELOW;
    const ratio = window.devicePixelRatio || 1;
    Object.assign(this.canvas, { width: width * ratio, height: height * ratio });
    Object.assign(this.canvas.style, { width: `${width}px`, height: `${height}px` });
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(this.canvas);
    const colours = palette(dark);
    const values = rows.flat().filter((value) => value !== null);
    const borders = scaleOfValues("log", values);
    const coloured = values.filter((value) => value > 0);
    this.scale.hidden = coloured.length === 0;
    if (coloured.length > 0) drawScale(this.scale, coloured, dark);
    rows.forEach((row, i) =>
      row.forEach((value, j) => {
        const step = value === null ? -1 : stepOf(borders, value);
        context.fillStyle = step < 0 ? "transparent" : colours[step].background;
        context.fillRect(LEFT + j * this.wide, i * this.high, this.wide - 0.5, this.high - 0.5);
      }),
    );
    context.fillStyle = style.color;
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "right";
    const every = Math.ceil(14 / this.high);
    rows.forEach((_, i) => {
      if (i % every === 0) context.fillText(layers[i], LEFT - 5, (i + 0.5) * this.high + 4);
    });
    context.textAlign = "left";
    const below = rows.length * this.high + 14;
    context.fillText(heads ? "layer ↓, head →" : "layer ↓", LEFT, below);
    this.frame(context, style.getPropertyValue("--chosen"));
  }

  frame(context, colour) {
    const [layer, head] = this.picked;
    const { rows, heads } = this.map;
    if (layer === MEAN && (head === MEAN || !heads)) return;
    const row = layer === MEAN ? [0, rows.length] : [layer, 1];
    const column = head === MEAN || !heads ? [0, rows[0].length] : [head, 1];
    context.strokeStyle = colour;
    context.lineWidth = 2;
    context.strokeRect(
      LEFT + column[0] * this.wide,
      row[0] * this.high,
      column[1] * this.wide,
      row[1] * this.high,
    );
  }

  cellAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top) / this.high);
    const column = Math.floor((event.clientX - box.left - LEFT) / this.wide);
    const { rows } = this.map;
    const inside = row >= 0 && row < rows.length && column >= 0 && column < rows[0].length;
    return inside ? { row, column } : null;
  }

  say(cell) {
    const { rows, heads, layers } = this.map;
    const [layer, head] = this.picked;
    const at = cell ?? (layer === MEAN || (heads && head === MEAN) ? null : { row: layer, column: heads ? head : 0 });
    if (at === null) {
      this.said.textContent = this.map.picks ? "Click to look at one." : "";
      return;
    }
    const where = heads ? `, head ${at.column}` : "";
    this.said.textContent = `layer ${layers[at.row]}${where}: ${shown(rows[at.row][at.column], 3)}`;
  }
}
