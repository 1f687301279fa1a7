/** A storage of the browser, or a passing memory where the visitor forbids it. */
export function storage(name) {
  try {
    return window[name];
  } catch {
    const memory = new Map();
    return {
      getItem: (key) => memory.get(key) ?? null,
      setItem: (key, text) => memory.set(key, text),
      removeItem: (key) => memory.delete(key),
    };
  }
}
