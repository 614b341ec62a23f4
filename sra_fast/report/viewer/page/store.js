// What is picked, and who wants to know of it.

export class Store {
  constructor(picked) {
    this.picked = picked;
    this.listeners = [];
  }

  // Call `listener(picked, changed)` with the names that changed, whenever one of `names` does.
  on(names, listener) {
    this.listeners.push({ names: new Set(names), listener });
  }

  change(patch) {
    const changed = new Set(
      Object.keys(patch).filter((name) => this.picked[name] !== patch[name]),
    );
    if (changed.size === 0) return;
    this.picked = { ...this.picked, ...patch };
    for (const { names, listener } of this.listeners) {
      if ([...names].some((name) => changed.has(name))) listener(this.picked, changed);
    }
  }
}
