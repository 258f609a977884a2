// Any class by its name: a text field with a list of what matches, as the WAI-ARIA combobox pattern has it.

const MOST = 8;

// Args: the field, its list, loadLabels(): a promise of the labels, or of null where the model has none, that shows its own errors;
// classes(): how many; and onChoose(classIndex).
export function createSearch(field, list, { loadLabels, classes, onChoose }) {
  let matches = [];
  let active = -1;
  let updating = Promise.resolve();

  async function update() {
    const text = field.value;
    let labels = null;
    try {
      labels = await loadLabels();
    } catch {
      return close(); // loadLabels has said so
    }
    if (text !== field.value) return; // typed on while the labels came
    matches = find(text.trim(), labels, classes());
    active = matches.length ? 0 : -1;
    render(text.trim() !== "");
  }

  function render(isOpen) {
    list.replaceChildren(...matches.map(createOption));
    if (!matches.length && isOpen) list.append(nothing());
    list.hidden = !isOpen;
    field.setAttribute("aria-expanded", String(isOpen));
    point();
  }

  function point() {
    [...list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === active)));
    if (active >= 0 && !list.hidden) {
      field.setAttribute("aria-activedescendant", list.children[active].id);
      list.children[active].scrollIntoView({ block: "nearest" });
    } else field.removeAttribute("aria-activedescendant");
  }

  // Whoever types and presses Enter at once means what they typed, and the labels may still be on their way.
  async function chooseWhenFound() {
    const text = field.value;
    await updating;
    if (field.value === text) choose(active);
  }

  function choose(index) {
    if (!matches[index]) return;
    const { classIndex } = matches[index];
    close();
    field.value = "";
    onChoose(classIndex);
  }

  function close() {
    matches = [];
    active = -1;
    render(false);
  }

  field.addEventListener("input", () => (updating = update()));
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && matches.length) {
      active = (active + step + matches.length) % matches.length;
      point();
    } else if (event.key === "Enter") chooseWhenFound();
    else if (event.key === "Escape" && field.value) {
      field.value = "";
      close();
    } else if (event.key === "Escape") field.blur();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  list.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
  list.addEventListener("click", (event) => {
    const option = event.target.closest("[data-at]");
    if (option) choose(Number(option.dataset.at));
  });

  return {
    clear() {
      field.value = "";
      close();
    },
  };
}

// Labels that begin with the text come first, then those with a word that does, then those that have it anywhere; a number is also
// an index.
function find(text, labels, classes) {
  const wanted = text.toLowerCase();
  if (wanted === "") return [];
  const ranked = [];
  (labels ?? []).forEach((label, classIndex) => {
    const name = label.toLowerCase();
    const at = name.indexOf(wanted);
    if (at < 0) return;
    const isWord = at > 0 && /[^\p{L}\p{N}]/u.test(name[at - 1]);
    ranked.push({ classIndex, label, rank: at === 0 ? 0 : isWord ? 1 : 2 });
  });
  ranked.sort((one, other) => one.rank - other.rank || one.label.length - other.label.length || one.classIndex - other.classIndex);
  const index = /^\d+$/.test(wanted) ? Number(wanted) : -1;
  if (index >= 0 && index < classes) ranked.unshift({ classIndex: index, label: labels?.[index] ?? `class ${index}` });
  return ranked.slice(0, MOST);
}

function createOption({ classIndex, label }, at) {
  const option = document.createElement("li");
  const number = document.createElement("span");
  number.textContent = classIndex;
  option.id = `found-${at}`;
  option.dataset.at = at;
  option.setAttribute("role", "option");
  option.append(label, number);
  return option;
}

function nothing() {
  const item = document.createElement("li");
  item.className = "nothing";
  item.setAttribute("role", "option");
  item.setAttribute("aria-disabled", "true");
  item.textContent = "No class of that name";
  return item;
}
