// From attention to steps of colour. A scale is its borders: step i holds what is above i of them.

import { numbers } from "./blocks.js";
import { firstAbove } from "./numbers.js";
import { STEPS } from "./palette.js";

// Beyond these shares of the tokens, the least and the most attended, all look alike: the first
// token of a text often takes more attention than all others together.
const LEAST = 0.05;
const MOST = 0.995;
const WIDEST = 1e5; // between the borders of a scale by size

// Numbers in order, at which shares of them are asked for.
function quantilesOf(sorted) {
  return (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

// The same for codes, whose order is that of their numbers: they are counted, never sorted.
function quantilesOfCodes(codes) {
  const table = numbers();
  const below = new Uint32Array(table.length + 1);
  for (const code of codes) if (code > 0) below[code + 1] += 1;
  for (let code = 1; code < below.length; code += 1) below[code] += below[code - 1];
  const count = below[table.length];
  if (count === 0) return null;
  const at = (share) => Math.min(count - 1, Math.floor(share * count));
  return (share) => table[firstAbove(below, at(share)) - 1];
}

// A scale of equal ratios between the least and the most.
export function logScale(quantile) {
  const high = quantile(MOST);
  const low = Math.max(quantile(LEAST), high / WIDEST);
  const ratio = high / low;
  return Float64Array.from({ length: STEPS - 1 }, (_, i) => low * ratio ** ((i + 1) / STEPS));
}

// A scale with equally many tokens in each step.
export function percentileScale(quantile) {
  return Float64Array.from({ length: STEPS - 1 }, (_, i) => quantile((i + 1) / STEPS));
}

function scale(kind, quantile) {
  if (quantile === null) return new Float64Array(STEPS - 1).fill(Infinity);
  return kind === "log" ? logScale(quantile) : percentileScale(quantile);
}

// The borders of a scale for codes; those of 0 have no colour and do not count.
export function scaleOfCodes(kind, codes) {
  return scale(kind, quantilesOfCodes(codes));
}

// The same for numbers.
export function scaleOfValues(kind, values) {
  const sorted = Float64Array.from(values.filter((value) => value > 0)).sort();
  return scale(kind, sorted.length === 0 ? null : quantilesOf(sorted));
}

// The step of a value, or -1 for no attention at all.
export function stepOf(borders, value) {
  return value > 0 ? firstAbove(borders, value) : -1;
}
