// The page of report.py: reads the JSON in the page and draws it. All text goes in by text nodes.
"use strict";

const content = JSON.parse(document.getElementById("data").textContent);
const runs = content.runs;
const page = document.getElementById("page");

// ---- Making elements ----------------------------------------------------------------------------

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null)); // strings become text nodes
  return element;
}

function make(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function draw(name, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function plot(width, height, ...shapes) {
  const box = `0 0 ${width} ${height}`;
  return draw("svg", { viewBox: box, preserveAspectRatio: "none", "aria-hidden": "true" }, ...shapes);
}

// What can't be seen, or turns text around, is shown by a sign: NUL, bells, marks of direction.
function visible(text) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (c) => {
    const code = c.charCodeAt(0);
    if (c === "\n") return "\u23ce\n";
    if (c === "\t") return "\u21e5\t";
    if (code < 32) return String.fromCharCode(0x2400 + code);
    return `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  });
}

function quoted(text) {
  const short = text.length > 40 ? text.slice(0, 40) + "..." : text;
  return "\u201c" + visible(short).replace(/\n/g, "") + "\u201d";
}

function say(x, digits = 3) {
  if (x === null || x === undefined) return "\u2013";
  if (typeof x !== "number") return String(x);
  return String(Number(x.toPrecision(digits))).replace("-", "\u2212");
}

function signed(x) {
  return (x > 0 ? "+" : "") + say(x);
}

// ---- Measures -----------------------------------------------------------------------------------

const MEASURES = {
  td: {
    button: "td: credit",
    low: "success became less likely", high: "more likely",
    words: "td is what a token did to the model's own estimate of success, V. Blue: V rose. Orange: V fell.",
  },
  advantages: {
    button: "A: advantage",
    low: "pushed down", high: "pushed up",
    words: (run) => `A is what the actor was given: the td of the token and of those after it, weighted by
 lambda = ${run.settings.gae_lambda}, then whitened (mean 0, spread 1 over the batch). Blue: made more likely. At lambda 1 a
 token answers for all that follows it, so the tokens before a slip are orange as well.`,
    grpo: "A is what the actor was given, GRPO's kind: one number for all tokens of a response.",
  },
  log_ratio: {
    button: "log-ratio",
    low: "less likely than at the start", high: "more likely",
    words: "log pi - log pi_ref in nats: is the token likelier now (blue) than for the model that training began with, or less (orange)?",
  },
  kl: {
    button: "KL",
    low: "", high: "far from the start",
    words: "KL(pi || pi_ref) in nats: how far the model has moved at this place, over all tokens it could write. Never below 0.",
  },
  entropy: {
    button: "entropy",
    low: "", high: "many choices",
    words: "Entropy in nats: how undecided the model is at this place. Never below 0: blue is undecided, white is sure.",
  },
};

function words(run, name) {
  const measure = MEASURES[name];
  if (name === "advantages" && !run.rollouts.some((row) => row.td)) return measure.grpo;
  return typeof measure.words === "string" ? measure.words : measure.words(run);
}

// up or down, and how much of the full colour
function tint(element, x, scale) {
  if (!x || !scale) return;
  const share = Math.min(1, Math.abs(x) / scale);
  element.classList.add(x > 0 ? "up" : "down");
  element.classList.toggle("seen", share > 0.08);
  element.style.setProperty("--amount", `${(100 * share).toFixed(1)}%`);
}

function values(row) {
  const curve = [row.baseline || 0];
  for (const x of row.td) curve.push(curve[curve.length - 1] + (x || 0));
  return curve;
}

function lowest(row) {
  let at = 0;
  (row.td || []).forEach((x, t) => { if ((x || 0) < (row.td[at] || 0)) at = t; });
  return at;
}

function fall(row) {
  return row.td ? row.td[lowest(row)] || 0 : 0;
}

// ---- One response -------------------------------------------------------------------------------

function card(run, row, measure, moment) {
  const isRight = row.reward >= 1;
  const tokens = make("div", { class: "tokens", role: "group",
    "aria-label": "The tokens of the response. Arrow keys go from one to the next." });
  const cursor = draw("rect", { class: "cursor", y: 0, height: 100, width: 0 });
  const readout = make("output", { class: "readout faint" });
  const spans = row.tokens.map((text, t) => token(run, row, measure, text, t));
  tokens.append(...spans);
  if (row.finished) spans[spans.length - 1].after(make("span", { class: "mark" }, "stop"));
  else tokens.append(make("span", { class: "mark" }, "cut off: too long"));
  if (row.length > row.tokens.length) {
    tokens.append(make("span", { class: "mark" }, `... ${row.length} tokens in all`));
  }

  let here = 0;
  const rest = `${row.length} tokens. Point at one, or go through them with Tab and the arrow keys.`;
  const show = (t) => {
    readout.textContent = t === null ? rest : describe(row, t);
    cursor.setAttribute("x", t || 0);
    cursor.setAttribute("width", t === null ? 0 : 1);
    spans.forEach((span, i) => span.classList.toggle("here", i === t));
  };
  const go = (t) => {
    spans[here].tabIndex = -1;
    here = t;
    spans[here].tabIndex = 0;
    spans[here].focus();
  };
  const index = (event) => spans.indexOf(event.target.closest(".token"));
  tokens.addEventListener("mouseover", (event) => { if (index(event) >= 0) show(index(event)); });
  tokens.addEventListener("mouseleave", () => show(null));
  tokens.addEventListener("focusin", (event) => { if (index(event) >= 0) show(index(event)); });
  tokens.addEventListener("focusout", () => show(null));
  tokens.addEventListener("click", (event) => { if (index(event) >= 0) go(index(event)); });
  tokens.addEventListener("keydown", (event) => {
    const last = spans.length - 1;
    const to = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    go(Math.max(0, Math.min(last, to)));
  });
  spans[0].tabIndex = 0;
  show(null);

  const verdict = isRight ? "right" : row.reward > 0 ? `reward ${say(row.reward)}` : "wrong";
  const flipped = row.reward_clean !== null && row.reward_clean !== row.reward;
  return make("article", { class: "card" },
    make("h3", {},
      make("span", { class: `badge ${isRight ? "right" : "wrong"}` }, (isRight ? "\u2713 " : "\u2717 ") + verdict),
      `${moment || "step " + row.step}${row.sample === null ? "" : `, sample ${row.sample + 1}`}`,
      flipped ? ` (label noise: the answer was graded ${say(row.reward_clean)})` : ""),
    blame(run, row, isRight),
    row.td ? valuePlot(run, row, cursor) : null,
    row.td ? strip("VIMPO", row.td.map((x, t) => bar(x, t, 1, run.scales.td)), row.td.length) : null,
    row.grpo === null ? null : strip("GRPO", [bar(row.grpo, 0, 1, broadcast(run))], 1),
    tokens, readout);
}

function token(run, row, measure, text, t) {
  const span = make("span", { class: "token", tabindex: -1 }, text === "" ? "\u00b7" : visible(text));
  const numbers = row[measure];
  if (numbers) tint(span, numbers[t], run.scales[measure]);
  if (measure === "td" && stands(run, row) && t === lowest(row)) span.classList.add("most");
  return span;
}

// Is there a token at which V clearly fell?
function stands(run, row) {
  return row.td && fall(row) < -0.08 * (run.scales.td || 1);
}

function blame(run, row, isRight) {
  if (!row.td) return null;
  if (!row.td.some((x) => x)) return make("p", { class: "faint" }, "No credit yet: the model is still the one that training began with.");
  const t = lowest(row);
  if (!stands(run, row)) return make("p", {}, "No token stands out: V fell nowhere by much.");
  return make("p", {}, isRight ? "V fell most at " : "The model blames most: ",
    make("b", {}, `token ${t + 1}, ${quoted(row.tokens[t])}`),
    t ? ` in ${quoted((t > 8 ? "\u2026" : "") + row.tokens.slice(Math.max(0, t - 8), t + 1).join(""))}` : "", ` (td ${signed(row.td[t])}).`);
}

function describe(row, t) {
  const parts = [`token ${t + 1} of ${row.length}: ${quoted(row.tokens[t])}`];
  if (row.tokens[t] === "") parts[0] += " (part of a character that ends in a later token)";
  for (const [name, label] of [["td", "td"], ["advantages", "A"], ["log_ratio", "log-ratio"], ["kl", "KL"], ["entropy", "entropy"]]) {
    if (row[name]) parts.push(`${label} ${say(row[name][t])}`);
  }
  if (row.td) {
    const curve = values(row);
    parts.push(`V ${say(curve[t], 5)} \u2192 ${say(curve[t + 1], 5)}`);
  }
  if (row.truth) parts.push(`Monte-Carlo ${say(row.truth[t])} \u2192 ${say(row.truth[t + 1])}`);
  return parts.join("; ");
}

// V_t, t from 0 to T, on a scale of its own; the success of continuations from 0 to 1.
function valuePlot(run, row, cursor) {
  const curve = values(row);
  const T = curve.length - 1;
  // A curve that hardly moves is drawn flat, and not as large noise.
  let [low, high] = extent(curve);
  const missing = Math.max(0, (run.scales.td || 1) - (high - low)) / 2;
  [low, high] = [low - missing, high + missing];
  const y = (v) => 96 - 92 * (v - low) / (high - low);
  const digits = Math.max(2, Math.ceil(-Math.log10(high - low)) + 1);
  const ends = (a, b) => make("div", { class: "ends" }, make("span", {}, a), make("span", {}, b));
  const fixed = (v) => v.toFixed(Math.min(digits, 8)).replace("-", "\u2212");
  const dots = (row.truth || []).map((v, t) => (v === null ? null :
    draw("path", { class: "truth", d: `M${t} ${96 - 92 * v}h0` })));
  const points = curve.map((v, t) => `${t},${y(v).toFixed(2)}`).join(" ");
  return make("div", {},
    make("p", { class: "faint" }, `Line: V, the model's own estimate of success, token by token; it starts at ${say(curve[0])}, `
      + `the share of right samples, and ends ${signed(curve[T] - curve[0])} from there.`
      + (row.truth ? " Dots: the share of right ones among sampled continuations, scale on the right." : "")),
    make("div", { class: "plot" }, ends(fixed(high), fixed(low)),
      plot(T, 100, cursor, draw("line", { class: "zero", x1: 0, x2: T, y1: y(curve[0]), y2: y(curve[0]) }),
        draw("polyline", { class: "value", points }), ...dots),
      row.truth ? ends("1", "0") : null));
}

function bar(x, t, width, scale) {
  const rect = draw("rect", { x: t, y: 0, width, height: 1 });
  tint(rect, x, scale);
  if (!x) rect.setAttribute("fill", "none");
  return rect;
}

function strip(name, bars, T) {
  return make("div", { class: "strip" }, make("span", {}, name), plot(T, 1, ...bars));
}

function broadcast(run) {
  return Math.max(...run.rollouts.map((row) => Math.abs(row.grpo || 0)), 1e-9);
}

function extent(numbers) {
  let [low, high] = [Infinity, -Infinity];
  for (const x of numbers) {
    if (x === null || x === undefined) continue;
    low = Math.min(low, x);
    high = Math.max(high, x);
  }
  return [low, high];
}

// ---- Credit -------------------------------------------------------------------------------------

const VIEWS = { sides: "right beside wrong", time: "early beside late", single: "one by one" };
const SORTS = { fell: "fell most at one token", late: "late steps first", early: "early steps first" };

function groupBy(rows, key) {
  const found = new Map();
  for (const row of rows) {
    if (!found.has(key(row))) found.set(key(row), []);
    found.get(key(row)).push(row);
  }
  return [...found.values()];
}

// -> lists of rows that stand side by side
function sideBySide(rows, view, sort) {
  let groups = rows.map((row) => [row]);
  if (view === "sides") {
    groups = groupBy(rows, (row) => JSON.stringify([row.step, row.watched, row.id])).map((group) => {
      const byFall = [...group].sort((a, b) => fall(a) - fall(b));
      const pick = (right) => byFall.filter((row) => (row.reward >= 1) === right).slice(0, 1);
      return [...pick(false), ...pick(true)];
    });
    if (groups.some((group) => group.length > 1)) groups = groups.filter((group) => group.length > 1);
  }
  if (view === "time") {
    const watched = rows.filter((row) => row.watched);
    groups = groupBy(watched, (row) => JSON.stringify([row.id, row.sample]));
    const change = (group) => group[group.length - 1].reward - group[0].reward;
    // of each prompt the sample that changed most
    groups = groupBy(groups, (group) => JSON.stringify(group[0].id))
      .map((same) => same.sort((a, b) => Math.abs(change(b)) - Math.abs(change(a)))[0])
      .filter((group) => group.length > 1);
  }
  const key = { fell: (group) => Math.min(...group.map(fall)), late: (group) => -group[0].step,
    early: (group) => group[0].step }[sort];
  return groups.sort((a, b) => key(a) - key(b));
}

function creditSection() {
  const hasTd = runs.some((run) => run.rollouts.some((row) => row.td));
  const state = { run: 0, measure: hasTd ? "td" : "advantages", view: "sides", sort: hasTd ? "fell" : "late", count: 3 };
  const scale = make("div", {});
  const list = make("div", { id: "responses" });
  const note = make("p", { class: "faint", role: "status" });
  const more = make("button", { onclick: () => { state.count += 5; refresh(); } }, "show more");
  const buttons = Object.entries(MEASURES).map(([name, measure]) => make("button", {
    "data-measure": name, onclick: () => { state.measure = name; refresh(); } }, measure.button));

  function refresh() {
    const run = runs[state.run];
    const size = run.scales[state.measure];
    const measure = MEASURES[state.measure];
    for (const button of buttons) {
      const name = button.dataset.measure;
      button.setAttribute("aria-pressed", String(name === state.measure));
      button.disabled = run.scales[name] === null;
    }
    scale.replaceChildren(
      make("div", { class: "scale" },
        make("span", {}, size ? `\u2212${say(size)} or less` : "no numbers"), make("span", { class: "bar" }),
        make("span", {}, size ? `+${say(size)} or more` : "")),
      make("p", { class: "faint" }, `Orange, dotted underline: ${measure.low || "below 0"}. Blue, solid underline: ${measure.high}. `
        + "White: 0. One scale for the whole run; of 200 tokens one is beyond it."),
      make("p", {}, words(run, state.measure)));
    const groups = sideBySide(run.rollouts, state.view, state.sort);
    const titled = groups.slice(0, state.count).map((rows) => groupOf(run, rows, state));
    list.replaceChildren(...titled);
    if (!groups.length) list.append(make("p", {}, "No such responses were logged."));
    note.textContent = `${Math.min(state.count, groups.length)} of ${groups.length} shown; the page holds `
      + `${run.rollouts.length} of ${run.logged} logged responses.`;
    more.hidden = state.count >= groups.length;
  }

  const choose = (name, options) => make("select", { "data-choose": name, onchange: (event) => {
    state[name] = name === "run" ? Number(event.target.value) : event.target.value;
    state.count = 3;
    refresh();
  } }, ...Object.entries(options).map(([value, text]) => {
    const option = make("option", { value }, text);
    option.selected = String(state[name]) === value;
    return option;
  }));
  const section = make("section", { id: "credit" }, make("h2", {}, "Where the credit goes"),
    make("div", { class: "words" },
      make("p", {}, make("b", {}, "How to read this. "),
        "A language model wrote the responses below, a piece of text (token) at a time. A checker said only whether the ",
        "final answer is right. The colours are the model's own opinion of its tokens, formed from that during training."),
      make("p", {}, make("b", {}, "An orange token"), " made the model expect success less. In a wrong response the most orange one, ",
        "with a frame, is the step that the model blames."),
      make("p", {}, make("b", {}, "It is not a proof. "), "Nobody told the model which step was wrong. It may blame a harmless token or ",
        "miss a slip; pale colours are mostly noise; and a token after the slip is judged as it continues the text, so it may be white or blue though the sum is lost already.")),
    make("div", { class: "controls" },
      make("fieldset", {}, make("legend", {}, "colour by"), ...buttons)),
    make("div", { class: "controls" },
      runs.length > 1 ? make("label", {}, "run", choose("run", runs.map((run) => run.name))) : null,
      make("label", {}, "show", choose("view", VIEWS)), make("label", {}, "order", choose("sort", SORTS))),
    scale, note, list, more,
    make("p", { class: "faint" }, "VIMPO strip: the td of each token in the order of the text, each its own. GRPO strip: what GRPO "
      + "gives for the same response, (R \u2212 mean) / std of its group, the same for all tokens."));
  refresh();
  return section;
}

function groupOf(run, rows, state) {
  const first = rows[0];
  const late = (row) => (row.step === 0 ? "before training" : `after step ${row.step}`);
  const moment = (row) => (row.watched ? late(row) : `step ${row.step}`);
  const answer = first.answer === null || first.answer === undefined ? "" : `right answer: ${visible(String(first.answer))}`;
  return make("section", { class: "group" },
    make("div", { class: "prompt" }, visible(first.prompt || "")),
    make("p", { class: "faint" }, `problem ${visible(String(first.id))}; ${answer}`),
    make("div", { class: "cards" }, ...rows.map((row) => card(run, row, state.measure, moment(row)))));
}

// ---- Curves -------------------------------------------------------------------------------------

const CHARTS = [
  ["reward", [["reward", "trained on"], ["reward_clean", "before label noise"]], "mean reward of a step's responses"],
  ["held-out accuracy", "eval", "bars: 95% interval over the problems"],
  ["response length", [["response_tokens", "tokens"]], "tokens, the mean of a step"],
  ["truncated", [["truncated", "share"]], "share of responses cut off at the limit"],
  ["KL", [["kl", "KL"]], "KL(pi || pi_ref) of a token, nats"],
  ["entropy", [["entropy", "entropy"]], "of a token, nats"],
  ["value loss", [["value_loss", "L_V"]], "1/2 (V_T \u2212 R)\u00b2, the mean"],
  ["actor loss", [["actor_loss", "L_A"]], "PPO's clipped loss"],
  ["actor share", [["actor_share", "share"]], "the actor's pull on a token beside the value loss's"],
  ["sampler gap", [["sampler_gap", "gap"]], "mean |log-prob of trainer \u2212 of sampler|, nats"],
  ["seconds by phase", [["seconds_rollout", "rollout"], ["seconds_score", "score"], ["seconds_update", "update"]], "of a step"],
  ["gradient norm", [["grad_norm", "norm"]], "before clipping"],
  ["groups without a lesson", [["uniform_groups", "share"]], "share of prompts whose samples all got one reward"],
];

// A moving average that has no start to forget; a gap stays a gap.
function smooth(numbers, memory) {
  let [sum, weight] = [0, 0];
  return numbers.map((x) => {
    if (x === null || x === undefined) return null;
    sum = memory * sum + x;
    weight = memory * weight + 1;
    return sum / weight;
  });
}

function seriesOf(what) {
  const found = [];
  runs.forEach((run, r) => {
    if (what === "eval") {
      groupBy(run.eval, (row) => row.file).forEach((rows, dash) => found.push({
        r, dash, points: true, name: String(rows[0].file).split("/").pop(), x: rows.map((row) => row.step),
        y: rows.map((row) => row.accuracy), low: rows.map((row) => row.low), high: rows.map((row) => row.high) }));
      return;
    }
    what.forEach(([key, name], dash) => {
      const y = run.metrics[key];
      const same = key === "reward_clean" && JSON.stringify(y) === JSON.stringify(run.metrics.reward);
      if (y && y.some((v) => v !== null) && !same) found.push({ r, dash, name, x: run.metrics.step, y });
    });
  });
  return found;
}

function path(x, y, X, Y) {
  let pen = "M";
  return x.map((step, i) => {
    if (y[i] === null || y[i] === undefined) { pen = "M"; return ""; }
    const text = `${pen}${X(step).toFixed(2)} ${Y(y[i]).toFixed(2)}`;
    pen = "L";
    return text;
  }).join("");
}

function chart(title, what, note, memory, raw) {
  const all = seriesOf(what);
  const figure = make("figure", { class: "chart" }, make("h3", {}, title), make("div", { class: "faint" }, note));
  if (!all.length) {
    figure.append(make("p", { class: "faint" }, "not measured in this run"));
    return figure;
  }
  const steps = extent(all.flatMap((s) => s.x));
  let [low, high] = extent(all.flatMap((s) => [...s.y, ...(s.low || []), ...(s.high || [])]));
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const X = (step) => 2 + 96 * (step - steps[0]) / (steps[1] - steps[0] || 1);
  const Y = (v) => 96 - 92 * (v - low) / (high - low);
  const shapes = [];
  for (const s of all) {
    const look = `run${s.r % 5} dash${s.dash % 3}`;
    if (raw && !s.points) shapes.push(draw("path", { class: `raw run${s.r % 5}`, d: path(s.x, s.y, X, Y) }));
    const line = s.points ? s.y : smooth(s.y, memory);
    shapes.push(draw("path", { class: `smooth ${look}`, d: path(s.x, line, X, Y) }));
    if (!s.points) continue;
    s.x.forEach((step, i) => {
      if (s.y[i] === null || s.y[i] === undefined) return;
      if (s.low[i] !== undefined) shapes.push(draw("path", { class: `smooth run${s.r % 5}`, d: `M${X(step)} ${Y(s.low[i])}V${Y(s.high[i])}` }));
      shapes.push(draw("path", { class: `point run${s.r % 5}`, d: `M${X(step)} ${Y(s.y[i])}h0` }));
    });
  }
  const cursor = draw("line", { class: "zero", y1: 0, y2: 100, x1: -9, x2: -9 });
  const picture = plot(100, 100, cursor, ...shapes);
  picture.setAttribute("tabindex", 0);
  picture.setAttribute("role", "img");
  picture.removeAttribute("aria-hidden");
  picture.setAttribute("aria-label", `${title} over the steps; arrow keys read it out`);
  const readout = make("output", { class: "readout faint" });
  const label = (s) => (runs.length > 1 ? `${runs[s.r].name}: ` : "") + s.name;
  const every = [...new Set(all.flatMap((s) => s.x))].sort((a, b) => a - b);
  let here = every.length - 1;
  const show = (i) => {
    here = Math.max(0, Math.min(every.length - 1, i));
    const step = every[here];
    cursor.setAttribute("x1", X(step));
    cursor.setAttribute("x2", X(step));
    const found = all.filter((s) => s.x.includes(step)).map((s) => {
      const at = s.x.indexOf(step);
      const range = s.low && s.low[at] !== undefined ? ` (${say(s.low[at])} to ${say(s.high[at])})` : "";
      return `${label(s)} ${say(s.y[at])}${range}`;
    });
    readout.textContent = `step ${step}: ${found.join("; ")}`;
  };
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const step = steps[0] + (100 * (event.clientX - box.left) / box.width - 2) / 96 * (steps[1] - steps[0]);
    let best = 0;
    every.forEach((s, i) => { if (Math.abs(s - step) < Math.abs(every[best] - step)) best = i; });
    show(best);
  });
  picture.addEventListener("focus", () => show(here));
  picture.addEventListener("keydown", (event) => {
    const to = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: every.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
  figure.append(
    make("div", { class: "plot" },
      make("div", { class: "ends" }, make("span", {}, say(high)), make("span", {}, say(low))), picture, make("span"),
      make("div", { class: "steps" }, make("span", {}, `step ${steps[0]}`), make("span", {}, `${steps[1]}`))),
    all.length > 1 ? make("div", { class: "faint" }, ...all.map((s) => make("span", { class: "key" },
      plot(26, 9, draw("line", { class: `smooth run${s.r % 5} dash${s.dash % 3}`, x1: 0, x2: 26, y1: 4.5, y2: 4.5 })), label(s)))) : "",
    readout);
  show(here);
  return figure;
}

function curvesSection() {
  const state = { memory: "0.8", raw: true };
  const charts = make("div", { class: "charts" });
  const refresh = () => charts.replaceChildren(...CHARTS.map(([title, what, note]) => chart(title, what, note, Number(state.memory), state.raw)));
  const smoothing = make("select", { id: "smoothing", onchange: (event) => { state.memory = event.target.value; refresh(); } },
    make("option", { value: "0" }, "none"), make("option", { value: "0.8", selected: "" }, "over about 5 steps"),
    make("option", { value: "0.95" }, "over about 20 steps"));
  const raw = make("button", { id: "raw", "aria-pressed": "true", onclick: () => {
    state.raw = !state.raw;
    raw.setAttribute("aria-pressed", String(state.raw));
    refresh();
  } }, "raw numbers");
  refresh();
  return make("section", { id: "curves" }, make("h2", {}, "Curves"),
    make("p", {}, "Thin: the number of each step. Thick: smoothed. Gaps are steps without a number."),
    make("div", { class: "controls" }, make("label", {}, "smoothing", smoothing), raw), charts);
}

// ---- Does the value know ------------------------------------------------------------------------

function table(head, rows) {
  return make("div", { class: "table" }, make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...rows.map((row) => make("tr", { class: row.mark || null }, ...row.cells.map((text) => make("td", {}, text)))))));
}

function knowsSection() {
  const section = make("section", { id: "knows" }, make("h2", {}, "Does the value know?"),
    make("p", {}, "V is also the model's forecast of its own success. Take a right and a wrong response to one prompt: ",
      "how often does the right one have the higher V, at a quarter, half, three quarters and the end of the text? ",
      "50% is a coin, 100% knows. And by how much does V move, compared with what it should (R \u2212 V_0)? ",
      "A small beta gives a direction, not a size: then V moves by far too little."));
  for (const run of runs) {
    if (runs.length > 1) section.append(make("h3", {}, run.name));
    if (!run.knows.length) {
      section.append(make("p", { class: "faint" }, "Not measured: no prompt with right and wrong responses, or no value in this method."));
      continue;
    }
    const percent = (x) => `${Math.round(100 * x)}%`;
    const moved = (pair) => (pair ? `${signed(pair[0])} of ${signed(pair[1])}` : "\u2013");
    section.append(
      table(["up to step", "prompts (pairs)", "at 25%", "50%", "75%", "the end (95% interval)", "V moved, right ones", "wrong ones"],
        run.knows.map((k) => ({ cells: [String(k.step), `${k.prompts} (${k.pairs})`, ...k.area.slice(0, 3).map(percent),
          `${percent(k.area[3])} (${percent(k.interval[0])} to ${percent(k.interval[1])})`, moved(k.right), moved(k.wrong)] }))),
      make("p", { class: "faint" }, "Calibration of the end of V, on the watched problems: responses in order of V_T, in five bins. "
        + "V starts at V_0, the share of right samples of the prompt, which knows much already."),
      table(["after step", ...["lowest", "low", "middle", "high", "highest"].map((name) => `${name}: V_T, share right`)],
        run.knows.filter((k) => k.bins.length).map((k) => ({ cells: [String(k.step), ...k.bins.map((b) => `${say(b[0])}, ${percent(b[1])} of ${b[2]}`)] }))));
  }
  return section;
}

// ---- Settings -----------------------------------------------------------------------------------

function settingsSection() {
  const text = (x) => (x === undefined ? "\u2013" : typeof x === "string" ? visible(x) : JSON.stringify(x));
  const all = runs.map((run) => ({ ...run.settings, ...run.versions, began: run.date }));
  const names = [...new Set(all.flatMap((settings) => Object.keys(settings)))];
  return make("section", { id: "settings" }, make("h2", {}, "Settings"),
    table(["setting", ...runs.map((run) => run.name)], names.map((name) => {
      const cells = all.map((settings) => text(settings[name]));
      return { mark: new Set(cells).size > 1 ? "differs" : null, cells: [name.replaceAll("_", "-"), ...cells] };
    })));
}

// ---- The page -----------------------------------------------------------------------------------

function summary(run) {
  const steps = run.metrics.step;
  const last = steps[steps.length - 1];
  const first = run.eval[0], end = run.eval[run.eval.length - 1];
  const percent = (x) => `${(100 * x).toFixed(1)}%`;
  const accuracy = first && end && first.accuracy !== undefined ? `, held-out accuracy ${percent(first.accuracy)} \u2192 ${percent(end.accuracy)}` : "";
  const total = run.settings.steps ? ` of ${run.settings.steps}` : "";
  return `${runs.length > 1 ? run.name + ": " : ""}${run.settings.algo}, step ${last}${total}${accuracy}`;
}

page.append(
  make("h1", {}, runs.map((run) => run.name).join(" and ")),
  ...runs.map((run) => make("p", {}, summary(run))),
  make("p", { class: "faint" }, `As of ${content.made}. While a run goes on this file is written anew; reload it.`),
  make("nav", {}, make("a", { href: "#credit" }, "Where the credit goes"), make("a", { href: "#curves" }, "Curves"),
    make("a", { href: "#knows" }, "Does the value know?"), make("a", { href: "#settings" }, "Settings")),
  creditSection(), curvesSection(), knowsSection(), settingsSection());
