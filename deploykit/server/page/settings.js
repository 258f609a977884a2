// Model, precision, method and layer: what the bundle offers, and what is chosen. A bundle with one of something shows it as text.

import { SAME_FOR_ALL, takesLayer } from "./answers.js";
import { byId } from "./notice.js";
import { count, methodName, precisionName } from "./words.js";

// choice: {model, method, layer, precisions}: precisions are those shown, one or all. onChange(choice) hears of each new one.
export function createSettings(models, onChange) {
  let choice = firstChoice(models[0]);

  function change(changes) {
    onChange({ ...choice, ...changes });
  }

  fillSelect(byId("model"), models.map((model) => [model.name, model.name]));
  byId("model").addEventListener("change", (event) => change(firstChoice(models.find((one) => one.name === event.target.value))));
  byId("method").addEventListener("change", (event) => change({ method: event.target.value }));
  byId("layer").addEventListener("change", (event) => change({ layer: event.target.value }));
  byId("precisions").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) change({ precisions: button.dataset.precisions.split(",") });
  });

  return {
    get choice() {
      return choice;
    },
    // The page calls it with what was asked for, or to go back to what was there before.
    set(next) {
      const isOther = next.model !== choice.model || byId("method").options.length === 0;
      choice = next;
      if (isOther) renderModel(choice.model, models.length > 1);
      render(choice);
    },
    // All precisions side by side, or back to the bundle's default.
    compare() {
      const { precisions, default_precision: own } = choice.model;
      if (precisions.length > 1) change({ precisions: choice.precisions.length > 1 ? [own] : ordered(choice.model) });
    },
    nextMethod() {
      const { methods } = choice.model;
      if (methods.length < 2) return;
      change({ method: methods[(methods.indexOf(choice.method) + 1) % methods.length] });
    },
  };
}

export function firstChoice(model) {
  return { model, method: model.methods[0] ?? "", layer: model.layers[0] ?? "", precisions: [model.default_precision] };
}

// FP32 first: the others are compared with it.
function ordered(model) {
  return ["fp32", "fp16", "int8"].filter((precision) => model.precisions.includes(precision));
}

function renderModel(model, isOneOfSeveral) {
  byId("model").hidden = !isOneOfSeveral;
  byId("model-name").hidden = isOneOfSeveral;
  byId("model-name").textContent = model.name;
  byId("model").value = model.name;
  byId("untrained").hidden = model.trained;
  const kind = model.task === "segmentation" ? "segmentation, " : "";
  const only = model.precisions.length === 1 ? `, ${precisionName(model.precisions[0])}` : "";
  const { width, height } = model.image;
  byId("model-facts").textContent = `${kind}${count(model.classes)} classes, ${width} × ${height} px${only}`;
  fillSelect(byId("method"), model.methods.map((method) => [method, methodName(method)]));
  for (const id of ["settings", "search"]) byId(id).hidden = model.methods.length === 0;
  fillSelect(byId("layer"), model.layers.map((layer) => [layer, layer]));
  byId("precisions").replaceChildren(...precisionButtons(model));
  byId("precisions").hidden = model.precisions.length < 2;
}

function render({ model, method, layer, precisions }) {
  byId("method").value = method;
  const layers = byId("layer");
  layers.disabled = !takesLayer(method) || model.layers.length < 2;
  layers.value = layer;
  const note = byId("method-note");
  note.hidden = takesLayer(method) && !SAME_FOR_ALL.includes(method);
  note.textContent = takesLayer(method)
    ? `${methodName(method)} draws the same map for every class.`
    : `${methodName(method)} looks at the picture itself, at no layer.`;
  for (const button of byId("precisions").children) {
    button.setAttribute("aria-pressed", String(button.dataset.precisions === precisions.join(",")));
  }
}

function precisionButtons(model) {
  const all = ordered(model);
  const buttons = all.map((precision) => precisionButton([precision], precisionName(precision)));
  return [...buttons, precisionButton(all, "Side by side")];
}

function precisionButton(precisions, text) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.precisions = precisions.join(",");
  button.textContent = text;
  return button;
}

function fillSelect(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
}
