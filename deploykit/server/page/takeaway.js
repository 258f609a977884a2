// What the reader takes along: the picture as PNG, the request as a curl command.

import { query } from "./answers.js";
import { hasKey, modelPath } from "./api.js";
import { byId, toast } from "./notice.js";
import { drawPicture } from "./picture.js";

// Save the photo with its map, as it is shown, at the photo's size; several views stand side by side.
export async function downloadPicture(photo, views, look) {
  const { width, height } = photo.bitmap ?? views[0].photoSize;
  const canvas = new OffscreenCanvas(width * views.length, height);
  views.forEach((view, i) => {
    const one = new OffscreenCanvas(width, height);
    drawPicture(one, photo.bitmap, { ...view, ...look });
    canvas.getContext("2d").drawImage(one, i * width, 0);
  });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await canvas.convertToBlob({ type: "image/png" }));
  link.download = pngName(photo.name, views[0].name);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function pngName(photoName, label) {
  const stem = photoName.replace(/\.[^.]*$/, "");
  return `${stem}.${label}`.replace(/[^\p{L}\p{N}.-]+/gu, "-").replace(/^[-.]+|-+$/g, "") + ".png";
}

// The command that asks for what is shown.
export function curlCommand(photo, settings, precision, classIndex) {
  const url = new URL(`${modelPath(settings.model.name)}:explain`, location.origin);
  url.search = new URLSearchParams(query(settings, precision, [classIndex]));
  const lines = ["curl"];
  if (hasKey()) lines.push('-H "Authorization: Bearer $DEPLOYKIT_API_KEY"');
  lines.push(`-F ${quoted(`image=@${curlPath(photo.name)}`)}`, quoted(url.href));
  return lines.join(" \\\n  ").replace("curl \\\n  ", "curl ");
}

// curl's own quotes, because it reads ; and , in a file's name as more of the form.
function curlPath(name) {
  return /[;,"\\]/.test(name) ? `"${name.replace(/(["\\])/g, "\\$1")}"` : name;
}

function quoted(text) {
  return `'${text.replace(/'/g, `'\\''`)}'`;
}

// Copy, or show it to be copied where the browser has no clipboard for the page (plain HTTP from another machine).
export async function giveCommand(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied.");
  } catch {
    const dialog = byId("command");
    const pre = dialog.querySelector("pre");
    pre.textContent = text;
    dialog.showModal();
    getSelection().selectAllChildren(pre);
  }
}
