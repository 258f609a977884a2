// What the server says about a photo, read into what the page shows.
//
// An answer is {precision, backend, predictions, explanations, timing, box, photoSize}: predictions as the API orders them, 
// explanations by class index, each with its figure (the probability, or a segmentation model's share of the picture) and with
// its map and mask decoded (map.js).

import { askAboutPhoto } from "./api.js";
import { decodeMap, stretched } from "./map.js";

const TOP = 5;

const AT_THE_PICTURE = ["guided-backprop", "deconvnet"]; // these take no layer
const FINE = [...AT_THE_PICTURE, "guided-grad-cam"];
export const SAME_FOR_ALL = ["eigen-cam"];

export function takesLayer(method) {
  return !AT_THE_PICTURE.includes(method);
}

export function isFine(method) {
  return FINE.includes(method);
}

// Query of a request. classes: indices, or null for the likeliest; settings: {model, method, layer}, model as /v1/models has it.
export function query(settings, precision, classes) {
  const { model, method, layer } = settings;
  const asked = { top: Math.min(TOP, model.classes), precision, method };
  if (takesLayer(method) && layer !== model.layers[0]) asked.layer = layer;
  return classes ? { ...asked, class_index: classes.join(",") } : { ...asked, classes: "top" };
}

// Answers at every precision of a choice (settings.js), and everywhere the same classes: the likeliest of any, and extras.
export async function explainAll(photo, choice, extras, signal) {
  const answers = await Promise.all(choice.precisions.map((precision) => explain(photo, choice, precision, null, signal)));
  const wanted = [...new Set([...answers.flatMap(({ explanations }) => [...explanations.keys()]), ...extras])];
  await Promise.all(answers.map((answer) => fillIn(answer, photo, choice, wanted, signal)));
  return answers;
}

// Explain further classes of a photo that is answered.
export async function fillIn(answer, photo, choice, classes, signal) {
  const missing = classes.filter((classIndex) => !answer.explanations.has(classIndex));
  if (missing.length === 0 || !explains(choice.model, answer.precision)) return;
  const { explanations } = await explain(photo, choice, answer.precision, missing, signal);
  explanations.forEach((one, classIndex) => answer.explanations.set(classIndex, one));
}

// The likeliest classes of any of the answers, the first answer's first.
export function likeliest(answers) {
  return [...new Set(answers.flatMap(({ predictions }) => predictions.map((one) => one.class_index)))];
}

async function explain(photo, settings, precision, classes, signal) {
  if (!explains(settings.model, precision)) return predict(photo, settings, precision, signal);
  const body = await askAboutPhoto(settings.model.name, "explain", photo, query(settings, precision, classes), signal);
  const explanations = await Promise.all(body.explanations.map(readExplanation));
  return {
    precision,
    backend: body.backend,
    predictions: body.predictions,
    explanations: new Map(explanations.map((one) => [one.classIndex, one])),
    timing: body.timing_ms,
    box: body.box,
    photoSize: body.photo,
  };
}

// The answer of a graph that has none to explain it: the same without maps, and of the likeliest classes alone.
async function predict(photo, settings, precision, signal) {
  const asked = { top: Math.min(TOP, settings.model.classes), precision };
  const { backend, predictions, timing_ms: timing } = await askAboutPhoto(settings.model.name, "predict", photo, asked, signal);
  const rows = predictions.map((one) => ({ ...about(one), isExplained: false, map: null, mask: null }));
  const explanations = new Map(rows.map((one) => [one.classIndex, one]));
  const photoSize = { width: photo.width, height: photo.height };
  return { precision, backend, predictions, explanations, timing, box: null, photoSize };
}

function explains(model, precision) {
  return model.explain_precisions.includes(precision);
}

// The time of one prediction, without an explanation, in milliseconds of the server's clock.
export async function timePrediction(photo, settings, precision, signal) {
  const body = await askAboutPhoto(settings.model.name, "predict", photo, { top: 1, precision }, signal);
  return body.timing_ms.infer;
}

async function readExplanation(one) {
  const isSilent = !one.has_evidence || one.is_even === true;
  const map = isSilent ? null : await decodeMap(one.map);
  return {
    ...about(one),
    isExplained: true,
    hasEvidence: one.has_evidence,
    isEven: one.is_even === true,
    map: map && isFine(one.method) ? stretched(map) : map,
    mask: one.mask ? await decodeMap(one.mask) : null,
  };
}

function about({ class_index: classIndex, label, probability, share }) {
  return { classIndex, label, share, figure: share ?? probability };
}
