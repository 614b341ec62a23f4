// The colours of attention: from the colour of the paper over teal to deep blue in the light, and
// from deep blue over teal to olive in the dark. Lightness rises or falls all the way, so that
// people with any kind of colour vision, and grey printers, see the same order. In the dark it stays
// low enough for white text on every step, so that no word is half white and half black.

export const STEPS = 20;

function between(low, high, share) {
  return low + (high - low) * share;
}

function colour(lightness, chroma, hue) {
  return `oklch(${lightness.toFixed(3)} ${chroma.toFixed(3)} ${hue.toFixed(1)})`;
}

// The background and text colour of every step, the least attention first.
export function palette(dark) {
  return Array.from({ length: STEPS }, (_, step) => {
    const share = step / (STEPS - 1);
    const lightness = dark ? between(0.24, 0.55, share) : between(0.975, 0.4, share);
    const hue = dark ? between(265, 115, share) : between(105, 265, share);
    const chroma = between(0.025, 0.125, Math.sin((Math.PI / 2) * Math.min(1, share * 1.3)));
    return {
      background: colour(lightness, chroma, hue),
      text: !dark && lightness > 0.57 ? "#000000" : "#ffffff",
    };
  });
}

export function shadeName(step) {
  return `shade-${step}`;
}

// Give the page the colours of all steps, for light and dark.
export function adoptPalette() {
  const rules = ["light", "dark"].flatMap((theme) =>
    palette(theme === "dark").map(
      ({ background, text }, step) =>
        `:root[data-theme="${theme}"] ::highlight(${shadeName(step)}) ` +
        `{ background-color: ${background}; color: ${text}; }`,
    ),
  );
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(rules.join("\n"));
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
}
