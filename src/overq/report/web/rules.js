"use strict";
// What OverQ is, once more, in JavaScript: the rules of overq/spec (format, encode, dot, counts), held against the golden vectors by
// tests/report/test_rules_js.py. A format: {bits, cascade, range_bits, fraction_bits, policy, signed, lanes, evict}.

const OverQ = (() => {
  const OWN = 0, RANGE = 1, MOVED = 2, PRECISION = 3;
  const clip = (value, low, high) => Math.max(low, Math.min(high, value));
  const floorDivide = (value, by) => Math.floor(value / by);

  function payload(bits, signed) { // least and greatest number of that many bits
    if (!bits) return [0, 0];
    const low = signed ? -(2 ** (bits - 1)) : 0;
    return [low, low + 2 ** bits - 1];
  }

  function limits(format) {
    const { bits, range_bits: r, fraction_bits: f, signed } = format;
    const base = 2 ** bits, low = signed ? -base / 2 : 0, high = low + base - 1, unit = 2 ** (f + 1);
    const [rangeLow, rangeHigh] = payload(r, signed), [fineLow, fineHigh] = payload(f, signed);
    const wideLow = low + rangeLow * base, wideHigh = high + rangeHigh * base;
    return {
      base, low, high, unit, wideLow, wideHigh, fineLow: low * 2 ** f + fineLow, fineHigh: high * 2 ** f + fineHigh,
      tLow: wideLow * unit, tHigh: wideHigh * unit,
    };
  }

  // Bits of a state that a lane stores beside its digit: 0 (plain), 1, or 1.5 where two lanes share a bit that says which kind.
  function stateBits({ bits, cascade, range_bits: r, fraction_bits: f }) {
    if (!cascade) return 0;
    return r > 0 && f > 0 && !(r < bits && f < bits) ? 1.5 : 1;
  }

  function split(value, bits, signed) { // [low, high] with low + high · 2^bits = value
    const least = signed ? -(2 ** bits) / 2 : 0, size = 2 ** bits;
    const low = bits === 0 ? 0 : (((value - least) % size) + size) % size + least;
    return [low, floorDivide(value - low, size)];
  }

  function rules(format) {
    const is = limits(format);
    const level = (t) => floorDivide(t + is.unit / 2, is.unit); // nearest multiple of the step, ties up
    const one = (t) => clip(level(t), is.low, is.high);
    return {
      ...is, level, one,
      zero: (t) => level(t) === 0,
      outlier: (t) => level(t) < is.low || level(t) > is.high,
      saturate: (t) => clip(t, is.tLow, is.tHigh),
      error: (t) => Math.abs(t - one(t) * is.unit),
      range: (t) => split(clip(level(t), is.wideLow, is.wideHigh), format.bits, format.signed),
      precision: (t) => {
        const [fraction, whole] = split(clip(floorDivide(t + 1, 2), is.fineLow, is.fineHigh), format.fraction_bits, format.signed);
        return [whole, fraction];
      },
    };
  }

  // Which lane the zero serves, and how; null leaves it an ordinary zero.
  function choose(zero, row, format, rule) {
    const edge = format.lanes ? zero - (zero % format.lanes) : 0;
    let start = zero;
    while (start > Math.max(edge, zero - format.cascade) && !rule.zero(row[start - 1])) start -= 1;
    const lanes = Array.from({ length: zero - start }, (_, i) => start + i);
    const outliers = lanes.filter((lane) => rule.outlier(row[lane])), normal = lanes.filter((lane) => !rule.outlier(row[lane]));
    const worst = (of) => of.reduce((best, lane) => (rule.error(row[lane]) > rule.error(row[best]) ? lane : best), of[0]);
    if (format.range_bits > 0 && outliers.length) return [format.policy === "first" ? outliers[0] : worst(outliers), RANGE];
    if (format.fraction_bits > 0 && normal.length) {
      if (format.policy === "largest") return [worst(normal), PRECISION];
      if (normal[normal.length - 1] === zero - 1) return [zero - 1, PRECISION];
    }
    return null;
  }

  // The lane that gives way to the outlier on a lane, or null: the first small value behind it, where no zero can serve it.
  function givesWay(outlier, row, format, rule) {
    const most = Math.min(format.evict, Math.abs(rule.level(row[outlier]) - rule.one(row[outlier])));
    const edge = format.lanes ? outlier - (outlier % format.lanes) + format.lanes : row.length;
    let found = null;
    for (let lane = outlier + 1; lane < Math.min(outlier + format.cascade + 1, edge, row.length); lane += 1) {
      if (rule.zero(row[lane])) return null;
      if (rule.outlier(row[lane])) break;
      if (found === null && Math.abs(rule.level(row[lane])) <= most) found = lane;
    }
    return found;
  }

  // The row with t = 0 where a value gives way, decided on the row as it was.
  function giveWay(row, format, rule) {
    if (!format.evict) return row;
    const left = new Set(row.map((t, lane) => (rule.outlier(t) ? givesWay(lane, row, format, rule) : null)));
    return row.map((t, lane) => (left.has(lane) ? 0 : t));
  }

  // row: integers t with f + 1 fraction bits -> [{digit, state}], one a lane
  function encode(values, format) {
    const rule = rules(format), row = giveWay(values.map(rule.saturate), format, rule), digits = row.map(rule.one);
    const lanes = digits.map((digit) => ({ digit, state: OWN }));
    for (let zero = 0; zero < row.length; zero += 1) {
      if (!rule.zero(row[zero])) continue;
      const chosen = choose(zero, row, format, rule);
      if (!chosen) continue;
      const [served, state] = chosen, [first, second] = state === RANGE ? rule.range(row[served]) : rule.precision(row[served]);
      lanes[served] = { digit: first, state: OWN };
      lanes[served + 1] = { digit: second, state };
      for (let lane = served + 1; lane < zero; lane += 1) lanes[lane + 1] = { digit: digits[lane], state: MOVED };
    }
    return lanes;
  }

  const source = (lane, state) => lane - (state === OWN ? 0 : 1);
  const shift = (state, format) =>
    state === PRECISION ? 0 : state === RANGE ? format.fraction_bits + format.bits : format.fraction_bits;

  // For each channel the integer with f fraction bits that its one or two digits spell.
  function effective(lanes, format) {
    const values = lanes.map(() => 0);
    lanes.forEach(({ digit, state }, i) => { values[source(i, state)] += digit * 2 ** shift(state, format); });
    return values;
  }

  const dot = (lanes, weights, format) =>
    lanes.reduce((sum, { digit, state }, i) => sum + digit * 2 ** shift(state, format) * weights[source(i, state)], 0);

  function counts(values, format) {
    const is = limits(format), rule = rules(format);
    const low = format.signed ? Math.min(is.tLow, (is.low - 1) * is.unit) : 0, high = Math.max(is.tHigh, (is.high + 1) * is.unit);
    const row = values.map((t) => clip(t, low, high)), states = encode(row, format).map((lane) => lane.state);
    const before = values.map(rule.saturate), after = giveWay(before, format, rule);
    const many = (test) => row.filter(test).length;
    return {
      values: row.length, zeros: many(rule.zero), outliers: many(rule.outlier),
      served: states.filter((state) => state === RANGE).length, precise: states.filter((state) => state === PRECISION).length,
      evicted: before.filter((t, i) => t !== after[i]).length,
    };
  }

  // A float of the layer's input as the encoder's integer t: floor(x · r), the product in float32 (kernels/scale.py).
  const scaled = (x, step, format) => Math.floor(Math.fround(Math.fround(x) * Math.fround(limits(format).unit / step)));

  return { OWN, RANGE, MOVED, PRECISION, limits, stateBits, rules, encode, effective, dot, counts, scaled, source, shift };
})();
