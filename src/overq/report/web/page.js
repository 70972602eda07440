"use strict";
// The report's page: reads the records that stand beside it, moves the charts' parameters, fills the tables.

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const views = new Map(); // id -> [the chart's element, how it is drawn]
  let openInExplorer = () => {};
  const dark = () => document.documentElement.dataset.theme === "dark";

  // Light and dark ----------------------------------------------------------------------------------------------------------

  function theme(name) {
    document.documentElement.dataset.theme = name;
    at("theme").setAttribute("aria-pressed", String(name === "dark"));
    for (const draw of views.values()) draw();
  }

  // Charts -------------------------------------------------------------------------------------------------------------------

  // Draw when it comes into sight, and again when the page changes its colours.
  function chart(id, spec, datasets, parameters, wait = true) {
    const box = at(id);
    let seen = !wait, running = Promise.resolve();
    const draw = () => {
      if (!seen || box.closest("[hidden]")) return;
      const whole = structuredClone(spec);
      whole.datasets = datasets();
      whole.width = "container";
      const values = parameters ? parameters() : {};
      for (const parameter of whole.params || []) if (parameter.name in values) parameter.value = values[parameter.name];
      running = running.then(() => vegaEmbed(box, whole, {
        renderer: "svg", config: data.themes[dark() ? "dark" : "light"], actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
        tooltip: { theme: dark() ? "dark" : "light" }, downloadFileName: id,
      })).then(() => {
        const svg = box.querySelector("svg");
        if (svg) { svg.setAttribute("role", "img"); svg.setAttribute("aria-label", spec.description); }
        const summary = box.querySelector("summary");
        if (summary) summary.setAttribute("aria-label", "Save this chart");
        box.dataset.drawn = "yes";
      }).catch((error) => { box.textContent = "This chart could not be drawn: " + error.message; box.dataset.drawn = "no"; });
    };
    views.set(id, draw);
    addEventListener("beforeprint", () => { if (!seen) { seen = true; draw(); } });
    if (seen) draw();
    else new IntersectionObserver((entries, watch) => {
      if (entries.some((entry) => entry.isIntersecting)) { watch.disconnect(); seen = true; draw(); }
    }, { rootMargin: "300px" }).observe(box);
    return draw;
  }

  const select = (id, label, options, chosen, change) => element("label", {}, label,
    element("select", { id, onchange: (event) => change(event.target.value) },
      ...options.map(([value, text]) => element("option", { value, selected: String(value) === String(chosen) }, text))));

  const hide = (id) => { at(id).hidden = true; };
  const unique = (values) => [...new Set(values)];

  // The answer ---------------------------------------------------------------------------------------------------------------

  function answers() {
    at("title").textContent = data.title;
    if (!data.groups.length) { hide("answer"); return; }
    at("answers").replaceChildren(...data.groups.map((group) => element("div", { class: "answer" },
      element("h3", {}, group.name), element("p", { class: "headline" }, group.headline),
      element("details", { open: data.groups.length === 1 }, element("summary", {}, "Why, and how the answer depends on what may be lost"),
        element("ul", {}, ...group.reasons.map((line) => element("li", {}, line))), losses(group)))));
  }

  function losses(group) {
    if (!group.table.length) return null;
    const line = (kind, cells) => element("tr", {}, ...cells.map((text) => element(kind, { scope: kind === "th" ? "col" : null, class: "text" }, text)));
    return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Fewest stored bits, " + group.name }, element("table", {},
      element("caption", {}, "Fewest stored bits a value within a loss of top-1"), element("thead", {}, line("th", group.table[0])),
      element("tbody", {}, ...group.table.slice(1).map((row) => line("td", row)))));
  }

  // Accuracy against cost ----------------------------------------------------------------------------------------------------

  const view = { group: data.groups[0] || null, hidden: [], chart: data.charts[0] || null, below: null };
  const costTitles = { bits: "stored bits", multiplier: "multiplier", area: "element area", array_area: "array area", cycles: "cycles" };

  const lowest = () => {
    const base = view.group && data.settings.find((row) => row.network === view.group.network && row.kind === "float");
    return view.below === null || !base || view.chart.measure !== "top1" ? -1e9 : base.top1 - view.below;
  };

  function charts() {
    if (!data.charts.length || !data.groups.length) { hide("charts"); return; }
    view.below = view.group.floor;
    const settings = data.settings.filter((row) => row.kind !== "float"), floats = data.settings.filter((row) => row.kind === "float");
    const redraw = () => { draw(); says(); };
    let draw;
    const open = () => {
      draw = chart("front", view.chart.spec, () => ({ settings, floats }),
        () => ({ network: view.group.network, weights: view.group.weight_bits, hidden: view.hidden, floor: lowest() }), false);
      says();
    };
    function says() {
      const mine = settings.filter((row) => row.network === view.group.network && row.weight_bits === view.group.weight_bits && !view.hidden.includes(row.family));
      const known = mine.filter((row) => typeof row[view.chart.cost] === "number" && typeof row[view.chart.measure] === "number");
      const drawn = known.filter((row) => row[view.chart.measure] >= lowest());
      const parts = [drawn.length + " settings of " + view.group.name + "; the green staircase is the Pareto front"];
      if (view.chart.measure === "top1") parts.push("upright lines are 95 % intervals of the difference to float");
      if (known.length > drawn.length) parts.push("below what is drawn: " + (known.length - drawn.length));
      if (mine.length > known.length) parts.push(mine.length - known.length + " have no known " + costTitles[view.chart.cost] + " or " + view.chart.title);
      at("front-says").textContent = parts.join("; ") + ".";
    }
    function controls() {
      const measures = unique(data.charts.map((each) => each.measure)), costs = unique(data.charts.map((each) => each.cost));
      const pick = (measure, cost) => { view.chart = data.charts.find((each) => each.measure === measure && each.cost === cost); open(); };
      at("chart-controls").replaceChildren(...[
        data.groups.length > 1 ? select("group", "Network", data.groups.map((group, i) => [i, group.name]), data.groups.indexOf(view.group), (i) => {
          view.group = data.groups[i]; view.below = view.group.floor; controls(); redraw(); cascades();
        }) : null,
        measures.length > 1 ? select("measure", "Upwards", measures.map((m) => [m, data.charts.find((each) => each.measure === m).title]), view.chart.measure, (m) => pick(m, view.chart.cost)) : null,
        costs.length > 1 ? select("cost", "To the right", costs.map((c) => [c, costTitles[c]]), view.chart.cost, (c) => pick(view.chart.measure, c)) : null,
        data.charts.some((each) => each.measure === "top1") ? select("below", "Down to", [["", "the lowest"], ...[20, 10, 5, 2].map((n) => [n, n + " points below float"])],
          view.below === null ? "" : view.below, (n) => { view.below = n === "" ? null : Number(n); redraw(); }) : null,
      ].filter(Boolean));
      const families = unique(settings.filter((row) => row.network === view.group.network && row.weight_bits === view.group.weight_bits).map((row) => row.family));
      at("families").replaceChildren(...families.map((family) => element("label", {},
        element("input", { type: "checkbox", checked: !view.hidden.includes(family), onchange: (event) => {
          view.hidden = event.target.checked ? view.hidden.filter((each) => each !== family) : [...view.hidden, family];
          redraw();
        } }), " " + family)));
    }
    at("chart-controls").addEventListener("submit", (event) => event.preventDefault());
    controls();
    open();
    const lines = () => data.cascades.filter((row) => row.network === view.group.network && row.weight_bits === view.group.weight_bits);
    const drawn = chart("cascade", data.specs.cascade, () => ({ cascades: lines() }));
    const cascades = () => { at("cascade-figure").hidden = !lines().length; drawn(); };
    cascades();
  }

  // Settings -----------------------------------------------------------------------------------------------------------------

  function settings() {
    if (!data.settings.length) { hide("settings"); return; }
    const columns = [
      { key: "name", title: "setting", text: true, about: "the setting in words" }, { key: "network", title: "network", text: true },
      { key: "weight_bits", title: "W", about: "bits of a weight" }, { key: "top1", title: "top-1 %", digits: 2 },
      { key: "difference", title: "to float", digits: 2, signed: true, about: "points of top-1" }, { key: "low", title: "from", digits: 2, signed: true, about: "95 % interval" },
      { key: "high", title: "to", digits: 2, signed: true, about: "95 % interval" }, { key: "bits", title: "stored bits", about: "a value, state included" },
      { key: "multiplier", title: "multiplier", about: "activation bits × weight bits" }, { key: "area", title: "element area", digits: 0 },
      { key: "array_area", title: "array area", digits: 0 }, { key: "cycles", title: "cycles", digits: 0 }, { key: "sqnr", title: "scores dB", digits: 1, about: "signal to noise of the scores" },
      ...data.own.map((name, i) => ({ key: "own" + i, title: name })),
      { key: "coverage", title: "coverage", digits: 3, about: "outliers served" }, { key: "expected_coverage", title: "theory", digits: 3 },
      { key: "zero_rate", title: "zeros", digits: 3 }, { key: "outlier_rate", title: "outliers", digits: 4 }, { key: "family", title: "method", text: true },
      { key: "images", title: "images", digits: 0 }, { key: "seconds", title: "s", digits: 1 }, { key: "label", title: "as the command line names it", text: true },
    ];
    at("settings-table").replaceChildren(table(columns, data.settings, {
      caption: "Every setting with its accuracy and cost; a heading sorts", id: "settings", filters: ["network", "weight_bits", "family"],
      kind: (row) => (row.kind === "ours" ? "ours" : null),
    }));
  }

  // Layers -------------------------------------------------------------------------------------------------------------------

  function layers() {
    if (!data.layers.length && !data.inputs.length) {
      at("layers-body").replaceChildren(element("p", { class: "note" }, "These records hold no layers: a store of results and `overq evaluate --report` do."));
      return;
    }
    const place = at("layers-body"), state = { entry: data.layers[0] || null, layer: null };
    const columns = [
      { key: "name", title: "layer", text: true }, { key: "format", title: "format", text: true }, { key: "zeros", title: "zeros", digits: 3 },
      { key: "outliers", title: "outliers", digits: 4 }, { key: "coverage", title: "coverage", digits: 3, about: "outliers served" },
      { key: "expected", title: "theory", digits: 3 }, { key: "step", title: "step" }, { key: "sqnr", title: "SQNR dB", digits: 1, about: "of the calibration sample" },
    ];
    const rows = () => (state.entry ? state.entry.rows.map(([name, zeros, outliers, coverage, expected, format, step, sqnr]) => ({ name, zeros, outliers, coverage, expected, format, step, sqnr })) : []);
    const inputs = () => (data.inputs.find((each) => !state.entry || each.network === state.entry.network) || { layers: [] }).layers;
    const picked = element("div", { id: "layer-picked" }), tableBox = element("div"), charts = element("div", { class: "columns" },
      element("figure", {}, element("div", { class: "chart", id: "layer-shares" }), element("figcaption", {}, "Each layer: zeros, outliers, and how many outliers found a zero.")),
      element("figure", {}, element("div", { class: "chart", id: "layer-theory" }), element("figcaption", {}, "One point a layer; above the line more outliers are served than independent zeros would.")));
    const controls = element("form", { class: "controls", onsubmit: (event) => event.preventDefault() });
    place.replaceChildren(controls, charts, tableBox, picked);
    if (data.layers.length > 1) {
      const many = unique(data.layers.map((entry) => entry.network)).length > 1;
      controls.append(select("layer-setting", "Setting", data.layers.map((entry, i) => [i, (many ? entry.network + ": " : "") + entry.name + (entry.label.match(/:W\d$/) ? " " + entry.label.slice(-2) : "")]), 0, (i) => { state.entry = data.layers[i]; again(); }));
    }
    const shares = () => rows().flatMap((row) => [["zeros", row.zeros], ["outliers", row.outliers], ["outliers served", row.coverage], ["1 − (1 − p)^c", row.expected]]
      .filter(([, share]) => share !== null).map(([kind, share]) => ({ name: row.name, kind, share })));
    const redraw = [
      chart("layer-shares", data.specs.layers, () => ({ layers: shares() })),
      chart("layer-theory", data.specs.theory, () => ({ covered: rows().filter((row) => row.coverage !== null) })),
    ];
    if (!data.layers.length) charts.hidden = true;
    let histogram = null;
    function pick(name) {
      const input = inputs().find((each) => each.name === name);
      if (!input) return;
      state.layer = input;
      const row = rows().find((each) => each.name === name);
      at("layer-picked").replaceChildren(element("h3", {}, "Input of " + name),
        element("p", { class: "note" }, "From " + shown(input.low, 3) + " to " + shown(input.high, 3) + ", " + input.lanes + " channels" + (row && row.step ? ", step " + row.step + ", " + row.format : "") + "."),
        element("figure", {}, element("div", { class: "chart", id: "histogram" }), element("figcaption", {}, "How often each value occurs (logarithmic), and what one digit and two digits can hold.")),
        !input.vectors.length ? null : element("button", { type: "button", onclick: () => { openInExplorer(input, row || null); at("explorer").scrollIntoView(); } }, "Lay its values on lanes in the explorer"));
      const marks = () => {
        const found = row && row.step ? /^A(\d)(s?) (?:r(\d))?/.exec(row.format) : null;
        if (!found) return [];
        const format = { bits: +found[1], range_bits: +(found[3] || 0), fraction_bits: 0, signed: found[2] === "s" }, is = OverQ.limits(format);
        return [{ at: (is.high + 0.5) * row.step, text: "one digit" }, ...(format.range_bits ? [{ at: (is.wideHigh + 0.5) * row.step, text: "two digits" }] : [])]
          .filter((mark) => mark.at < 1.3 * Math.max(input.high, row.step));
      };
      histogram = chart("histogram", data.specs.histogram, () => ({
        bins: input.counts.map((count, i) => ({ from: input.edges[i], to: input.edges[i + 1], count })), marks: marks(),
      }), null, false);
    }
    function again() {
      for (const draw of redraw) draw();
      const listed = rows().length ? rows() : inputs().map((input) => ({ name: input.name }));
      const withInputs = inputs().length > 0;
      tableBox.replaceChildren(table(columns, listed, { caption: "Layers in the order they run" + (withInputs ? "; a name opens what the layer saw" : ""), id: "layers", choose: withInputs ? (row) => pick(row.name) : null }));
      if (withInputs) pick(state.layer ? state.layer.name : (inputs().find((each) => listed.some((row) => row.name === each.name)) || inputs()[0]).name);
      else picked.replaceChildren(element("p", { class: "note" }, "What each layer saw (histogram, values) was not recorded with these results: studies of an earlier version left it out."));
    }
    again();
  }

  // Cycles, what is missing, how -----------------------------------------------------------------------------------------------

  function cycles() {
    if (!data.cycles) { hide("cycles"); return; }
    const rows = data.cycles.rows, keys = Object.keys(rows[0] || {});
    const columns = keys.map((key) => ({ key, title: key.replaceAll("_", " "), text: typeof rows[0][key] === "string" }));
    at("cycles-body").replaceChildren(element("p", { class: "note" }, data.cycles.title),
      element("figure", {}, element("div", { class: "chart", id: "cycles-chart" }), element("figcaption", {}, "Cycles of each layer.")),
      table(columns, rows, { caption: "Layers on the array", id: "cycles" }));
    chart("cycles-chart", data.specs.cycles, () => ({ cycles: rows }));
  }

  function missing() {
    const parts = [];
    if (data.missing.length) {
      const rows = data.missing.map(([network, label, state, reason, count]) => ({ network, label, state, reason, count }));
      parts.push(table([
        { key: "network", title: "network", text: true }, { key: "label", title: "setting", text: true }, { key: "state", title: "state", text: true },
        { key: "count", title: "cells" }, { key: "reason", title: "why", text: true, wrap: true },
      ], rows, { caption: "Cells without a result", id: "missing", filters: ["state", "network"] }));
    }
    if (data.left_out.length) parts.push(element("h3", {}, "Left out"), element("ul", {}, ...data.left_out.map((line) => element("li", {}, line))));
    if (!parts.length) parts.push(element("p", {}, "Nothing: every cell has a result, and all of them are in this report."));
    at("left-out-body").replaceChildren(...parts);
  }

  function how() {
    const pairs = (title, list) => (list.length ? [element("h3", {}, title), element("dl", {}, ...list.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]))] : []);
    at("how-body").replaceChildren(
      ...pairs("What was run", data.facts), ...pairs("Versions", data.versions),
      ...(data.commands.length ? [element("h3", {}, "Commands that make this again"), element("pre", { tabindex: "0" }, element("code", {}, data.commands.join("\n")))] : []));
  }

  // --------------------------------------------------------------------------------------------------------------------------

  at("theme").addEventListener("click", () => theme(dark() ? "light" : "dark"));
  document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  at("theme").setAttribute("aria-pressed", String(dark()));
  answers();
  settings();
  charts();
  layers();
  cycles();
  missing();
  how();
  const first = data.inputs.flatMap((each) => each.layers.map((input) => ({ network: each.network, input })));
  const values = first.some((each) => each.input.vectors.length) ? { network: first[0].network, layers: first.map((each) => each.input) } : data.example;
  let opened = null;
  openInExplorer = (...what) => { opened ||= makeExplorer(at("explorer-body"), values); opened(...what); };
  new IntersectionObserver((entries, watch) => {
    if (entries.some((entry) => entry.isIntersecting)) { watch.disconnect(); opened ||= makeExplorer(at("explorer-body"), values); }
  }, { rootMargin: "500px" }).observe(at("explorer-body"));
  at("sections").replaceChildren(...[...document.querySelectorAll("main section")].filter((section) => !section.hidden)
    .map((section) => element("li", {}, element("a", { href: "#" + section.id }, section.querySelector("h2").textContent))));
})();
