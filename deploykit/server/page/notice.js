// What the page says beside its answers: errors next to what caused them, short messages, words for screen readers.

const TOAST_MS = 4000;
let toastTimer = 0;

export function byId(id) {
  return document.getElementById(id);
}

// place: "page", "photo", "settings" or "search". retry: what its button does; without it there is none.
export function showError(place, error, retry = null) {
  const box = byId(`${place}-notice`);
  const message = document.createElement("p");
  message.append(sentence(error.message));
  box.replaceChildren(message);
  if (error.hint) {
    const hint = document.createElement("p");
    hint.className = "hint";
    hint.textContent = sentence(error.hint);
    box.append(hint);
  }
  if (retry) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Try again";
    button.addEventListener("click", () => {
      clearError(place);
      retry();
    });
    box.append(button);
  }
  box.classList.remove("is-calm");
  box.hidden = false;
}

// The same place for something that is worth knowing and no error.
export function showNote(place, text) {
  const box = byId(`${place}-notice`);
  box.textContent = text;
  box.classList.add("is-calm");
  box.hidden = false;
}

function clearError(place) {
  byId(`${place}-notice`).hidden = true;
}

export function clearErrors() {
  ["page", "photo", "settings", "search"].forEach(clearError);
}

// While the server is asked again; null when that is over.
export function showWaiting(text) {
  const box = byId("page-notice");
  if (text !== null) showNote("page", text);
  else if (box.classList.contains("is-calm")) box.hidden = true;
}

export function toast(text) {
  const box = byId("toast");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (box.hidden = true), TOAST_MS);
}

export function speak(text) {
  byId("spoken").textContent = text;
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
