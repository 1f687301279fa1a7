/** Moving a row of a list by mouse, pen or finger; the other rows make way. */

const EDGE_PX = 56; // so near the window's edge, the page scrolls along
const SCROLL_PX = 9; // a frame

/**
 * Begin once the pointer has gone far enough from where it was pressed to mean it.
 * @param begin called once with the move, unless the pointer is lifted before.
 */
export function onceMoved(press, begin) {
  const watching = new AbortController();
  const options = { signal: watching.signal };
  const moved = (event) => {
    if (event.pointerId !== press.pointerId) return;
    if (Math.hypot(event.clientX - press.clientX, event.clientY - press.clientY) < 5) return;
    watching.abort();
    begin(event);
  };
  const lifted = (event) => event.pointerId === press.pointerId && watching.abort();
  addEventListener("pointermove", moved, options);
  addEventListener("pointerup", lifted, options);
  addEventListener("pointercancel", lifted, options);
}

/**
 * @param row the list item to move.
 * @param press the event that began it.
 * @param grabbed_px how far below the row's top it is held.
 * @param over called with (from, to) whenever the row comes to stand over another place.
 * @param drop called with (from, to) at the end, or
 * @param cancel called instead after Escape, or where the browser took the pointer away.
 */
export function drag(row, press, grabbed_px, { over, drop, cancel }) {
  const list = row.parentElement;
  const rows = [...list.children];
  const from = rows.indexOf(row);
  // A row that still glides would be measured on its way.
  for (const each of rows) each.getAnimations().forEach((glide) => glide.finish());
  const boxes = rows.map((each) => {
    const box = each.getBoundingClientRect();
    return { top: box.top + scrollY, middle: box.top + scrollY + box.height / 2, height: box.height };
  });
  const gap = rows.length > 1 ? boxes[1].top - boxes[0].top - boxes[0].height : 0;
  const space = boxes[from].height + gap;
  const dragging = new AbortController();
  const options = { signal: dragging.signal };
  let [to, pointerY, frame] = [from, press.clientY, 0];

  function follow() {
    const top = pointerY + scrollY - grabbed_px;
    const bottom = top + boxes[from].height;
    row.style.transform = `translateY(${top - boxes[from].top}px)`;
    // A row makes way when the edge that comes towards it has passed its middle: heights may differ.
    const up = boxes.filter((box, at) => at < from && top < box.middle).length;
    const down = boxes.filter((box, at) => at > from && bottom > box.middle).length;
    if (from - up + down === to) return;
    to = from - up + down;
    rows.forEach((each, at) => {
      if (at === from) return;
      const shift = at < from && at >= to ? space : at > from && at <= to ? -space : 0;
      each.style.transform = shift ? `translateY(${shift}px)` : "";
    });
    over(from, to);
  }

  function scroll() {
    const step = pointerY < EDGE_PX ? -SCROLL_PX : pointerY > innerHeight - EDGE_PX ? SCROLL_PX : 0;
    if (step) {
      scrollBy({ top: step, behavior: "instant" });
      follow();
    }
    frame = requestAnimationFrame(scroll);
  }

  function end(then) {
    dragging.abort();
    cancelAnimationFrame(frame);
    list.classList.remove("reordering");
    row.classList.remove("dragged");
    then();
  }

  const mine = (handle) => (event) => event.pointerId === press.pointerId && handle(event);
  addEventListener("pointermove", mine((event) => ((pointerY = event.clientY), follow())), options);
  addEventListener("pointerup", mine(() => end(() => drop(from, to))), options);
  addEventListener("pointercancel", mine(() => end(cancel)), options);
  addEventListener("keydown", (event) => event.key === "Escape" && end(cancel), options);
  list.classList.add("reordering");
  row.classList.add("dragged");
  follow();
  scroll();
}
