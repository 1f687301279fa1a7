/**
 * The page: a history of items and blanks, what comes next, and what stood at each blank.
 *
 *     events (the one state, mirrored in the URL) -> rows of the history
 *                                                 -> questions to the server -> guesses, options of the blanks
 */
import { drag, onceMoved } from "./drag.js";
import { setUpSearch } from "./search.js";
import { Line, Refused, TokenNeeded, token } from "./client.js";
import "./theme.js";

const GUESSES = 10;
const OPTIONS = 5; // for each blank; page.css keeps room for as many
const STARTERS = 3;
const STARTER_LENGTH = 4;
const RESULTS = 8;
const TITLES_AT_ONCE = 50;
const STILL = matchMedia("(prefers-reduced-motion: reduce)");

const $ = (id) => document.getElementById(id);
const copy = (id) => $(`${id}-template`).content.firstElementChild.cloneNode(true);
const keyOf = (id) => JSON.stringify(id); // 7 and "7" are two items
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const PERCENT = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const percent = (share) => (share > 0 && share < 0.0005 ? "<0.1%" : PERCENT.format(share));
const LEAST_NATS = 0.01; // less reads as "+0%"

/** How much likelier an event made an item: "+31%", "×2.4". */
function likelier(nats) {
  return nats < Math.LN2 ? `+${Math.round(Math.expm1(nats) * 100)}%` : `×${Math.exp(nats).toFixed(1)}`;
}

let events = []; // {key, id}, oldest first; a blank has id null. The key is its row's, since an item may come twice.
let guesses = []; // {key, item_id, probability, because: [{key of an event, item_id, weight in nats}]}, best first
let nextKey = 0;
const titles = new Map(); // keyOf(id) -> title, null where there is none
const entry = (id) => ({ key: `event-${nextKey++}`, id });
const row = (key) => $(key);
const label = (id) => titles.get(keyOf(id)) ?? String(id);
const nameOf = (event) => (event.id === null ? "the blank" : label(event.id));
const learn = (items) => items.forEach((item) => titles.set(keyOf(item.item_id), item.title));

// ------------------------------------------------------------------------------------------------ what goes wrong

const troubles = new Map(); // name of a line -> its sentence

function trouble(name, sentence) {
  if (sentence) troubles.set(name, sentence);
  else troubles.delete(name);
  const [shown = ""] = troubles.values();
  if ($("trouble").textContent !== shown) $("trouble").textContent = shown;
  $("trouble").hidden = !shown;
}

const names = ["model", "titles", "search", "next", "blanks", "starters"];
const lines = Object.fromEntries(names.map((name) => [name, new Line((sentence) => trouble(name, sentence))]));

/** The answer; null where a newer question took over, undefined where the page says why there is none. */
async function ask(name, path, body) {
  try {
    return await lines[name].ask(path, body);
  } catch (error) {
    if (error instanceof TokenNeeded) askForToken();
    else if (error instanceof Refused) trouble(name, error.message);
    else throw error;
  }
}

function askForToken() {
  if (!$("token-form").hidden) return;
  $("token-note").textContent = token.get() ? "That one was not accepted." : "It is kept until you close this tab.";
  $("token-form").hidden = false;
  $("token").focus();
}

$("token-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  token.set($("token").value);
  $("token").value = "";
  $("token-form").hidden = true;
  $("search").focus();
  begin();
});

function announce(sentence) {
  $("announcer").textContent = sentence;
}

// ------------------------------------------------------------------------------------------- the state and the URL

/** "50,~some%20id,_": numbers as they are, texts after a tilde, blanks as underscores. */
function written(order) {
  const word = ({ id }) => (id === null ? "_" : typeof id === "number" ? String(id) : `~${encodeURIComponent(id)}`);
  return order.length ? `#history=${order.map(word).join(",")}` : "";
}

function read(hash) {
  const words = hash.match(/^#history=(.+)$/)?.[1].split(",") ?? [];
  const ids = words.map((word) => {
    if (word === "_") return null;
    try {
      return word.startsWith("~") ? decodeURIComponent(word.slice(1)) : Number(word || NaN);
    } catch {
      return NaN; // a broken escape
    }
  });
  return ids.filter((id) => typeof id !== "number" || Number.isFinite(id)).map(entry);
}

/** @param undoable whether the browser's Back leads to what was. */
function change(order, { undoable = false } = {}) {
  events = order;
  const url = location.pathname + location.search + written(order);
  if (undoable) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
  show();
  askAll(events);
}

function add(id, title) {
  titles.set(keyOf(id), title);
  change([...events, entry(id)]);
  announce(`${label(id)} added, place ${events.length}.`);
}

function move(from, to) {
  if (to < 0 || to >= events.length || from === to) return;
  const order = moved(events, from, to);
  change(order);
  announce(`${nameOf(order[to])} moved to place ${to + 1} of ${order.length}.`);
}

function moved(order, from, to) {
  const rest = order.toSpliced(from, 1);
  return rest.toSpliced(to, 0, order[from]);
}

function remove(at) {
  announce(`${nameOf(events[at])} removed.`);
  change(events.toSpliced(at, 1));
  const next = events[Math.min(at, events.length - 1)];
  focusOn(next ? next.key : null);
}

function focusOn(key) {
  (key === null ? $("search") : row(key).querySelector(".grip")).focus();
}

function fill(blankKey, id) {
  const filled = entry(id);
  change(events.map((event) => (event.key === blankKey ? filled : event)));
  announce(`${label(id)} put into the blank.`);
  focusOn(filled.key);
}

// ----------------------------------------------------------------------------------------------------- questions

/** Ask about an order, which may be one that a row is only held over. */
function askAll(order) {
  askNext(order);
  askBlanks(order);
  if (!order.length) askStarters();
}

async function askNext(order) {
  const sent = order.filter((event) => event.id !== null);
  $("guesses").ariaBusy = "true";
  const body = { history: sent.map((event) => event.id), top_k: GUESSES, explain: true };
  const answer = await ask("next", "v1/recommend", body);
  if (answer === null) return;
  $("guesses").ariaBusy = "false";
  if (!answer) return;
  answer.recommendations.forEach((guess) => learn([guess, ...(guess.because ?? [])]));
  guesses = answer.recommendations.map((guess) => ({
    ...guess,
    key: keyOf(guess.item_id),
    because: (guess.because ?? [])
      .filter((reason) => reason.weight >= LEAST_NATS)
      .map((reason) => ({ ...reason, key: sent[reason.position].key })),
  }));
  const unknown = new Set(answer.unknown_items.map(keyOf));
  for (const event of sent) row(event.key)?.classList.toggle("unknown", unknown.has(keyOf(event.id)));
  answer.unknown_items.forEach((id) => titles.set(keyOf(id), null));
  showGuesses(answer.basis, sent.length - answer.unknown_items.length);
  for (const event of events) nameRow(row(event.key), event); // the answer may have told titles
  askTitles();
}

async function askBlanks(order) {
  const blanks = order.filter((event) => event.id === null);
  if (!blanks.length) return lines.blanks.cancel();
  sayWhatIsSeen(order);
  const body = { history: order.map((event) => event.id), top_k: OPTIONS };
  const answer = await ask("blanks", "v1/fill-in", body);
  answer?.blanks.forEach(({ items }, at) => {
    learn(items);
    showOptions(blanks[at].key, items);
  });
}

/** The titles of known items that came by a link: the server names those it is asked to rank. */
async function askTitles() {
  const missing = events.filter(({ id }) => id !== null && !titles.has(keyOf(id))).map(({ id }) => id);
  const asked = [...new Map(missing.map((id) => [keyOf(id), id])).values()].slice(0, TITLES_AT_ONCE);
  if (!asked.length) return;
  const body = { history: [], candidates: asked, exclude_seen: false, top_k: asked.length };
  const answer = await ask("titles", "v1/recommend", body);
  if (!answer) return;
  asked.forEach((id) => titles.set(keyOf(id), null));
  learn(answer.recommendations);
  for (const event of events) nameRow(row(event.key), event);
  askTitles();
}

/** What to begin with: something popular and what the model says goes with it, each unlike the ones before. */
async function askStarters() {
  if ($("starter-list").children.length) return;
  const popular = await ask("starters", "v1/recommend", { history: [], top_k: 40 });
  if (!popular) return;
  const near = new Set(); // what goes with the starters so far
  const starters = [];
  for (const first of popular.recommendations) {
    if (starters.length === STARTERS) break;
    if (near.has(keyOf(first.item_id))) continue;
    const body = { history: [first.item_id], exclude: starters.flat().map((item) => item.item_id), top_k: 12 };
    const answer = await ask("starters", "v1/recommend", body);
    if (!answer) return;
    answer.recommendations.forEach((item) => near.add(keyOf(item.item_id)));
    starters.push([first, ...answer.recommendations.slice(0, STARTER_LENGTH - 1)]);
  }
  starters.forEach(learn);
  $("starter-list").replaceChildren(...starters.map(starterButton));
  $("starters").hidden = events.length > 0;
}

function starterButton(items) {
  const starter = copy("starter");
  const button = starter.querySelector("button");
  for (const { item_id } of items) write(button.appendChild(document.createElement("span")), item_id);
  button.addEventListener("click", () => {
    change(items.map((item) => entry(item.item_id)), { undoable: true });
    focusOn(events.at(-1).key);
  });
  return starter;
}

// ------------------------------------------------------------------------------------------------------- drawing

/** An item's title with the year at its end, if any, set apart; its id where it has no title. */
function write(element, id) {
  const text = label(id);
  const [, name, year] = text.match(/^(.+?)\s*\((\d{4})\)$/) ?? [null, text, null];
  element.textContent = name;
  element.classList.toggle("id", titles.get(keyOf(id)) == null);
  if (year) {
    const small = element.appendChild(document.createElement("span"));
    small.className = "year";
    small.textContent = ` ${year}`;
  }
}

/** Make a list's rows those of the entries, keeping rows, focus and what was held; rows glide to where they belong. */
function arrange(list, entries, make, update) {
  const rows = new Map([...list.children].map((each) => [each.dataset.key, each]));
  const tops = new Map([...list.children].map((each) => [each, each.getBoundingClientRect().top]));
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const focusedAt = [...list.children].findIndex((each) => each.contains(focused));
  entries.forEach((item, at) => {
    const each = rows.get(item.key) ?? make(item);
    rows.delete(item.key);
    each.dataset.key = item.key;
    each.style.transform = "";
    update(each, item, at);
    if (list.children[at] !== each) list.insertBefore(each, list.children[at] ?? null);
  });
  rows.forEach((each) => each.remove());
  if (focused && focused !== document.activeElement) {
    // Moving a row takes the focus from it; of a row that is gone, the one in its place has it.
    const heir = list.children[Math.min(focusedAt, list.children.length - 1)];
    const control = focused.isConnected ? focused : heir?.querySelector(`.${focused.className}`);
    control?.focus({ preventScroll: true });
  }
  if (STILL.matches) return;
  for (const each of list.children) {
    const by = tops.has(each) ? tops.get(each) - each.getBoundingClientRect().top : 0;
    const start = tops.has(each) ? { transform: `translateY(${by}px)` } : { opacity: 0 };
    if (tops.has(each) && !by) continue;
    each.animate([start, {}], { duration: 220, easing: "cubic-bezier(.2,.7,.2,1)" }).onfinish = drawThreads;
  }
}

function show() {
  arrange($("history"), events, makeEvent, updateEvent);
  const blanks = events.filter((event) => event.id === null).length;
  const parts = [plural(events.length - blanks, "item"), ...(blanks ? [plural(blanks, "blank")] : [])];
  $("count").textContent = events.length ? `${parts.join(", ")}, oldest first` : "Empty so far.";
  $("clear").hidden = $("ahead").hidden = !events.length;
  $("starters").hidden = events.length > 0 || !$("starter-list").children.length;
  light();
}

function makeEvent(event) {
  const made = copy("event");
  made.id = event.key;
  if (event.id !== null) return made;
  made.classList.add("blank");
  const sides = document.createElement("span");
  sides.className = "sides";
  made.querySelector(".title").textContent = "What stood here?";
  made.querySelector(".what").append(sides);
  made.append(copy("options"));
  return made;
}

function updateEvent(made, event, at) {
  made.querySelector(".place").textContent = at + 1;
  nameRow(made, event);
}

function nameRow(made, event) {
  if (event.id !== null) write(made.querySelector(".title"), event.id);
  made.querySelector(".grip").ariaLabel = `Move ${nameOf(event)}`;
  made.querySelector(".remove").ariaLabel = `Remove ${nameOf(event)}`;
}

function sayWhatIsSeen(order) {
  order.forEach((event, at) => {
    if (event.id !== null) return;
    const known = (part) => part.filter((each) => each.id !== null).length || "nothing";
    const sides = row(event.key).querySelector(".sides");
    sides.textContent = `read from ${known(order.slice(0, at))} before and ${known(order.slice(at + 1))} after`;
  });
}

function showOptions(blankKey, items) {
  const blank = row(blankKey);
  if (!blank) return;
  const options = blank.querySelector(".options");
  const best = items[0]?.probability || 1;
  const entries = items.map((item) => ({ ...item, key: keyOf(item.item_id) }));
  arrange(
    options,
    entries,
    () => copy("option"),
    (made, item) => {
      write(made.querySelector(".title"), item.item_id);
      made.querySelector(".chance").textContent = percent(item.probability);
      made.querySelector("button").title = label(item.item_id);
      made.style.setProperty("--share", item.probability / best);
    },
  );
}

function showGuesses(basis, known) {
  const best = guesses[0]?.probability || 1;
  arrange(
    $("guesses"),
    guesses,
    () => copy("guess"),
    (made, guess, at) => {
      made.querySelector(".rank").textContent = at + 1;
      write(made.querySelector(".title"), guess.item_id);
      made.querySelector(".chance").textContent = percent(guess.probability);
      made.querySelector(".add").ariaLabel = `Add ${label(guess.item_id)} to the history`;
      made.querySelector(".new").textContent = guess.is_new ? "new" : "";
      made.querySelector(".new").hidden = !guess.is_new;
      made.querySelector(".because").replaceChildren(...reasonWords(guess.because));
      made.style.setProperty("--share", guess.probability / best);
    },
  );
  const explained = guesses.some((guess) => guess.because.length);
  $("basis").textContent = saidOfBasis(basis, known, explained);
  $("likelier-legend").hidden = !explained;
  const first = guesses[0];
  $("outcome").textContent = first ? `Most likely next: ${label(first.item_id)}, ${percent(first.probability)}.` : "";
  const peek = $("peek").querySelector("b");
  if (first) write(peek, first.item_id);
  $("peek").hidden = !first || !events.length;
  light();
}

function saidOfBasis(basis, known, explained) {
  if (!guesses.length) return "Nothing is left to recommend.";
  if (basis === "popularity") return "Popular with everyone; add something you liked.";
  return `From ${plural(known, "item")}${explained ? ", and why" : ""}.`;
}

function reasonWords(because) {
  return because.map(({ item_id, weight, followed }) => {
    const name = document.createElement("span");
    write(name, item_id);
    name.querySelector(".year")?.remove();
    const reason = document.createElement("span");
    reason.append(name, Object.assign(document.createElement("b"), { textContent: ` ${likelier(weight)}` }));
    if (followed) reason.append(`, followed in ${followed.times} of ${plural(followed.cases, "case")}`);
    return reason;
  });
}

// ------------------------------------------------------------------------------------------ what drove a guess

let [hovered, focused, pinned] = [null, null, null]; // keys of guesses; the first that is still one is lit

function light() {
  const guessOf = (key) => guesses.find((guess) => guess.key === key);
  const lit = guessOf(hovered) ?? guessOf(focused) ?? guessOf(pinned);
  const weights = new Map((lit?.because ?? []).map((reason) => [reason.key, reason.weight]));
  const heaviest = Math.max(...weights.values());
  $("history").classList.toggle("lit", weights.size > 0);
  for (const each of $("history").children) {
    const weight = weights.get(each.dataset.key);
    each.classList.toggle("drove", weight !== undefined);
    each.style.setProperty("--weight", weight === undefined ? 0 : weight / heaviest);
    each.querySelector(".weight").textContent = weight === undefined ? "" : likelier(weight);
  }
  for (const each of $("guesses").children) {
    each.classList.toggle("lit", each.dataset.key === lit?.key);
    each.querySelector(".why").ariaPressed = String(each.dataset.key === pinned);
  }
  drawThreads();
}

/** Curves from the lit guess to the rows that drove it, the widest to the one that did most. */
function drawThreads() {
  const svg = $("threads");
  const guess = $("guesses").querySelector(".lit");
  const board = $("board").getBoundingClientRect();
  const from = guess?.getBoundingClientRect();
  const drivers = guess ? [...$("history").querySelectorAll(".drove")] : [];
  svg.replaceChildren(
    ...drivers.map((driver) => {
      const to = driver.getBoundingClientRect();
      const [x1, y1] = [from.left - board.left, from.top + from.height / 2 - board.top];
      const [x2, y2] = [to.right - board.left, to.top + to.height / 2 - board.top];
      const bend = (x1 - x2) * 0.5;
      const weight = Number(driver.style.getPropertyValue("--weight"));
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", `M${x1} ${y1}C${x1 - bend} ${y1} ${x2 + bend} ${y2} ${x2} ${y2}`);
      path.setAttribute("stroke-width", 1 + 4 * weight);
      path.setAttribute("opacity", 0.4 + 0.5 * weight);
      return path;
    }),
  );
}

addEventListener("resize", drawThreads);
addEventListener("scroll", drawThreads, { passive: true });

const guessAt = (target) => target.closest?.(".guess")?.dataset.key ?? null;
$("guesses").addEventListener("pointerover", (event) => {
  if (event.pointerType === "touch" || hovered === guessAt(event.target)) return;
  hovered = guessAt(event.target);
  light();
});
$("guesses").addEventListener("pointerleave", () => ((hovered = null), light()));
$("guesses").addEventListener("focusin", ({ target }) => {
  focused = target.matches(":focus-visible") ? guessAt(target) : null;
  light();
});
$("guesses").addEventListener("focusout", () => ((focused = null), light()));
$("guesses").addEventListener("click", ({ target }) => {
  const key = guessAt(target);
  if (target.closest(".why")) {
    pinned = pinned === key ? null : key;
    light();
  } else if (target.closest(".add")) {
    const guess = guesses.find((each) => each.key === key);
    add(guess.item_id, guess.title);
  }
});

// ------------------------------------------------------------------------------------------------ rows of the history

const isReordering = () => $("history").classList.contains("reordering");
const placeOf = (target) => events.findIndex((event) => event.key === target.closest?.(".event")?.dataset.key);

$("history").addEventListener("click", ({ target }) => {
  const at = placeOf(target);
  const option = target.closest(".options li");
  if (target.closest(".remove")) remove(at);
  else if (option) fill(events[at].key, JSON.parse(option.dataset.key));
});

$("history").addEventListener("keydown", (event) => {
  const onGrip = event.target.matches(".grip");
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  const at = placeOf(event.target);
  if (step && (onGrip || event.altKey)) {
    event.preventDefault();
    move(at, at + step);
    if (document.activeElement === event.target) event.target.scrollIntoView({ block: "nearest" });
  } else if (event.key === "Delete" && onGrip) {
    remove(at);
  }
});

$("history").addEventListener("pointerdown", (press) => {
  const held = press.target.closest(".event");
  const onGrip = press.target.closest(".grip");
  if (!held || press.button !== 0 || isReordering()) return;
  if (!onGrip && (press.pointerType !== "mouse" || press.target.closest("button"))) return; // a finger scrolls
  const grabbed_px = press.clientY - held.getBoundingClientRect().top;
  onceMoved(press, (event) => hold(held, event, grabbed_px));
});

function hold(held, event, grabbed_px, cancel = () => change(events)) {
  hovered = pinned = null;
  light();
  drag(held, event, grabbed_px, {
    over: (from, to) => {
      const order = moved(events, from, to);
      order.forEach(({ key }, at) => (row(key).querySelector(".place").textContent = at + 1));
      askAll(order);
    },
    drop: (from, to) => {
      change(moved(events, from, to));
      announce(`${nameOf(events[to])} at place ${to + 1} of ${events.length}.`);
    },
    cancel,
  });
}

function insertBlank(at) {
  const blank = entry(null);
  change(events.toSpliced(at, 0, blank));
  announce(`A blank at place ${at + 1} of ${events.length}.`);
  return blank.key;
}

let pulled = false; // the click at the end of a pull is none; one by keyboard (detail 0) always is

$("insert-blank").addEventListener("click", ({ detail }) => {
  if (!pulled || detail === 0) focusOn(insertBlank(Math.ceil(events.length / 2)));
});

$("insert-blank").addEventListener("pointerdown", (press) => {
  pulled = false;
  if (press.button !== 0 || isReordering()) return;
  onceMoved(press, (event) => {
    pulled = true;
    const key = insertBlank(events.length);
    hold(row(key), event, 24, () => change(events.filter((each) => each.key !== key)));
  });
});

$("clear").addEventListener("click", () => {
  change([], { undoable: true });
  announce("The history is empty. The browser's Back brings it back.");
  focusOn(null);
});

// ------------------------------------------------------------------------------------------- search, phone, start

setUpSearch({
  find: async (text) => {
    const answer = await ask("search", `v1/items?${new URLSearchParams({ q: text, limit: RESULTS })}`);
    learn(answer?.items ?? []);
    return answer?.items;
  },
  giveUp: () => lines.search.cancel(),
  write: (element, item) => write(element, item.item_id),
  choose: (item) => add(item.item_id, item.title),
  announce,
});

$("peek").addEventListener("click", () => {
  $("next-heading").scrollIntoView({ behavior: STILL.matches ? "instant" : "smooth" });
  $("next-heading").focus({ preventScroll: true });
});
new IntersectionObserver(([{ isIntersecting }]) => $("peek").classList.toggle("there", isIntersecting)).observe(
  $("guesses"),
);

async function showModel() {
  const model = await ask("model", "v1/model");
  if (!model) return;
  const facts = [
    ["model", model.name],
    ["users", model.num_users],
    ["items", model.num_items],
    ["events", model.num_events],
  ];
  const pairs = facts.filter(([, fact]) => fact != null).map(([name, fact]) => {
    const pair = document.createElement("div");
    const value = fact.toLocaleString("en");
    pair.append(
      Object.assign(document.createElement("dt"), { textContent: name }),
      Object.assign(document.createElement("dd"), { textContent: value, title: value }),
    );
    return pair;
  });
  $("facts").replaceChildren(...pairs);
  $("search").placeholder = $("search").ariaLabel = model.has_titles ? "Search titles" : "Search item ids";
}

function load() {
  events = read(location.hash);
  show();
  askAll(events);
}

function begin() {
  showModel();
  load();
}

addEventListener("hashchange", load);
begin();
