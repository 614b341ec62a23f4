// Light and dark: as the system has it, until the reader says otherwise.

const system = matchMedia("(prefers-color-scheme: dark)");

export class Theme {
  constructor(button, onChange) {
    this.button = button;
    this.onChange = onChange;
    button.addEventListener("click", () => this.set(!this.dark));
    system.addEventListener("change", () => this.set(system.matches));
    this.set(system.matches);
  }

  set(dark) {
    this.dark = dark;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    this.button.textContent = dark ? "Light" : "Dark";
    this.onChange(dark);
  }
}
