// How photos come in: dropped anywhere, pasted, chosen, taken, or a sample. Each becomes {file, name, bitmap, width, height},
// upright as its EXIF record says; bitmap is null where this browser cannot read the file, which the server still may.

import { getBlob, getJson } from "./api.js";
import { byId } from "./notice.js";

const MOST_SIDE = 2048; // drawn and downloaded at most so large; the server gets the file as it is
const THUMB = 160;

export async function readPhoto(file, name) {
  let bitmap = null;
  let size = { width: 4, height: 3 };
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
    size = { width: bitmap.width, height: bitmap.height };
    bitmap = await reduced(bitmap);
  } catch {
    bitmap = null;
  }
  return { file, name: name || "photo", bitmap, ...size };
}

// onPhoto(file, name) hears of every photo; of samples (below) also that they are.
export function takePhotos(onPhoto) {
  const [file, shot, veil] = ["file", "shot", "veil"].map(byId);
  for (const [button, input] of [["choose", file], ["another", file], ["camera", shot]]) {
    byId(button).addEventListener("click", () => input.click());
  }
  for (const input of [file, shot]) {
    input.addEventListener("change", () => {
      if (input.files[0]) onPhoto(input.files[0], input.files[0].name);
      input.value = ""; // the same file may be chosen again
    });
  }
  byId("camera").hidden = !matchMedia("(pointer: coarse)").matches;
  document.addEventListener("paste", ({ clipboardData }) => {
    const pasted = pictureOf(clipboardData);
    if (pasted) onPhoto(pasted, pasted.name || "pasted picture");
  });
  takeDrops(veil, onPhoto);
}

function takeDrops(veil, onPhoto) {
  const holdsFile = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    veil.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) veil.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    veil.hidden = true;
    if (!holdsFile(event)) return;
    event.preventDefault();
    const dropped = pictureOf(event.dataTransfer) ?? event.dataTransfer.files[0];
    if (dropped) onPhoto(dropped, dropped.name);
  });
}

function pictureOf(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? null;
}

// The samples as buttons with their thumbnails; nothing where there are none. Returns a function that takes one by its name.
export async function showSamples(box, onPhoto) {
  const takers = new Map();
  const { samples } = await getJson("/v1/samples");
  const list = box.querySelector("ul");
  for (const sample of samples) {
    const button = sampleButton(sample.name);
    const loaded = getBlob(sample.url);
    loaded.then((blob) => drawThumb(button.querySelector("canvas"), blob)).catch(() => button.closest("li")?.remove());
    takers.set(sample.name, async () => onPhoto(await loaded, sample.name, { isSample: true }));
    button.addEventListener("click", takers.get(sample.name));
    const item = document.createElement("li");
    item.append(button);
    list.append(item);
  }
  box.hidden = samples.length === 0;
  return async (name) => takers.get(name)?.();
}

function sampleButton(name) {
  const button = document.createElement("button");
  const canvas = document.createElement("canvas");
  button.type = "button";
  button.title = name;
  button.setAttribute("aria-label", `Sample ${name}`);
  canvas.width = canvas.height = THUMB;
  button.append(canvas);
  return button;
}

async function drawThumb(canvas, blob) {
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
  const side = Math.min(bitmap.width, bitmap.height);
  const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, left, top, side, side, 0, 0, THUMB, THUMB);
  bitmap.close();
}

async function reduced(bitmap) {
  const scale = MOST_SIDE / Math.max(bitmap.width, bitmap.height);
  if (scale >= 1) return bitmap;
  const [resizeWidth, resizeHeight] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const small = await createImageBitmap(bitmap, { resizeWidth, resizeHeight, resizeQuality: "high" });
  bitmap.close();
  return small;
}
