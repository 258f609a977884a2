// The keyboard: one table that is both obeyed and shown.

import { byId } from "./notice.js";

// actions: by name, what each key does.
export function listenToKeys(actions) {
  const table = [
    ["o", "Choose a photo", actions.choose],
    ["1 – 9", "Pin that answer's map", null],
    ["↑ ↓", "From answer to answer, Enter pins", null],
    ["Esc", "Back to the likeliest class", actions.unpin],
    ["/", "Explain another class", actions.search],
    ["Del", "Remove a class that was added", null],
    ["v", "Overlay, map, photo", actions.view],
    ["[ ]", "Less and more opacity", null],
    ["m", "Next method", actions.method],
    ["s", "Precisions side by side", actions.compare],
    ["d", "Download PNG", actions.download],
    ["c", "Copy as curl", actions.curl],
    ["t", "Dark or light", actions.theme],
    ["?", "This list", actions.help],
  ];
  byId("keys").querySelector("dl").replaceChildren(...table.flatMap(([keys, text]) => entry(keys, text)));
  const byKey = new Map(table.filter(([, , act]) => act).map(([key, , act]) => [key === "Esc" ? "Escape" : key, act]));
  byKey.set("[", () => actions.opacity(-10)).set("]", () => actions.opacity(10));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || document.querySelector("dialog[open]")) return;
    const act = /^[1-9]$/.test(event.key) ? () => actions.pin(Number(event.key)) : byKey.get(event.key);
    if (!act) return;
    event.preventDefault();
    act();
  });
}

function isTyping(target) {
  return target instanceof HTMLElement && target.matches("input:not([type=range]), select, textarea");
}

function entry(keys, text) {
  const term = document.createElement("dt");
  for (const key of keys.split(" ")) {
    if (key === "–") term.append(" – ");
    else term.append(Object.assign(document.createElement("kbd"), { textContent: key }));
  }
  return [term, Object.assign(document.createElement("dd"), { textContent: text })];
}
