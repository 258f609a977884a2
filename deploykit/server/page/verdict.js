// Two precisions of one model beside each other, in words: do they agree, by how much do their probabilities differ, do their maps
// look at the same place, and which is faster.

import { timePrediction } from "./answers.js";
import { likeness } from "./map.js";
import { milliseconds, precisionName, silence } from "./words.js";

const ROUNDS = 7;
const NO_DIFFERENCE = 0.1; // medians of seven single predictions scatter by as much on a machine with neighbours
const [SAME_PLACE, NEAR_PLACE] = [0.75, 0.4]; // overlap of the strongest halves

// Sentences about each precision but the first: whether it agrees, and how far it is apart. answers: one per precision; the first
// is what the others are compared with. shown: the class whose maps are on the page.
export function verdict(answers, shown) {
  const [first, ...others] = answers;
  return others.flatMap((other) => [agreement(first, other), `${difference(first, other)} ${maps(first, other, shown)}`.trim()]);
}

function agreement(first, other) {
  const [one, two] = [first.predictions[0], other.predictions[0]];
  const names = [first, other].map((answer) => precisionName(answer.precision));
  if (one.class_index === two.class_index) return `${names.join(" and ")} agree on ${one.label}.`;
  return `${names[0]} says ${one.label}, ${names[1]} says ${two.label}.`;
}

function difference(first, other) {
  let most = { by: -1, label: "" };
  for (const [classIndex, one] of first.explanations) {
    const two = other.explanations.get(classIndex);
    const by = two ? Math.abs(two.figure - one.figure) : -1;
    if (by > most.by) most = { by, label: one.label };
  }
  if (most.by < 0) return "";
  if (most.by < 0.0005) return "The shown probabilities differ by less than 0.1 points.";
  return `The shown probabilities differ by up to ${(100 * most.by).toFixed(1)} points (${most.label}).`;
}

function maps(first, other, shown) {
  const [one, two] = [first, other].map((answer) => answer.explanations.get(shown));
  if (!one || !two) return "";
  if (silence(one) && silence(two)) return `Neither has a map for ${one.label}.`;
  if (silence(one) || silence(two)) return `Only one has a map for ${one.label}.`;
  const found = likeness(one.map, two.map);
  if (!found) return "";
  const { overlap, correlation } = found;
  const where = overlap >= SAME_PLACE ? "the same place" : overlap >= NEAR_PLACE ? "nearly the same place" : "different places";
  return `For ${one.label} they look at ${where}: maps correlate at ${correlation.toFixed(2)}.`;
}

// Predictions timed in turn, so that a busy moment meets every precision alike. Returns a sentence.
export async function compareLatency(photo, settings, precisions, signal) {
  const times = precisions.map(() => []);
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [i, precision] of precisions.entries()) times[i].push(await timePrediction(photo, settings, precision, signal));
  }
  return latencyWords(precisions, times.map(median));
}

function latencyWords(precisions, medians) {
  const figures = precisions.map((precision, i) => `${precisionName(precision)}\u00a0${milliseconds(medians[i])}`);
  const turns = precisions.slice(1).map((precision, i) => ratioWords(precisionName(precision), medians[0] / medians[i + 1]));
  return `Median of ${ROUNDS} predictions in turn: ${figures.join(", ")}. ${turns.join(" ")}`;
}

function ratioWords(name, ratio) {
  if (Math.abs(Math.log(ratio)) < Math.log(1 + NO_DIFFERENCE)) return `${name} is as fast here.`;
  return ratio > 1 ? `${name} is ${ratio.toFixed(1)} times as fast.` : `${name} takes ${(1 / ratio).toFixed(1)} times as long.`;
}

function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
}
