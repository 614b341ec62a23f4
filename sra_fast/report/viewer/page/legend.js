// What the colours mean: every step with the attention at some of its borders.

import { shown } from "./numbers.js";
import { palette, STEPS } from "./palette.js";

const LABELS = 4;

function stripOf(dark) {
  const strip = document.createElement("div");
  strip.className = "strip";
  for (const { background } of palette(dark)) {
    const step = document.createElement("span");
    step.style.backgroundColor = background;
    strip.append(step);
  }
  return strip;
}

// The colours alone, with the least and the most of the values that have one.
export function drawScale(root, values, dark) {
  const ends = document.createElement("div");
  ends.className = "ends";
  for (const [name, value] of [["least", Math.min(...values)], ["most", Math.max(...values)]]) {
    const end = document.createElement("span");
    end.textContent = `${name} ${shown(value, 2)}`;
    ends.append(end);
  }
  root.replaceChildren(stripOf(dark), ends);
}

export function drawLegend(root, borders, dark) {
  const labels = document.createElement("div");
  labels.className = "labels";
  for (let i = 0; i < LABELS; i += 1) {
    const place = Math.round((i * (borders.length - 1)) / (LABELS - 1));
    const label = document.createElement("span");
    const sign = i === 0 ? "< " : i === LABELS - 1 ? "> " : "";
    label.textContent = Number.isFinite(borders[place]) ? sign + shown(borders[place], 2) : "";
    label.style.insetInlineStart = `${(100 * (place + 1)) / STEPS}%`;
    labels.append(label);
  }
  root.replaceChildren(stripOf(dark), labels);
  const [low, high] = [borders[0], borders[borders.length - 1]];
  root.setAttribute(
    "aria-label",
    `Colours of attention on a token, from below ${shown(low, 2)} to above ${shown(high, 2)}`,
  );
}
