"use strict";
// Values of a real layer on their lanes. The rules are OverQ's (rules.js); here they are only drawn.

// data: {network, layers: [{name, vectors, low, …}]}. Returns (input, row): show that layer, with the step and format of the row.
function makeExplorer(place, data) {
  const NAMES = ["own", "high", "moved", "fraction"], WORDS = ["its own digit", "high digit of the value before", "value moved up from the lane before", "fraction digit of the value before"];
  const state = { layer: 0, vector: 0, bits: 3, cascade: 4, range_bits: 2, fraction_bits: 2, policy: "first", signed: false, lanes: 0, evict: 0, step: 1, built: 0 };
  const layers = data.layers.filter((layer) => layer.vectors.length);
  if (!layers.length) { place.append(element("p", { class: "note" }, "No values to show.")); return () => {}; }
  const out = element("div"), says = element("p", { class: "note", role: "status" });

  const format = (changes = {}) => {
    const made = { bits: state.bits, cascade: state.cascade, range_bits: state.range_bits, fraction_bits: state.fraction_bits, policy: state.policy, signed: state.signed, lanes: state.lanes || null, evict: state.evict, ...changes };
    if (!made.cascade || (!made.range_bits && !made.fraction_bits)) Object.assign(made, { cascade: 0, range_bits: 0, fraction_bits: 0 });
    if (!made.range_bits) made.evict = 0;
    return made;
  };
  const vector = () => layers[state.layer].vectors[state.vector];

  function spelled(values, form, step) { // what the lanes stand for, in the layer's own unit
    const t = values.map((x) => OverQ.scaled(x, step, form)), lanes = OverQ.encode(t, form);
    const unit = step / 2 ** form.fraction_bits;
    return { t, lanes, values: OverQ.effective(lanes, form).map((e) => e * unit) };
  }
  const noise = (values, form, step) => spelled(values, form, step).values.reduce((sum, y, i) => sum + (y - values[i]) ** 2, 0);

  function bestStep(form) { // least squared error over the layer's vectors, of 80 steps
    const vectors = layers[state.layer].vectors, largest = Math.max(...vectors.flat().map(Math.abs), 1e-6);
    let best = [Infinity, largest];
    for (let i = 0; i < 80; i += 1) {
      const step = (largest / 2 ** (form.bits - (form.signed ? 1 : 0))) * 2 ** (-i / 16 + 1);
      const all = vectors.reduce((sum, values) => sum + noise(values, form, step), 0);
      if (all < best[0]) best = [all, step];
    }
    return best[1];
  }

  function telling() { // of the first layers the vector in which most outliers are served
    let best = [-1, 0, 0];
    layers.slice(0, 12).forEach((layer, i) => {
      if (layer.low < 0) return;
      state.layer = i;
      const form = format(), step = bestStep(form);
      layer.vectors.forEach((values, j) => {
        const count = OverQ.counts(values.map((x) => OverQ.scaled(x, step, form)), form);
        const rank = count.served + (values.length >= 16 ? 100 : 0); // rather many lanes than few
        if (rank > best[0]) best = [rank, i, j];
      });
    });
    [, state.layer, state.vector] = best;
  }

  // Weights to show a sum with: always the same, of both signs.
  const weight = (i) => ((i * 37 + 11) % 31) - 15;

  function draw() {
    const form = format(), values = vector(), { t, lanes, values: now } = spelled(values, form, state.step);
    const rule = OverQ.rules(form), count = OverQ.counts(t, form);
    const power = values.reduce((sum, x) => sum + x * x, 0), lost = now.reduce((sum, y, i) => sum + (y - values[i]) ** 2, 0);
    const decibel = (error) => (error > 0 ? (10 * Math.log10(power / error)).toFixed(1) + " dB" : "exact");
    const stored = form.bits + OverQ.stateBits(form), plain = { ...form, cascade: 0, range_bits: 0, fraction_bits: 0 };
    const more = { ...plain, bits: Math.min(8, Math.ceil(stored)) };
    const rivals = [[plain, "Plain, as many digit bits"], ...(more.bits > form.bits ? [[more, "Plain, as many stored bits"]] : [])].map(([each, name]) => {
      const step = bestStep(each);
      return [name + " (A" + each.bits + ", its best step)", decibel(noise(values, each, step))];
    });
    says.textContent = "Stored: " + stored + " bits a value. " + count.zeros + " of " + count.values + " lanes are zeros; " + count.outliers + " outliers, " +
      count.served + " of them served" + (count.outliers ? " (coverage " + (count.served / count.outliers).toFixed(2) + ")" : "") + "; " + count.precise + (count.precise === 1 ? " value" : " values") + " got a fraction digit" + (count.evicted ? "; " + count.evicted + " gave way" : "") + ". " +
      "Signal to noise of this vector: " + decibel(lost) + ".";
    const tile = (i) => (form.lanes && i && i % form.lanes === 0 ? "tile " : "");
    const largest = Math.max(...values.map(Math.abs), ...now.map(Math.abs), 1e-9);
    const bar = (x, kind) => { const made = element("span", { class: "bar " + kind }); made.style.height = Math.round((Math.abs(x) / largest) * 60) + "px"; return made; };
    const line = (name, cells) => element("tr", {}, element("th", { scope: "row", class: "text" }, name), ...cells);
    const kind = (i) => (rule.zero(t[i]) ? "zero" : rule.outlier(t[i]) ? "outlier" : "");
    const rows = [
      line("lane", values.map((_, i) => element("td", { class: tile(i) + "faint" }, String(i)))),
      line("value", values.map((x, i) => element("td", { class: tile(i) + kind(i) }, x.toFixed(2)))),
      line("in steps", values.map((x, i) => element("td", { class: tile(i) + kind(i) }, (x / state.step).toFixed(1)))),
      line("before, after", values.map((x, i) => element("td", { class: tile(i) + "bars" }, bar(x, "before"), bar(now[i], "after")))),
      line("digit", lanes.map(({ digit, state: s }, i) => element("td", { class: tile(i) + "digit s" + s + (i < state.built ? " added" : "") }, String(digit)))),
      line("is", lanes.map(({ state: s }, i) => element("td", { class: tile(i) + "s" + s, title: WORDS[s] }, NAMES[s]))),
      line("spells", now.map((y, i) => element("td", { class: tile(i) + kind(i) }, (y / state.step).toFixed(Math.min(form.fraction_bits, 2))))),
      line("error, steps", now.map((y, i) => element("td", { class: tile(i) + "faint" }, ((y - values[i]) / state.step).toFixed(1)))),
    ];
    const sum = lanes.slice(0, state.built).reduce((all, { digit, state: s }, i) => all + digit * 2 ** OverQ.shift(s, form) * weight(OverQ.source(i, s)), 0);
    const last = state.built ? lanes[state.built - 1] : null, at = state.built - 1;
    const whole = OverQ.dot(lanes, values.map((_, i) => weight(i)), form), unit = 2 ** form.fraction_bits;
    const exact = values.reduce((all, x, i) => all + (x / state.step) * weight(i), 0);
    const shifted = last ? OverQ.shift(last.state, form) - form.fraction_bits : 0;
    out.replaceChildren(
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Lanes" }, element("table", { class: "lanes" }, element("caption", {}, "Channels " + "0 to " + (values.length - 1) + " of one position; an outlier and a zero are marked"), element("tbody", {}, ...rows))),
      element("ul", { class: "legend" }, ...WORDS.map((text, s) => element("li", {}, element("span", { class: "s" + s }, NAMES[s]), " " + text))),
      element("p", { id: "sum-says" }, last ? "Lane " + at + " adds " + last.digit + " × weight " + weight(OverQ.source(at, last.state)) + " of channel " + OverQ.source(at, last.state) +
        (shifted ? " × 2^" + shifted : "") + ". Sum so far: " + (sum / unit).toFixed(2) + " of " + (whole / unit).toFixed(2) + "; with exact values the whole sum is " + exact.toFixed(2) + "."
        : "The element's sum builds lane by lane: move the slider."),
      element("dl", {}, element("dt", {}, "This format"), element("dd", {}, decibel(lost)), ...rivals.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])));
  }

  // Controls ------------------------------------------------------------------------------------------------------------------

  const field = (name, control) => element("label", {}, name, control);
  const number = (key, low, high) => element("input", { type: "number", id: "explorer-" + key, min: low, max: high, value: state[key], oninput: (event) => {
    const value = Math.round(Number(event.target.value));
    if (!Number.isFinite(value) || event.target.value === "") return;
    state[key] = Math.max(low, Math.min(high, value));
    if (key === "bits") { for (const second of ["range_bits", "fraction_bits"]) { state[second] = Math.min(state[second], state.bits); fields[second].max = state.bits; fields[second].value = state[second]; } }
    if (state.signed && state.range_bits === 1) { state.range_bits = 2; fields.range_bits.value = 2; }
    draw();
  } });
  const fields = { bits: number("bits", 2, 8), cascade: number("cascade", 0, 16), range_bits: number("range_bits", 0, 8), fraction_bits: number("fraction_bits", 0, 8), evict: number("evict", 0, 3) };
  const choice = (key, options, change = draw) => element("select", { id: "explorer-" + key, onchange: (event) => { state[key] = event.target.value; change(); } },
    ...options.map(([value, text]) => element("option", { value, selected: String(value) === String(state[key]) }, text)));
  const stepSlider = element("input", { type: "range", id: "explorer-step", min: -200, max: 200, value: 0, oninput: (event) => { state.step = centre * 2 ** (event.target.value / 50); draw(); stepSays(); } });
  const stepText = element("output", { for: "explorer-step" });
  let centre = 1;
  const stepSays = () => { stepText.textContent = "step " + state.step.toPrecision(3); };
  function fit() { centre = state.step = bestStep(format()); stepSlider.value = 0; stepSays(); draw(); }
  const built = element("input", { type: "range", id: "explorer-built", min: 0, max: 1, value: 0, oninput: (event) => { state.built = Number(event.target.value); draw(); } });
  const signed = element("input", { type: "checkbox", id: "explorer-signed", onchange: (event) => { state.signed = event.target.checked; if (state.signed && state.range_bits === 1) { state.range_bits = 2; fields.range_bits.value = 2; } fit(); } });
  const layerBox = element("select", { id: "explorer-layer", onchange: (event) => { state.layer = Number(event.target.value); state.vector = 0; opened(); } });
  const vectorBox = element("select", { id: "explorer-vector", onchange: (event) => { state.vector = Number(event.target.value); opened(false); } });

  function opened(anew = true) {
    layerBox.replaceChildren(...layers.map((layer, i) => element("option", { value: i, selected: i === state.layer }, layer.name)));
    vectorBox.replaceChildren(...layers[state.layer].vectors.map((_, i) => element("option", { value: i, selected: i === state.vector }, "position " + (i + 1))));
    built.max = vector().length;
    state.built = Math.min(state.built, vector().length);
    built.value = state.built;
    if (!anew) { draw(); return; }
    state.signed = layers[state.layer].low < 0;
    signed.checked = state.signed;
    if (state.signed && state.range_bits === 1) state.range_bits = 2;
    fit();
  }

  place.replaceChildren(
    element("p", { class: "note" }, "Real values: " + (data.source || data.network) + ". Each column is one lane of the array, one channel. Zeros serve the outliers before them."),
    element("form", { class: "controls", id: "explorer-controls", onsubmit: (event) => event.preventDefault() },
      field("Layer", layerBox), field("Values", vectorBox), field("Bits b", fields.bits), field("Cascade c", fields.cascade), field("High digit, bits r", fields.range_bits), field("Fraction, bits f", fields.fraction_bits), field("Levels that give way", fields.evict),
      field("A zero serves", choice("policy", [["first", "the first (farthest) outlier"], ["largest", "the largest"]])),
      field("Lanes of a tile", choice("lanes", [[0, "the whole vector"], [4, "4"], [8, "8"], [16, "16"]], () => { state.lanes = Number(state.lanes); draw(); })),
      element("label", { class: "inline" }, signed, " signed"), field("Step", stepSlider), stepText,
      element("button", { type: "button", onclick: fit }, "Best step for this format"), field("Lanes added to the sum", built)),
    says, out);
  telling();
  opened();

  return (input, row) => {
    if (!input.vectors.length) return;
    if (!layers.includes(input)) layers.push(input);
    state.layer = layers.indexOf(input);
    state.vector = 0;
    const found = row && row.format ? /^A(\d)(s?) (?:r(\d))?\+?(?:f(\d))? ?c(\d+)( largest)?(?: evict(\d))?(?: tile\d+)?$/.exec(row.format) : null;
    if (found) {
      Object.assign(state, { bits: +found[1], range_bits: +(found[3] || 0), fraction_bits: +(found[4] || 0), cascade: +found[5], policy: found[6] ? "largest" : "first", evict: +(found[7] || 0) });
      for (const [key, control] of Object.entries(fields)) control.value = state[key];
      document.getElementById("explorer-policy").value = state.policy;
    }
    opened();
    if (found && row.step) { centre = state.step = row.step; stepSlider.value = 0; stepSays(); draw(); }
  };
}
