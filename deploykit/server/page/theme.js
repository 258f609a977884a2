// Dark or light: what the reader chose, else what the system says. Loaded in the head and not as a module, so that no frame is
// painted in the wrong colours.

(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function chosen() {
    try {
      return localStorage.getItem("deploykit.theme");
    } catch {
      return null; // storage is switched off: the choice lasts as long as the page
    }
  }

  function apply() {
    root.dataset.theme = chosen() ?? root.dataset.chosen ?? (dark.matches ? "dark" : "light");
  }

  function toggle() {
    const next = root.dataset.theme === "dark" ? "light" : "dark";
    root.dataset.chosen = next;
    try {
      // The system's own theme is followed again as soon as the two are the same.
      if (next === (dark.matches ? "dark" : "light")) localStorage.removeItem("deploykit.theme");
      else localStorage.setItem("deploykit.theme", next);
    } catch {
      // see chosen()
    }
    root.dataset.theme = next;
  }

  dark.addEventListener("change", () => {
    delete root.dataset.chosen;
    apply();
  });
  document.addEventListener("deploykit:theme", toggle);
  apply();
})();
