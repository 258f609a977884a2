// What is shown, in the page's address: a link to a sample, its class, and how it is explained can be sent to somebody else. Photos
// of the reader's own stay out of it.

import { firstChoice } from "./settings.js";

// In the address: {choice, sample, classIndex}, each null where it says nothing or names what is not there (settings.js).
export function readLink(models) {
  const said = new URLSearchParams(location.hash.slice(1));
  const model = models.find(({ name }) => name === said.get("model")) ?? models[0];
  const choice = firstChoice(model);
  const precisions = said.get("precision")?.split(",") ?? [];
  if (precisions.length && precisions.every((one) => model.precisions.includes(one))) choice.precisions = precisions;
  if (model.methods.includes(said.get("method"))) choice.method = said.get("method");
  if (model.layers.includes(said.get("layer"))) choice.layer = said.get("layer");
  const classIndex = /^\d+$/.test(said.get("class") ?? "") ? Number(said.get("class")) : null;
  return { choice, sample: said.get("sample"), classIndex: classIndex !== null && classIndex < model.classes ? classIndex : null };
}

// Only what differs from the first choice is written.
export function writeLink({ choice, models, sample, classIndex }) {
  const first = firstChoice(choice.model);
  const said = new URLSearchParams();
  if (choice.model !== models[0]) said.set("model", choice.model.name);
  if (choice.precisions.join() !== first.precisions.join()) said.set("precision", choice.precisions.join());
  if (choice.method !== first.method) said.set("method", choice.method);
  if (choice.layer !== first.layer) said.set("layer", choice.layer);
  if (sample) said.set("sample", sample);
  if (sample && classIndex !== null) said.set("class", String(classIndex));
  const hash = said.size ? `#${said.toString().replaceAll("%2C", ",")}` : "";
  // Browsers count these calls, and refuse them when a class after the other is rested on.
  if (hash !== location.hash) history.replaceState(null, "", hash || location.pathname);
}
