// One photo with one map over it, drawn on a canvas as deploykit/runtime/overlay.py draws it: colour and opacity grow with the
// evidence, a fine line runs round what has at least half of the strongest, and what the network did not see is darkened.
//
// A view is {map, mask, box, photoSize, show, opacity, isFine}: map and mask (map.js) or null; box {left, top, width, height} in
// the photo's pixels; show "overlay", "map" or "photo"; opacity at the strongest evidence; isFine for maps of single pixels, which
// are better without the line.

import { COLOURS } from "./colours.js";
import { contour } from "./contour.js";

export const MOST_OPACITY = 0.72; // the object's own outlines must still be seen through the colour
const EASE = 1.25;
const FINE_EASE = 0.5; // single pixels are lost unless weak ones are seen too
const HALF = 0.5;
const LINE = "rgb(255 255 255 / 0.8)";
const SHADE = "rgb(12 12 16 / 0.55)";
const UNSEEN = "rgb(58 58 62)";
const [MASK_LINE, MASK_SHADOW] = ["rgb(70 215 255)", "rgb(10 40 60)"];

// Draw the view over the whole of a canvas. photo: an ImageBitmap, or null where the browser cannot read the file.
export function drawPicture(canvas, photo, view) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  if (photo && view.show !== "map") context.drawImage(photo, 0, 0, width, height);
  else fill(context, UNSEEN);
  if (view.show === "photo" || !view.box) return;
  const box = scaleBox(view.box, view.photoSize, canvas);
  const line = Math.max(1, Math.min(width, height) / 350);
  if (view.map) drawMap(context, box, view, line);
  if (view.mask) drawMask(context, box, view.mask, line);
  if (view.show === "overlay") markUnseen(context, box, line);
}

function drawMap(context, box, view, line) {
  const isOverlay = view.show === "overlay";
  const opacity = isOverlay ? view.opacity : 1;
  const ease = view.isFine ? FINE_EASE : EASE;
  context.save();
  context.beginPath();
  context.rect(box.left, box.top, box.width, box.height);
  context.clip();
  context.drawImage(colouredMap(view.map, opacity, isOverlay ? ease : 0), box.left, box.top, box.width, box.height);
  if (isOverlay && !view.isFine && opacity > 0) strokeLevel(context, view.map, box, LINE, line, opacity / MOST_OPACITY);
  context.restore();
}

function drawMask(context, box, mask, line) {
  strokeLevel(context, mask, box, MASK_SHADOW, 2.6 * line, 1);
  strokeLevel(context, mask, box, MASK_LINE, 1.3 * line, 1);
}

// A map in its colours at its own size; opacity follows the value to the power of ease.
function colouredMap(map, opacity, ease) {
  const canvas = new OffscreenCanvas(map.width, map.height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(map.width, map.height);
  const pixels = image.data;
  for (let i = 0; i < map.values.length; i += 1) {
    const level = 3 * Math.round(255 * map.values[i]);
    pixels[4 * i] = COLOURS[level];
    pixels[4 * i + 1] = COLOURS[level + 1];
    pixels[4 * i + 2] = COLOURS[level + 2];
    pixels[4 * i + 3] = 255 * opacity * map.values[i] ** ease;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function strokeLevel(context, map, box, colour, lineWidth, opacity) {
  const [across, down] = [box.width / map.width, box.height / map.height];
  const path = contour(map, HALF, (x, y) => [box.left + (x + 0.5) * across, box.top + (y + 0.5) * down]);
  context.save();
  context.globalAlpha = Math.min(1, opacity);
  context.strokeStyle = colour;
  context.lineWidth = lineWidth;
  context.lineCap = "round";
  context.stroke(path);
  context.restore();
}

// Darken what lies outside of the box, and frame it; nothing where the network saw the whole photo.
function markUnseen(context, box, line) {
  const { width, height } = context.canvas;
  if (box.left < 0.5 && box.top < 0.5 && box.left + box.width > width - 0.5 && box.top + box.height > height - 0.5) return;
  const outside = new Path2D();
  outside.rect(0, 0, width, height);
  outside.rect(box.left, box.top, box.width, box.height);
  context.fillStyle = SHADE;
  context.fill(outside, "evenodd");
  context.strokeStyle = "white";
  context.lineWidth = line;
  context.strokeRect(box.left - line / 2, box.top - line / 2, box.width + line, box.height + line);
}

function scaleBox(box, photoSize, canvas) {
  const [across, down] = [canvas.width / photoSize.width, canvas.height / photoSize.height];
  return { left: box.left * across, top: box.top * down, width: box.width * across, height: box.height * down };
}

function fill(context, colour) {
  context.fillStyle = colour;
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
}
