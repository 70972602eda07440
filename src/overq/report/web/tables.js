"use strict";
// Tables that sort and filter. Everything is written as text, never as markup.

function element(tag, attributes = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...inside.filter((part) => part !== null && part !== undefined));
  return made;
}

function shown(value, digits) {
  if (value === null || value === undefined || value === "") return "";
  if (typeof value !== "number") return String(value);
  return digits === undefined ? String(value) : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// columns: [{key, title, text?, digits?, signed?}]; rows: objects. options: caption, id, choose(row), kind(row), filters: keys with a choice.
function table(columns, rows, options) {
  const state = { key: null, down: false, words: "", choices: {}, most: 100 };
  const used = columns.filter((column) => rows.some((row) => row[column.key] !== null && row[column.key] !== undefined && row[column.key] !== ""));
  const body = element("tbody");
  const said = element("p", { class: "note", role: "status" });
  const more = element("button", { type: "button", onclick: () => { state.most = Infinity; draw(); } });
  const heads = used.map((column) => {
    const button = element("button", { type: "button", onclick: () => sort(column) }, column.title);
    const cell = element("th", { scope: "col", class: column.text ? "text" : null, title: column.about }, button);
    column.cell = cell;
    return cell;
  });
  function sort(column) {
    state.down = state.key === column.key ? !state.down : !column.text;
    state.key = column.key;
    for (const other of used) other.cell.removeAttribute("aria-sort");
    column.cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    draw();
  }
  function fits(row) {
    for (const [key, wanted] of Object.entries(state.choices)) if (wanted !== "" && String(row[key]) !== wanted) return false;
    const all = used.map((column) => shown(row[column.key])).join(" ").toLowerCase();
    return state.words.toLowerCase().split(/\s+/).every((word) => all.includes(word));
  }
  function current() {
    const kept = rows.filter(fits);
    if (state.key === null) return kept;
    const sign = state.down ? -1 : 1;
    const empty = (value) => value === null || value === undefined || value === "";
    return kept.map((row, place) => [row, place]).sort(([a, i], [b, j]) => {
      const x = a[state.key], y = b[state.key];
      if (empty(x) || empty(y)) return empty(x) - empty(y) || i - j;
      return (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true })) * sign || i - j;
    }).map(([row]) => row);
  }
  function draw() {
    const kept = current();
    body.replaceChildren(...kept.slice(0, state.most).map((row) => {
      const cells = used.map((column, place) => {
        const value = row[column.key];
        const text = column.signed && typeof value === "number" && value > 0 ? "+" + shown(value, column.digits) : shown(value, column.digits);
        const inside = options.choose && place === (options.chooseColumn || 0)
          ? element("button", { type: "button", onclick: () => options.choose(row) }, text) : text;
        return element("td", { class: column.text ? (column.wrap ? "text wrap" : "text") : null }, inside);
      });
      return element("tr", { class: options.kind ? options.kind(row) : null }, ...cells);
    }));
    more.hidden = kept.length <= state.most;
    more.textContent = "Show all " + kept.length + " rows, not just the first " + state.most;
    said.textContent = kept.length === rows.length ? rows.length + " rows" : kept.length + " of " + rows.length + " rows";
  }
  const controls = [];
  if (rows.length > 8) {
    const words = element("input", { type: "search", id: options.id + "-words", oninput: (event) => { state.words = event.target.value; draw(); } });
    controls.push(element("label", {}, "Rows that hold", words));
    for (const key of options.filters || []) {
      const values = [...new Set(rows.map((row) => String(row[key])))];
      const column = columns.find((each) => each.key === key);
      if (values.length < 2 || !column) continue;
      const choice = element("select", { id: options.id + "-" + key, onchange: (event) => { state.choices[key] = event.target.value; draw(); } },
        element("option", { value: "" }, "all"), ...values.map((value) => element("option", { value }, value)));
      controls.push(element("label", {}, column.title, choice));
    }
    const save = element("button", { type: "button", onclick: () => download(options.id + ".csv", csv(used, current())) }, "Save these rows as CSV");
    controls.push(save);
  }
  draw();
  const whole = element("table", {}, element("caption", {}, options.caption), element("thead", {}, element("tr", {}, ...heads)), body);
  const box = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": options.caption }, whole);
  return element("div", {}, controls.length ? element("form", { class: "controls", onsubmit: (event) => event.preventDefault() }, ...controls) : null, said, box, more);
}

function csv(columns, rows) {
  const cell = (value) => {
    let text = value === null || value === undefined ? "" : String(value);
    if (typeof value === "string" && /^\s*[=+\-@]/.test(text) && isNaN(text)) text = "'" + text; // no formula in a spreadsheet
    return /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };
  return [columns.map((column) => cell(column.key)), ...rows.map((row) => columns.map((column) => cell(row[column.key])))].map((line) => line.join(",")).join("\n") + "\n";
}

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const link = element("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
