// Where the time of a request went, as one bar with its parts named.

import { milliseconds, precisionName } from "./words.js";

const PARTS = ["decode", "queue", "infer", "explain", "draw"];

export function renderTiming(box, answers) {
  box.replaceChildren(...answers.map((answer) => row(answer, answers.length > 1)));
}

function row({ precision, backend, timing }, isOneOfSeveral) {
  const element = document.createElement("div");
  const bar = document.createElement("div");
  const words = document.createElement("p");
  bar.className = "times";
  bar.setAttribute("aria-hidden", "true");
  const parts = PARTS.filter((part) => timing[part] !== undefined);
  for (const part of parts) {
    const piece = document.createElement("span");
    piece.className = `time ${part}`;
    piece.style.setProperty("--ms", String(Math.max(timing[part], 0)));
    bar.append(piece);
  }
  if (isOneOfSeveral) words.append(Object.assign(document.createElement("strong"), { textContent: precisionName(precision) }));
  words.append(...parts.map((part) => term(part, timing)));
  words.title = backend;
  element.append(bar, words);
  return element;
}

function term(part, timing) {
  const span = document.createElement("span");
  span.className = `term ${part}`;
  const isBoth = part === "explain" && timing.infer === undefined; // one graph answers and explains
  span.textContent = `${isBoth ? "infer and explain" : part} ${milliseconds(timing[part])}`;
  return span;
}
