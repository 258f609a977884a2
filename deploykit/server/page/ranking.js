// The list of answers: a row per class with its bars, one bar per precision. Resting on a row shows its map, a click or Enter pins
// it; arrow keys go from row to row.

import { byId } from "./notice.js";
import { percent, points, precisionName } from "./words.js";

// Args: the <ol>, and what is told of: onRest(classIndex or null), onPin(classIndex), onRemove(classIndex).
export function createRanking(list, { onRest, onPin, onRemove }) {
  // Not pointerover, which also comes when rows move below a pointer that lies still.
  list.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "touch") onRest(classOf(event.target));
  });
  list.addEventListener("pointerleave", () => onRest(classOf(document.activeElement)));
  list.addEventListener("focusin", (event) => onRest(classOf(event.target)));
  list.addEventListener("focusout", () => onRest(null));
  list.addEventListener("click", (event) => {
    const index = classOf(event.target);
    if (index === null) return;
    if (event.target.closest(".remove")) onRemove(index);
    else onPin(index);
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Delete" && event.target.closest(".answer")?.dataset.extra) onRemove(classOf(event.target));
    if (!step) return;
    event.preventDefault();
    focusRow(event.target.closest("li"), step);
  });

  // rows: {classIndex, label, figures: one per precision or null, isExtra}; precisions: names; figureName: what the figures are;
  // shown, pinned: class indices
  return {
    render(rows, precisions, figureName) {
      const focused = classOf(document.activeElement);
      list.setAttribute("aria-label", figureName);
      byId("columns").replaceChildren(...columns(rows.length ? figureName : "", precisions));
      list.replaceChildren(...rows.map((row) => createRow(row, precisions)));
      if (focused !== null) list.querySelector(`[data-class="${focused}"]`)?.focus();
    },
    mark(shown, pinned) {
      for (const button of list.querySelectorAll(".answer")) {
        const index = Number(button.dataset.class);
        button.classList.toggle("is-shown", index === shown);
        button.setAttribute("aria-pressed", String(index === pinned));
      }
    },
  };
}

function classOf(target) {
  const row = target?.closest?.(".answers li");
  return row ? Number(row.querySelector(".answer").dataset.class) : null;
}

function focusRow(row, step) {
  const next = step > 0 ? row?.nextElementSibling : row?.previousElementSibling;
  next?.querySelector(".answer").focus();
}

function columns(figureName, precisions) {
  if (precisions.length < 2) return [make("span", "", ""), make("span", "", figureName)];
  const names = [...precisions.map(precisionName), ...(precisions.length === 2 ? ["Points"] : [])];
  const box = make("span", "figures");
  box.append(...names.map((name) => make("span", name === "Points" ? "change" : "figure", name)));
  return [make("span", "", figureName), box];
}

function createRow(row, precisions) {
  const item = document.createElement("li");
  const button = make("button", "answer");
  button.type = "button";
  button.dataset.class = row.classIndex;
  if (row.isExtra) button.dataset.extra = "true";
  button.append(make("span", "label", row.label), figures(row, precisions), bars(row, precisions));
  item.append(button);
  if (row.isExtra) item.append(removeButton(row));
  return item;
}

function figures(row, precisions) {
  const box = make("span", "figures");
  row.figures.forEach((figure, i) => {
    const value = make("span", "figure", figure === null ? "–" : percent(figure));
    if (precisions.length > 1) value.prepend(make("span", "spoken", `${precisionName(precisions[i])} `));
    box.append(value);
  });
  if (precisions.length === 2 && row.figures.every((figure) => figure !== null)) {
    const change = make("span", "change", points(row.figures[1] - row.figures[0]));
    change.title = "Difference in percentage points";
    box.append(change);
  }
  return box;
}

function bars(row, precisions) {
  const box = make("span", "bars");
  box.setAttribute("aria-hidden", "true");
  row.figures.forEach((figure, i) => {
    const bar = make("span", "bar");
    bar.dataset.precision = precisions.length > 1 ? String(i) : "";
    bar.style.setProperty("--share", String(figure ?? 0));
    box.append(bar);
  });
  return box;
}

function removeButton(row) {
  const button = make("button", "remove icon", "×");
  button.type = "button";
  button.setAttribute("aria-label", `Remove ${row.label}`);
  return button;
}

function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}
