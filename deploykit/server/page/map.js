// Maps as the server sends them, 8-bit grey PNGs, and what can be said of two of them.
//
// A map is {width, height, values}: Float32Array [height * width], 0 to 1, at the network's size.

const HALF = 0.5;

export async function decodeMap({ png_b64: text, width, height }) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const pixels = context.getImageData(0, 0, width, height).data;
  const values = new Float32Array(width * height);
  for (let i = 0; i < values.length; i += 1) values[i] = pixels[4 * i] / 255;
  return { width, height, values };
}

// A map of single pixels so that its typical strong ones are seen: what the strongest half percent reach becomes 1, as in
// deploykit/runtime/overlay.py.
export function stretched(map) {
  const limit = Float32Array.from(map.values).sort()[Math.floor(0.995 * (map.values.length - 1))] || 1;
  return { ...map, values: map.values.map((value) => Math.min(1, value / limit)) };
}

export function isSameSize(one, other) {
  return one.width === other.width && one.height === other.height;
}

// Somewhere between two maps of one size: share 0 gives the first, 1 the second.
export function mix(from, to, share) {
  const values = new Float32Array(to.values.length);
  for (let i = 0; i < values.length; i += 1) values[i] = from.values[i] + share * (to.values[i] - from.values[i]);
  return { ...to, values };
}

// How alike two maps of one size are: Pearson's correlation over their pixels, and the overlap (intersection over union) of the
// places with at least half of the strongest evidence. Null where a map is even.
export function likeness(one, other) {
  if (!isSameSize(one, other)) return null;
  const count = one.values.length;
  const [mean, otherMean] = [one, other].map((map) => map.values.reduce((sum, value) => sum + value, 0) / count);
  let [both, own, others, intersection, union] = [0, 0, 0, 0, 0];
  for (let i = 0; i < count; i += 1) {
    const [a, b] = [one.values[i], other.values[i]];
    both += (a - mean) * (b - otherMean);
    own += (a - mean) ** 2;
    others += (b - otherMean) ** 2;
    intersection += a >= HALF && b >= HALF ? 1 : 0;
    union += a >= HALF || b >= HALF ? 1 : 0;
  }
  if (own === 0 || others === 0) return null;
  return { correlation: both / Math.sqrt(own * others), overlap: intersection / union };
}
