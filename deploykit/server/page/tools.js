// Below the photo: overlay, map or photo alone, and how opaque the map is.

import { byId } from "./notice.js";

const VIEWS = ["overlay", "map", "photo"];

export function createTools(stage) {
  const slider = byId("opacity");
  const buttons = [...byId("show").children];

  function show(view) {
    stage.look({ show: view });
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.show === view)));
    slider.disabled = view !== "overlay";
  }

  function setOpacity(percent) {
    slider.value = String(percent);
    slider.style.setProperty("--filled", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} %`);
    stage.look({ opacity: Number(slider.value) / 100 });
  }

  slider.addEventListener("input", () => setOpacity(slider.value));
  buttons.forEach((button) => button.addEventListener("click", () => show(button.dataset.show)));
  setOpacity(Math.round(100 * stage.lookNow.opacity));

  return {
    nextView: () => show(VIEWS[(VIEWS.indexOf(stage.lookNow.show) + 1) % VIEWS.length]),
    changeOpacity: (by) => setOpacity(Number(slider.value) + by),
  };
}
