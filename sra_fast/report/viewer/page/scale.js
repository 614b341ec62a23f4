// From attention to steps of colour. A scale is its borders: step i holds what is above i of them.

import { firstAbove } from "./numbers.js";
import { STEPS } from "./palette.js";

// Beyond these shares of the tokens, the least and the most attended, all look alike: the first
// token of a text often takes more attention than all others together.
const LEAST = 0.05;
const MOST = 0.995;
const WIDEST = 1e5; // between the borders of a scale by size

function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

// A scale of equal ratios.
export function logScale(sorted) {
  const high = quantile(sorted, MOST);
  const low = Math.max(quantile(sorted, LEAST), high / WIDEST);
  const ratio = high / low;
  return Float64Array.from({ length: STEPS - 1 }, (_, i) => low * ratio ** ((i + 1) / STEPS));
}

// A scale with equally many tokens in each step.
export function percentileScale(sorted) {
  return Float64Array.from({ length: STEPS - 1 }, (_, i) => quantile(sorted, (i + 1) / STEPS));
}

// The borders of a scale for these values; values that are 0 have no colour and do not count.
export function makeScale(kind, values) {
  const sorted = values.filter((value) => value > 0).sort();
  if (sorted.length === 0) return new Float64Array(STEPS - 1).fill(Infinity);
  return kind === "log" ? logScale(sorted) : percentileScale(sorted);
}

// The step of a value, or -1 for no attention at all.
export function stepOf(borders, value) {
  return value > 0 ? firstAbove(borders, value) : -1;
}
