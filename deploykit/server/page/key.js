// The question for the API key, when the server wants one.

import { byId } from "./notice.js";

// isRefused: there was a key, and the server did not take it. Returns a promise of the key, or of null.
export function askForKey(isRefused) {
  const dialog = byId("key");
  const field = byId("key-value");
  byId("key-words").textContent = isRefused
    ? "The server does not take this key. Try another one."
    : "This server asks for a key: the one that deploykit serve was started with.";
  field.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const form = dialog.querySelector("form");
    const answer = (event) => {
      event.preventDefault();
      finish(field.value.trim() || null);
    };
    const cancel = () => finish(null);
    const finish = (key) => {
      form.removeEventListener("submit", answer);
      byId("key-cancel").removeEventListener("click", cancel);
      dialog.removeEventListener("close", cancel);
      dialog.close();
      resolve(key);
    };
    form.addEventListener("submit", answer);
    byId("key-cancel").addEventListener("click", cancel);
    dialog.addEventListener("close", cancel);
  });
}
