// The photos on the page: one, or one per precision side by side. Each is a canvas at the screen's own resolution; when another
// map is shown, the old one flows into it, unless the reader asked for less motion.

import { isSameSize, mix } from "./map.js";
import { drawPicture, MOST_OPACITY } from "./picture.js";

const FLOW_MS = 240;
const stillness = matchMedia("(prefers-reduced-motion: reduce)");

// Args: the element that gets the figures. What is drawn is told by show(); look() changes how.
export function createStage(element) {
  const look = { show: "overlay", opacity: MOST_OPACITY };
  let photo = null;
  let figures = [];

  const observer = new ResizeObserver(() => figures.forEach(fit));

  function fit(figure) {
    if (!photo) return;
    const scale = window.devicePixelRatio || 1;
    const width = Math.round(figure.canvas.clientWidth * scale);
    const height = Math.round((width * photo.height) / photo.width);
    if (width === 0 || (figure.canvas.width === width && figure.canvas.height === height)) return;
    figure.canvas.width = width;
    figure.canvas.height = height;
    draw(figure);
  }

  function draw(figure) {
    if (!photo || figure.canvas.clientWidth === 0) return;
    const { view } = figure;
    drawPicture(figure.canvas, photo.bitmap, { ...view, ...look, map: figure.drawn ?? view?.map ?? null });
  }

  function flow(figure, from, to) {
    cancelAnimationFrame(figure.frame);
    const started = performance.now();
    const step = (now) => {
      const share = Math.min(1, Math.max(0, (now - started) / FLOW_MS));
      figure.drawn = share < 1 ? mix(from, to, 1 - (1 - share) ** 3) : to;
      draw(figure);
      figure.canvas.dataset.settled = String(share === 1);
      if (share < 1) figure.frame = requestAnimationFrame(step);
    };
    step(started);
  }

  function update(figure, view) {
    const before = figure.drawn;
    figure.view = view;
    figure.canvas.setAttribute("aria-label", view?.description ?? photo?.name ?? "");
    figure.caption.textContent = view?.caption ?? "";
    figure.caption.hidden = !view?.caption;
    const canFlow = before && view?.map && before !== view.map && isSameSize(before, view.map) && !stillness.matches;
    if (canFlow) return flow(figure, before, view.map);
    cancelAnimationFrame(figure.frame);
    figure.drawn = view?.map ?? null;
    figure.canvas.dataset.settled = "true";
    draw(figure);
  }

  function arrange(count) {
    while (figures.length > count) {
      const { root, canvas, frame } = figures.pop();
      cancelAnimationFrame(frame);
      observer.unobserve(canvas);
      root.remove();
    }
    while (figures.length < count) {
      const figure = createFigure();
      element.append(figure.root);
      observer.observe(figure.canvas);
      figures.push(figure);
    }
    element.dataset.count = String(count);
  }

  return {
    // photo: {name, bitmap, width, height} (intake.js) or null
    setPhoto(next) {
      photo = next;
      figures.forEach((figure) => {
        cancelAnimationFrame(figure.frame);
        figure.drawn = figure.view = null;
      });
      element.style.setProperty("--shape", next ? next.width / next.height : 1);
      arrange(next ? Math.max(1, figures.length) : 0);
      figures.forEach(fit);
      figures.forEach(draw);
    },
    // views: what picture.js draws, each with a description for screen readers and a caption ("" for none)
    show(views) {
      if (!photo) return;
      arrange(Math.max(1, views.length));
      figures.forEach((figure, i) => update(figure, views[i] ?? null));
      figures.forEach(fit);
    },
    look(changes) {
      Object.assign(look, changes);
      figures.forEach(draw);
    },
    get lookNow() {
      return { ...look };
    },
  };
}

function createFigure() {
  const root = document.createElement("figure");
  const canvas = document.createElement("canvas");
  const caption = document.createElement("figcaption");
  canvas.setAttribute("role", "img");
  root.className = "picture";
  root.append(canvas, caption);
  return { root, canvas, caption, view: null, drawn: null, frame: 0 };
}
