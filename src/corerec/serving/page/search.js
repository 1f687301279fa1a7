/** The search field and the list of what it finds: ARIA's combobox, which keeps the focus in the field. */

const TYPING_MS = 120; // this long without a key, and it asks

/**
 * @param find text -> items, or nothing where the text was overtaken or could not be answered.
 * @param giveUp drops the question under way.
 * @param write puts an item's name into an element.
 * @param choose takes the item that was chosen.
 * @param announce says a sentence to a screen reader.
 */
export function setUpSearch({ find, giveUp, write, choose, announce }) {
  const field = document.getElementById("search");
  const list = document.getElementById("found");
  const popup = document.getElementById("results");
  const nothing = document.getElementById("none-found");
  let [items, active, typing] = [[], -1, 0];

  async function look() {
    const text = field.value.trim();
    const answer = await find(text);
    if (!answer || field.value.trim() !== text) return;
    items = answer;
    list.replaceChildren(
      ...items.map((item, at) => {
        const option = Object.assign(document.createElement("li"), { id: `found-${at}`, role: "option" });
        write(option, item);
        mark(option, text);
        return option;
      }),
    );
    nothing.hidden = items.length > 0;
    list.hidden = !items.length;
    popup.hidden = false;
    field.ariaExpanded = "true";
    activate(items.length ? 0 : -1);
    announce(items.length === 1 ? "1 found." : `${items.length || "Nothing"} found.`);
  }

  function activate(at) {
    active = at;
    [...list.children].forEach((option, place) => (option.ariaSelected = String(place === at)));
    if (at < 0) field.removeAttribute("aria-activedescendant");
    else field.setAttribute("aria-activedescendant", `found-${at}`);
  }

  function close() {
    clearTimeout(typing);
    giveUp();
    items = [];
    popup.hidden = true;
    field.ariaExpanded = "false";
    activate(-1);
  }

  function take(at) {
    const item = items[at];
    field.value = "";
    close();
    choose(item);
  }

  field.addEventListener("input", () => {
    clearTimeout(typing);
    if (field.value.trim()) typing = setTimeout(look, TYPING_MS);
    else close();
  });
  field.addEventListener("keydown", (event) => {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step && items.length) {
      event.preventDefault();
      activate((active + step + items.length) % items.length);
    } else if (event.key === "Enter" && active >= 0) {
      event.preventDefault();
      take(active);
    } else if (event.key === "Escape") {
      if (popup.hidden) field.value = "";
      close();
    }
  });
  field.addEventListener("blur", close);
  list.addEventListener("pointerdown", (event) => event.preventDefault());
  list.addEventListener("click", ({ target }) => {
    const at = [...list.children].indexOf(target.closest("li"));
    if (at >= 0) take(at);
  });
}

/** Set the words that were typed in bold where the name has them. */
function mark(option, text) {
  const holds = (node, word) => node.nodeType === Node.TEXT_NODE && node.data.toLowerCase().includes(word);
  for (const word of text.toLowerCase().split(/\s+/)) {
    const part = [...option.childNodes].find((node) => holds(node, word));
    if (!part) continue;
    const match = part.splitText(part.data.toLowerCase().indexOf(word));
    match.splitText(word.length);
    const bold = document.createElement("mark");
    match.replaceWith(bold);
    bold.append(match);
  }
}
