// What is shown, in words: for the line below the photo and for screen readers, and the view that picture.js draws.

import { isFine, takesLayer } from "./answers.js";
import { methodName, percent, precisionName, silence } from "./words.js";

// One answer's map of a class as stage.js shows it.
export function viewOf(answer, classIndex, label, { photo, method, isOneOfSeveral }) {
  const one = answer.explanations.get(classIndex);
  const caption = isOneOfSeveral ? precisionName(answer.precision) : "";
  const silent = silence(one);
  const about = silent ? `${label} ${silent}` : `colours show what speaks for ${label}`;
  return {
    map: one?.map ?? null,
    mask: one?.mask ?? null,
    box: answer.box,
    photoSize: answer.photoSize,
    isFine: isFine(method),
    name: label,
    caption,
    description: `${[photo.name, caption, methodName(method)].filter(Boolean).join(", ")}: ${about}`,
  };
}

// "What speaks for espresso: Grad-CAM at features.8", or that nothing does. choice: settings.js.
export function showSpeaks(line, answers, choice, classIndex) {
  const all = answers.map(({ explanations }) => explanations.get(classIndex));
  const silent = all.map(silence);
  const isSilent = silent.length > 0 && silent.every(Boolean);
  line.classList.toggle("is-silent", isSilent);
  if (!all.length) return line.replaceChildren();
  const label = Object.assign(document.createElement("strong"), { textContent: all[0].label });
  if (isSilent) return line.replaceChildren(label, ` ${silent[0]}.`);
  const where = takesLayer(choice.method) ? ` at ${choice.layer}` : "";
  const without = answers.filter((_, i) => silent[i]).map(({ precision }) => precisionName(precision));
  const note = without.length ? `; without evidence in ${without.join(", ")}` : "";
  const pixels = all.some((one) => one?.mask) ? "; blue encloses its pixels" : "";
  return line.replaceChildren("What speaks for ", label, `: ${methodName(choice.method)}${where}${note}${pixels}`);
}

export function spokenAnswers(photo, answers) {
  const said = answers.map(({ precision, predictions: [first] }) => {
    return `${precisionName(precision)}: ${first.label}, ${percent(first.share ?? first.probability)}`;
  });
  return `${photo.name}. ${said.join(". ")}`;
}

export function spokenMap(explanation, isPinned) {
  const silent = silence(explanation);
  if (silent) return `${explanation.label} ${silent}`;
  return `Map of ${explanation.label}${isPinned ? ", pinned" : ""}`;
}
