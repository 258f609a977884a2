// The page: one photo, the answers about it, and which class's map is shown. Everything the reader does changes the state below,
// and render() shows it.

import { explainAll, fillIn, likeliest } from "./answers.js";
import { getJson, modelPath, onKeyNeeded, onWaiting } from "./api.js";
import { drawScale } from "./colours.js";
import { readPhoto, showSamples, takePhotos } from "./intake.js";
import { showSpeaks, spokenAnswers, spokenMap, viewOf } from "./describe.js";
import { askForKey } from "./key.js";
import { listenToKeys } from "./keys.js";
import { readLink, writeLink } from "./link.js";
import { byId, clearErrors, showError, showNote, showWaiting, speak } from "./notice.js";
import { createRanking } from "./ranking.js";
import { createSearch } from "./search.js";
import { createSettings } from "./settings.js";
import { createStage } from "./stage.js";
import { curlCommand, downloadPicture, giveCommand } from "./takeaway.js";
import { renderTiming } from "./timing.js";
import { createTools } from "./tools.js";
import { compareLatency, verdict } from "./verdict.js";

const PATIENCE_MS = 200; // nothing moves for answers that are there sooner

// photo: intake.js. answers: one per precision shown (answers.js), of answered, the choice they were asked with (settings.js).
// extras: classes the reader asked for. resting, pinned: class indices; the first of resting, pinned and the likeliest is shown.
const state = { photo: null, answers: [], answered: null, extras: [], resting: null, pinned: null, latency: "" };
const stage = createStage(byId("stage"));
const tools = createTools(stage);
const labels = new Map();
let models = [];
let settings = null;
let running = new AbortController();
let asking = Promise.resolve(); // of what was asked last
let turns = 0;

const ranking = createRanking(byId("answers"), {
  onRest: (classIndex) => {
    if (classIndex === state.resting) return;
    state.resting = classIndex;
    renderShown();
  },
  onPin: pin,
  onRemove: (classIndex) => {
    state.extras = state.extras.filter((one) => one !== classIndex);
    if (state.pinned === classIndex) state.pinned = null;
    state.resting = null;
    render();
  },
});

const search = createSearch(byId("search"), byId("found"), {
  loadLabels,
  classes: () => settings.choice.model.classes,
  onChoose: addClass,
});

async function start() {
  onKeyNeeded(askForKey);
  onWaiting(showWaiting);
  drawScale(byId("scale"));
  byId("theme").addEventListener("click", toggleTheme);
  byId("help").addEventListener("click", () => byId("keys").showModal());
  byId("download").addEventListener("click", download);
  byId("curl").addEventListener("click", copyCommand);
  await load();
}

async function load() {
  try {
    ({ models } = await getJson("/v1/models"));
    settings = createSettings(models, changeSettings);
  } catch (error) {
    showError("page", error, load);
    return;
  }
  const link = readLink(models);
  settings.set(link.choice);
  takePhotos(takePhoto);
  listenToKeys(keyActions());
  addEventListener("hashchange", () => location.reload());
  document.body.dataset.ready = "true";
  try {
    const takeSample = await showSamples(byId("samples"), takePhoto);
    if (!link.sample || state.photo) return;
    await takeSample(link.sample);
    if (link.classIndex !== null) await addClass(link.classIndex);
  } catch (error) {
    showError("page", error);
  }
}

async function takePhoto(file, name, { isSample = false } = {}) {
  running.abort();
  clearErrors();
  search.clear();
  const turn = (turns += 1);
  const photo = { ...(await readPhoto(file, name)), isSample };
  if (turn !== turns) return photo.bitmap?.close(); // another one came meanwhile
  const before = state.photo;
  Object.assign(state, { photo, answers: [], answered: null, extras: [], resting: null, pinned: null });
  document.body.dataset.state = "shown";
  stage.setPhoto(photo);
  before?.bitmap?.close();
  scrollTo({ top: 0 });
  render();
  return ask("photo");
}

async function changeSettings(choice) {
  const isOtherModel = choice.model !== settings.choice.model;
  settings.set(choice);
  if (isOtherModel) Object.assign(state, { extras: [], resting: null, pinned: null });
  if (state.photo) await ask("settings");
}

// Ask for everything that is shown. place: beside what an error is shown (notice.js).
async function ask(place) {
  running.abort();
  const controller = (running = new AbortController());
  const choice = settings.choice;
  clearErrors();
  state.latency = "";
  setWorking(true);
  const answering = takeAnswers(choice, controller.signal);
  asking = answering.catch(() => {});
  try {
    await answering;
  } catch (error) {
    if (!controller.signal.aborted) fail(place, error);
    return;
  } finally {
    if (running === controller) setWorking(false);
  }
  if (choice.precisions.length > 1) await measure(choice, controller.signal);
}

async function takeAnswers(choice, signal) {
  const answers = await explainAll(state.photo, choice, state.extras, signal);
  signal.throwIfAborted();
  Object.assign(state, { answers, answered: choice });
  fitPhoto(answers[0].photoSize);
  render();
  speak(spokenAnswers(state.photo, answers));
}

// A photo that failed is let go; settings that failed go back to those that are answered.
function fail(place, error) {
  const isPassing = error.status === 0 || error.status >= 500;
  if (place === "photo") {
    if (!isPassing) {
      state.photo = null;
      stage.setPhoto(null);
      document.body.dataset.state = "empty";
    }
  } else if (state.answered && !isPassing) settings.set(state.answered);
  showError(place, error, isPassing ? () => ask(place) : null);
  if (!(error.status >= 0)) throw error; // a mistake of this page: the console should have it too
}

// What is being asked has its answer first: it would take the place of the answers that the class is filled into.
async function addClass(classIndex) {
  const { photo } = state;
  await settled();
  if (state.photo !== photo || !state.answers.length) return;
  clearErrors();
  if (!state.extras.includes(classIndex) && !likeliest(state.answers).includes(classIndex)) state.extras.push(classIndex);
  const { signal } = running;
  const before = state.pinned;
  Object.assign(state, { pinned: classIndex, resting: null });
  try {
    await Promise.all(state.answers.map((answer) => fillIn(answer, photo, state.answered, [classIndex], signal)));
  } catch (error) {
    if (signal.aborted) return; // for a question that has the class among its extras
    state.extras = state.extras.filter((one) => one !== classIndex);
    if (state.pinned === classIndex) state.pinned = before;
    showError("search", error, error.status === 0 ? () => addClass(classIndex) : null);
    return;
  }
  state.resting = null;
  render();
  speakShown();
}

async function settled() {
  let last = null;
  while (last !== asking) await (last = asking);
}

async function measure(choice, signal) {
  try {
    state.latency = await compareLatency(state.photo, choice, choice.precisions, signal);
    if (!signal.aborted) renderVerdict();
  } catch (error) {
    if (!signal.aborted) showError("settings", error);
  }
}

async function loadLabels() {
  const { name, has_labels: hasLabels } = settings.choice.model;
  if (!hasLabels) return null;
  if (!labels.has(name)) labels.set(name, getJson(`${modelPath(name)}/labels`));
  try {
    return (await labels.get(name)).labels;
  } catch (error) {
    labels.delete(name);
    showError("search", error);
    throw error;
  }
}

// A file that this browser cannot read, or turns otherwise than the network saw it, is not drawn.
function fitPhoto(size) {
  const { photo } = state;
  const skew = Math.abs(photo.width * size.height - photo.height * size.width);
  if (photo.bitmap && skew <= Math.max(size.width, size.height)) return;
  Object.assign(photo, size, { bitmap: null });
  stage.setPhoto(photo);
  showNote("photo", "This browser does not show this file as the network saw it, so the maps stand alone.");
}

function pin(classIndex) {
  state.pinned = state.pinned === classIndex ? null : classIndex;
  renderShown();
  speakShown();
}

function shownClass() {
  const [first] = state.answers;
  const wanted = [state.resting, state.pinned].find((one) => one !== null && first?.explanations.has(one));
  return wanted ?? first?.predictions[0].class_index;
}

function render() {
  const { answers, extras } = state;
  byId("headline").hidden = answers.length !== 1;
  byId("headline").textContent = answers[0]?.predictions[0].label ?? "";
  const classes = [...new Set([...likeliest(answers), ...extras])].filter((one) => answers[0]?.explanations.has(one));
  const rows = classes.map((classIndex) => ({
    classIndex,
    label: answers[0].explanations.get(classIndex).label,
    figures: answers.map(({ explanations }) => explanations.get(classIndex)?.figure ?? null),
    isExtra: extras.includes(classIndex),
  }));
  const isSegmentation = state.answered?.model.task === "segmentation";
  ranking.render(rows, answers.map(({ precision }) => precision), isSegmentation ? "Share of the picture" : "Probability");
  renderTiming(byId("timing"), answers);
  renderShown();
}

function renderShown() {
  const shown = shownClass();
  if (state.answered) writeLink({ choice: state.answered, models, sample: sampleName(), classIndex: state.pinned });
  ranking.mark(shown, state.pinned);
  stage.show(views());
  showSpeaks(byId("speaks"), state.answers, state.answered, shown);
  renderVerdict();
}

function sampleName() {
  return state.photo.isSample ? state.photo.name : null;
}

function views() {
  const { answers, answered, photo } = state;
  const shown = shownClass();
  const label = answers[0]?.explanations.get(shown).label;
  const about = { photo, method: answered?.method, isOneOfSeveral: answers.length > 1 };
  return answers.map((answer) => viewOf(answer, shown, label, about));
}

function renderVerdict() {
  const box = byId("verdict");
  box.hidden = state.answers.length < 2;
  if (box.hidden) return;
  const sentences = [...verdict(state.answers, shownClass()), state.latency || "Timing both …"];
  box.replaceChildren(...sentences.map((text) => Object.assign(document.createElement("p"), { textContent: text })));
}

function speakShown() {
  const one = state.answers[0]?.explanations.get(shownClass());
  if (one) speak(spokenMap(one, state.pinned !== null));
}

let workingTimer = 0;

function setWorking(isWorking) {
  clearTimeout(workingTimer);
  document.body.dataset.busy = String(isWorking);
  byId("answers").setAttribute("aria-busy", String(isWorking));
  if (isWorking) workingTimer = setTimeout(() => (byId("working").hidden = false), PATIENCE_MS);
  else byId("working").hidden = true;
}

function download() {
  if (state.answers.length) downloadPicture(state.photo, views(), stage.lookNow);
}

function copyCommand() {
  if (state.answers.length) giveCommand(curlCommand(state.photo, state.answered, state.answered.precisions[0], shownClass()));
}

function toggleTheme() {
  document.dispatchEvent(new Event("deploykit:theme"));
}

function keyActions() {
  return {
    choose: () => byId("choose").click(),
    pin: (number) => {
      const button = byId("answers").children[number - 1]?.querySelector(".answer");
      if (button) pin(Number(button.dataset.class));
    },
    unpin: () => {
      Object.assign(state, { pinned: null, resting: null });
      renderShown();
      speakShown();
    },
    search: () => byId("search").focus(),
    view: tools.nextView,
    opacity: tools.changeOpacity,
    method: settings.nextMethod,
    compare: settings.compare,
    download,
    curl: copyCommand,
    theme: toggleTheme,
    help: () => byId("keys").showModal(),
  };
}

start();
