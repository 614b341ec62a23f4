// Read the numbers of the page. Codes keep three significant digits (see three_digits.py):
// x = m · 10^(e − 2), m = 100 … 999, code = 1 + (e + 45) · 900 + (m − 100); code 0 is the number 0.

const LOWEST_EXPONENT = -45;
const PER_EXPONENT = 900;
const read = new Map();

function bytesOf(name) {
  const element = document.getElementById(name);
  const text = element.textContent;
  element.textContent = ""; // the text is three times as large as the array
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function block(name, make) {
  if (!read.has(name)) read.set(name, make(bytesOf(name).buffer));
  return read.get(name);
}

// The codes in a block, as Uint16Array.
export function codes(name) {
  return block(name, (buffer) => new Uint16Array(buffer));
}

// The whole numbers in a block, as Uint32Array.
export function wholes(name) {
  return block(name, (buffer) => new Uint32Array(buffer));
}

export function hasBlock(name) {
  return read.has(name) || document.getElementById(name) !== null;
}

function numberOfCode(code) {
  if (code === 0) return 0;
  const digits = (code - 1) % PER_EXPONENT + 100;
  const exponent = Math.floor((code - 1) / PER_EXPONENT) + LOWEST_EXPONENT;
  const power = 2 - exponent;
  return power >= 0 ? digits / 10 ** power : digits * 10 ** -power;
}

let table = null;

// The number of every code, by which arrays of codes are read.
export function numbers() {
  table ??= Float64Array.from({ length: 65536 }, (_, code) => numberOfCode(code));
  return table;
}
