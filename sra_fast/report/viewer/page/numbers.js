// Write numbers for people: significant digits, the same that the result has.

export function shown(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const small = Math.abs(value) < 1e-4;
  const text = small ? value.toExponential(digits - 1) : value.toPrecision(digits);
  return text.replace("e-", "e−").replace(/^-/, "−");
}

export function counted(count, one, many) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

// The first index of a sorted array whose number is above `value`.
export function firstAbove(sorted, value, low = 0, high = sorted.length) {
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] > value) high = middle;
    else low = middle + 1;
  }
  return low;
}
