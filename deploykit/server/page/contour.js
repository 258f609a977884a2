// Where a map passes a level, as a path: marching squares (Lorensen & Cline 1987, in two dimensions) between the pixels' centres.

// The edges of a cell that the line crosses, for each of the 16 cases of its corners: bit 0 top left, 1 top right, 2 bottom right,
// 3 bottom left. Edges: 0 top, 1 right, 2 bottom, 3 left. The two cases of opposite corners are cut apart.
const CROSSED = [
  [], [3, 0], [0, 1], [3, 1], [1, 2], [3, 0, 1, 2], [0, 2], [3, 2],
  [2, 3], [0, 2], [0, 1, 2, 3], [1, 2], [1, 3], [0, 1], [0, 3], [],
]; // prettier-ignore

// Args: a map, a level between 0 and 1, and place: from a pixel's centre (x, y) on the map to the canvas, [x, y].
export function contour(map, level, place) {
  const { width, height, values } = map;
  const path = new Path2D();
  for (let y = 0; y + 1 < height; y += 1) {
    for (let x = 0; x + 1 < width; x += 1) {
      const at = y * width + x;
      const [a, b, c, d] = [values[at], values[at + 1], values[at + width + 1], values[at + width]];
      const kind = (a >= level ? 1 : 0) | (b >= level ? 2 : 0) | (c >= level ? 4 : 0) | (d >= level ? 8 : 0);
      if (kind === 0 || kind === 15) continue;
      const corners = [a, b, c, d];
      const edges = CROSSED[kind];
      for (let i = 0; i < edges.length; i += 2) {
        path.moveTo(...place(...crossing(edges[i], corners, level, x, y)));
        path.lineTo(...place(...crossing(edges[i + 1], corners, level, x, y)));
      }
    }
  }
  return path;
}

function crossing(edge, [topLeft, topRight, bottomRight, bottomLeft], level, x, y) {
  if (edge === 0) return [x + share(topLeft, topRight, level), y];
  if (edge === 1) return [x + 1, y + share(topRight, bottomRight, level)];
  if (edge === 2) return [x + share(bottomLeft, bottomRight, level), y + 1];
  return [x, y + share(topLeft, bottomLeft, level)];
}

function share(from, to, level) {
  return (level - from) / (to - from);
}
