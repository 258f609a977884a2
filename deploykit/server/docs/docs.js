// Reads /openapi.json and lists what it describes. Text is set as text, never as HTML.

const make = (tag, text, className) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
};

const resolve = (description, value) => {
  const reference = value?.$ref;
  return reference ? reference.slice(2).split("/").reduce((at, key) => at[key], description) : value;
};

// A schema with its references filled in; none of them refers to itself.
const expand = (description, value) => {
  const found = resolve(description, value);
  if (Array.isArray(found)) return found.map((item) => expand(description, item));
  if (found && typeof found === "object")
    return Object.fromEntries(Object.entries(found).map(([key, inner]) => [key, expand(description, inner)]));
  return found;
};

const constraint = (schema) => {
  const { type, enum: values, minimum, maximum, default: standard } = schema ?? {};
  const parts = [values ? values.join(" | ") : type];
  if (minimum !== undefined && maximum !== undefined) parts.push(`${minimum} to ${maximum}`);
  if (standard !== undefined) parts.push(`default ${standard}`);
  return parts.filter(Boolean).join(", ");
};

const table = (rows) => {
  const made = make("table");
  for (const [name, text] of rows) {
    const row = made.insertRow();
    row.append(make("td", name), make("td", text));
  }
  return made;
};

const schemaDetails = (description, title, content) => {
  const made = make("details");
  made.append(make("summary", title));
  for (const [kind, { schema }] of Object.entries(content ?? {})) {
    made.append(make("p", kind));
    if (schema) made.append(make("pre", JSON.stringify(expand(description, schema), null, 2)));
  }
  return made;
};

const section = (description, path, method, operation) => {
  const made = make("section");
  const title = make("h2");
  title.append(make("span", method.toUpperCase(), "method"), make("code", path));
  made.append(title, make("p", operation.summary));
  if (operation.description) made.append(make("pre", operation.description));
  const parameters = operation.parameters ?? [];
  if (parameters.length)
    made.append(table(parameters.map((p) => [`${p.name} (${p.in})`, [p.description, constraint(p.schema)].filter(Boolean).join(": ")])));
  if (operation.requestBody) made.append(schemaDetails(description, "Body", operation.requestBody.content));
  const answer = operation.responses["200"];
  if (answer?.content) made.append(schemaDetails(description, "Answer", answer.content));
  const others = Object.entries(operation.responses).filter(([status]) => status !== "200");
  if (others.length) {
    const failures = make("details");
    failures.append(make("summary", "Otherwise"), table(others.map(([status, { description: text }]) => [status, text])));
    made.append(failures);
  }
  return made;
};

const show = async () => {
  const introduction = document.getElementById("introduction");
  const answer = await fetch("/openapi.json");
  if (!answer.ok) {
    introduction.textContent = `/openapi.json answers ${answer.status}.`;
    return;
  }
  const description = await answer.json();
  introduction.textContent = description.info.description;
  const operations = document.getElementById("operations");
  for (const [path, methods] of Object.entries(description.paths))
    for (const [method, operation] of Object.entries(methods)) operations.append(section(description, path, method, operation));
};

show();
