// What a report shows, from the JSON in the page: credit, curves, what the value knows, settings.
//
// All that a model wrote goes into text nodes (textContent, createTextNode), never into markup.
// Nothing here asks the network. This file must not hold a closing script tag.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs;
const MINUS = "\u2212";
const TOKENS_AT_FIRST = 1500; // of a long response; a button shows the rest
const GRPO_TOKENS = 80; // GRPO's credit is one number: the first tokens show it
const CARDS_AT_ONCE = 6;

// The numbers a token has: [key, label, what orange means, what blue means, what to know].
const MEASURES = [
  ["td", "change of V (td)",
    "after this token the model thinks a right answer is less likely than before: here it lays "
    + "the blame",
    "after this token it thinks a right answer is more likely",
    "td = \u03b2 (log-ratio \u2212 KL), the step of the line above the text. The numbers are as "
    + "small as \u03b2: compare tokens with each other, not with 1."],
  ["advantages", "advantage (A)",
    "training makes this token rarer",
    "training makes this token more frequent",
    "With a value, A adds up td from this token on, discounted by \u03bb, and is then scaled over "
    + "the batch. With \u03bb = 1 it counts all that comes later, so tokens before a slip turn "
    + "orange with it: to find the slip, colour by td. GRPO and its kin give one A to all tokens."],
  ["log_ratio", "log-ratio",
    "rarer under the trained model than under the one training began with",
    "more frequent than at the beginning",
    "log \u03c0(token) \u2212 log \u03c0_ref(token), in nats."],
  ["kl", "KL",
    "none: a KL is never below 0",
    "at this place the trained model differs from the first one, whichever token it writes",
    "KL(\u03c0 || \u03c0_ref) before the token is drawn, in nats."],
  ["entropy", "entropy",
    "none: an entropy is never below 0",
    "at this place the model was undecided between several tokens",
    "Entropy of \u03c0 before the token is drawn, in nats."],
];

// ---- Elements -----------------------------------------------------------------------------------

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null) node.setAttribute(name, String(value));
  }
  for (const child of children.flat()) {
    if (child instanceof Node) node.append(child);
    else if (child !== null) node.append(document.createTextNode(String(child)));
  }
  return node;
}

function el(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  return fill(node, attributes, children);
}

function button(text, onClick) {
  const node = el("button", { type: "button" }, text);
  node.addEventListener("click", onClick);
  return node;
}

let names = 0;

// Radio buttons for options [value, label].
function radios(title, options, chosen, onChange) {
  const name = "choice-" + names++;
  const box = el("fieldset", { class: "radios" }, el("legend", {}, title));
  for (const [value, label] of options) {
    const input = el("input", { type: "radio", name, value, checked: value === chosen });
    input.addEventListener("change", () => onChange(value));
    box.append(el("label", {}, input, el("span", {}, label)));
  }
  return box;
}

// A list to choose from: groups [title, [[value, label], ...]].
function select(title, groups, chosen, onChange) {
  const list = el("select", {});
  for (const [name, options] of groups) {
    const made = options.map(([value, label]) =>
      el("option", { value, selected: value === chosen }, label));
    list.append(...(name ? [el("optgroup", { label: name }, made)] : made));
  }
  list.addEventListener("change", () => onChange(list.value));
  return el("label", { class: "select" }, title, list);
}

// ---- Numbers and characters ---------------------------------------------------------------------

const isNumber = (x) => typeof x === "number" && Number.isFinite(x);

// Three digits, in plain decimals as far as that can be read.
function show(x) {
  if (!isNumber(x)) return "not measured";
  const size = Math.abs(x);
  let text = "0";
  if (size >= 1000) text = String(Math.round(size));
  else if (size >= 1e-5) text = String(Number(size.toPrecision(3)));
  else if (size > 0) text = size.toExponential(1);
  if (text.includes("e") && size >= 1e-5) text = size.toFixed(7);
  return (x < 0 && text !== "0" ? MINUS : "") + text;
}

const signed = (x) => (isNumber(x) && x > 0 ? "+" : "") + show(x);
const percent = (x) => (isNumber(x) ? (100 * x).toFixed(1) + "%" : "not measured");

// A value with as many digits as a change by `step` needs.
function fixed(x, step) {
  if (!isNumber(x)) return "not measured";
  const digits = step > 0 ? Math.min(9, Math.max(2, Math.ceil(-Math.log10(step)) + 1)) : 3;
  return (x < 0 ? MINUS : "") + Math.abs(x).toFixed(digits);
}

// Characters that cannot be seen, or that turn the text around, as signs that can.
function visible(text) {
  return String(text)
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
      (c) => "[U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "]");
}

const tokenText = (text) => visible(text).replace(/\n/g, "\u23ce\n").replace(/\t/g, "\u21e5\t");

// ---- Responses ----------------------------------------------------------------------------------

const state = { run: 0, measure: "td", problem: null, early: null, late: null, filter: "all",
  sort: "fall", count: CARDS_AT_ONCE, smooth: 4 };

const isRight = (row) => row.reward >= 1;
const keyOf = (row) => (row.watched ? "w " : "t ") + row.id;

// Watched problems are answered between two steps, the others at the beginning of their step.
function when(row) {
  if (!row.watched) return `step ${row.step}`;
  return row.step ? `after step ${row.step}` : "before training";
}

// V_0 .. V_T, or null where there is no value.
function curveOf(row) {
  if (!row.td || !isNumber(row.baseline)) return null;
  const curve = [row.baseline];
  for (const x of row.td) curve.push(curve[curve.length - 1] + (x || 0));
  return curve;
}

// Where V moved most at one token, down (sign -1) or up (1): {t, td, part of all movement}.
function largestMove(row, sign) {
  if (!row.td) return null;
  let t = -1, sum = 0;
  row.td.forEach((x, i) => {
    sum += Math.abs(x || 0);
    if (sign * x > 0 && (t < 0 || sign * x > sign * row.td[t])) t = i;
  });
  return t < 0 ? null : { t, td: row.td[t], part: Math.abs(row.td[t]) / sum };
}

const sizeOfFall = (row) => -(largestMove(row, -1) || { td: 0 }).td;

// A move worth a name: large on the run's scale, and a good part of what the response moves.
function standsOut(row, run, sign) {
  const move = largestMove(row, sign), size = move ? Math.abs(move.td) / run.scales.td : 0;
  return move && ((size >= 0.5 && move.part > 0.1) || (size >= 0.05 && move.part > 0.5))
    ? move : null;
}

const observer = new ResizeObserver((entries) => entries.forEach((e) => e.target.redraw()));

// The sentence that names the token V fell at, with the text around it.
function sentence(row, run) {
  const say = (...parts) => el("p", { class: "blame" }, ...parts);
  if (!row.td) return say("No V here: this objective gives all tokens one credit.");
  if (!row.td.some((x) => x)) {
    return say("Every td is 0: the model still is the one training began with.");
  }
  const fall = standsOut(row, run, -1), rise = standsOut(row, run, 1), move = fall || rise;
  if (!move) {
    const much = row.td.some((x) => Math.abs(x) >= 0.5 * run.scales.td);
    return say(much ? "V moves in many small steps: no token is blamed."
      : "V hardly moves: no token is blamed.");
  }
  let opening = fall ? "V falls most at " : "No token is blamed. V rises most at ";
  if (fall && !isRight(row)) opening = "The model blames ";
  const { t } = move, from = Math.max(0, t - 12);
  const text = (a, b) => row.tokens.slice(a, b).map(tokenText).join("").replace(/[\n\t]/g, "")
    .slice(0, 200);
  return say(el("strong", {}, opening),
    el("code", {}, from ? "\u2026" : "", text(from, t), el("mark", {}, text(t, t + 1) || "\u00b7"),
      text(t + 1, t + 4)),
    ` (token ${t + 1} of ${row.length}): V ${signed(move.td)}, `
    + `${Math.round(100 * move.part)}% of all its movement.`);
}

// Colour and underline of a number on a scale that is the same for the whole run.
function paint(node, x, size) {
  node.classList.remove("low", "high", "signed", "beyond");
  if (!isNumber(x) || !size || x === 0) return;
  const part = Math.abs(x) / size;
  node.classList.add(x < 0 ? "low" : "high");
  node.classList.toggle("signed", part >= 0.03);
  node.classList.toggle("beyond", part > 1);
  node.style.setProperty("--heat", (100 * Math.min(1, part)).toFixed(1) + "%");
}

function tokenSpans(row, most) {
  const last = row.tokens.length - 1;
  return row.tokens.slice(0, most).map((text, t) => {
    const stop = row.finished && t === last && row.length === row.tokens.length;
    return el("span", { class: stop ? "token stop" : "token", "data-t": t },
      tokenText(text) || "\u00b7");
  });
}

// The numbers of a token in words, for hover and focus alike.
function describe(row, t, curve) {
  const kinds = [["td", "td"], ["A", "advantages"], ["log-ratio", "log_ratio"], ["KL", "kl"],
    ["entropy", "entropy"]];
  const parts = [el("strong", {}, `token ${t + 1} of ${row.length}: `),
    el("code", {}, tokenText(row.tokens[t]).slice(0, 60)
      || "(part of a character that ends in a later token)")];
  for (const [label, key] of kinds) {
    const x = row[key] ? row[key][t] : null;
    parts.push(el("span", {}, label + " ", el("b", {}, key === "td" ? signed(x) : show(x))));
  }
  if (curve) {
    const step = Math.max(1e-6, Math.abs(row.td[t] || 0));
    const values = fixed(curve[t], step) + " \u2192 " + fixed(curve[t + 1], step);
    parts.push(el("span", {}, "V ", el("b", {}, values)));
  }
  if (row.truth && isNumber(row.truth[t + 1])) {
    const values = percent(row.truth[t]) + " \u2192 " + percent(row.truth[t + 1]);
    parts.push(el("span", {}, "sampled success ", el("b", {}, values)));
  }
  return parts;
}

// One response: V_t as a line, the coloured text below it, GRPO's credit, the numbers of a token.
function card(row, run) {
  const curve = curveOf(row), fall = isRight(row) ? null : standsOut(row, run, -1);
  const chart = el("div", { class: "curve" });
  const text = el("div",
    { class: "tokens", role: "group", "aria-label": "tokens of the response" });
  const readout = el("p", { class: "readout", "aria-live": "polite" },
    fall ? describe(row, fall.t, curve) : []);
  const spans = [];
  let marked = null;

  const layout = () => drawCurve(chart, row, curve, spans, run, marked, fall);
  const look = (t) => {
    if (t === marked) return;
    if (spans[marked]) spans[marked].classList.remove("looked");
    marked = t;
    spans[t].classList.add("looked");
    readout.replaceChildren(...describe(row, t, curve));
    layout();
  };
  const build = (most) => {
    spans.splice(0, spans.length, ...tokenSpans(row, most));
    spans.forEach((node, t) => {
      node.setAttribute("tabindex", t ? "-1" : "0");
      paint(node, row[state.measure] ? row[state.measure][t] : null, run.scales[state.measure]);
      if (fall && t === fall.t) node.classList.add("blamed");
    });
    text.replaceChildren(...spans, ...endOf(row, most, () => build(Infinity)));
  };
  build(fall ? Math.max(TOKENS_AT_FIRST, fall.t + 100) : TOKENS_AT_FIRST);
  listen(text, spans, look);
  let isNew = true;
  text.redraw = () => {
    layout();
    // A long text is scrolled to the token that is blamed.
    if (isNew && fall) text.scrollTop = spans[fall.t].offsetTop - text.clientHeight / 2;
    isNew = false;
  };
  observer.observe(text);
  const verdict = isRight(row) ? "right" : "wrong", sign = isRight(row) ? "\u2713" : "\u2717";
  return el("article", { class: "card " + verdict },
    el("header", {}, el("span", { class: "verdict" }, `${sign} ${verdict} response`),
      ` \u00b7 sample ${Number(row.sample) + 1}, ${when(row)} \u00b7 reward ${show(row.reward)}`,
      row.reward_clean !== row.reward && isNumber(row.reward_clean)
        ? ` (without noise ${show(row.reward_clean)})` : ""),
    sentence(row, run), chart, text, grpoStrip(row, run), readout);
}

// What stands behind the last token that is shown.
function endOf(row, most, showAll) {
  const parts = [];
  if (row.tokens.length > most) {
    parts.push(button(`show all ${row.tokens.length} tokens`, showAll));
  } else if (row.length > row.tokens.length) {
    const left = row.length - row.tokens.length;
    parts.push(el("span", { class: "cut" }, `${left} more tokens are not on this page`));
  } else if (row.finished === false) {
    parts.push(el("span", { class: "cut" }, "\u2702 cut: too long"));
  }
  return parts;
}

// Hover, focus, click and the arrow keys all end in look(t).
function listen(text, spans, look) {
  const of = (event) => {
    const node = event.target.closest(".token");
    if (node) look(Number(node.dataset.t));
  };
  for (const name of ["pointerover", "focusin", "click"]) text.addEventListener(name, of);
  text.addEventListener("keydown", (event) => {
    const node = event.target.closest(".token");
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (!node || !(event.key in moves)) return;
    const t = Number(node.dataset.t) + moves[event.key];
    const next = spans[Math.min(spans.length - 1, Math.max(0, t))];
    node.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
    event.preventDefault();
  });
}

// The same response under GRPO: one number for every token.
function grpoStrip(row, run) {
  if (!isNumber(row.grpo) || run.settings.algo === "grpo") return null;
  const size = Math.max(...run.rollouts.map((r) => Math.abs(r.grpo || 0)));
  const spans = tokenSpans(row, GRPO_TOKENS);
  for (const node of spans) paint(node, row.grpo, size);
  if (row.tokens.length > GRPO_TOKENS) spans.push(el("span", { class: "cut" }, "\u2026 and so on"));
  const words = `GRPO would give every token the same credit, ${signed(row.grpo)}:`;
  return el("div", { class: "grpo" }, el("p", {}, words),
    el("div", { class: "tokens", "aria-hidden": "true" }, spans));
}

// ---- The line above the text --------------------------------------------------------------------

// x of V_0 .. V_T: above the tokens' edges where the text is one line, else evenly spread.
function places(chart, spans, count) {
  const box = chart.getBoundingClientRect(), rects = spans.map((n) => n.getBoundingClientRect());
  const line = spans.length === count && rects[count - 1].top < rects[0].bottom
    && rects[0].left - box.left > 55;
  if (line) return [rects[0].left - box.left, ...rects.map((r) => r.right - box.left)];
  const step = (box.width - 64 - 40) / count;
  return Array.from({ length: count + 1 }, (_, i) => 64 + i * step);
}

function drawCurve(chart, row, curve, spans, run, marked, fall) {
  if (!curve || !chart.isConnected) return;
  const width = chart.clientWidth, height = 96, top = 10, bottom = 84;
  const xs = places(chart, spans, row.tokens.length);
  // One response's own scale, but no finer than the run's: noise should not look like a story.
  let low = Math.min(...curve), high = Math.max(...curve);
  const missing = Math.max(0, 1.5 * (run.scales.td || 1e-6) - (high - low));
  low -= missing / 2;
  high += missing / 2;
  const y = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
  const steps = curve.map((v, i) => `${xs[i].toFixed(1)},${y(v).toFixed(1)}`);
  const end = xs[xs.length - 1];
  const label = (v) => svg("text", { x: 56, y: y(v) + 4, "text-anchor": "end" },
    fixed(v, (high - low) / 4));
  const picture = svg("svg", { width, height, role: "img", "aria-label": "V along the response" },
    svg("line", { class: "zero", x1: xs[0], x2: end, y1: y(curve[0]), y2: y(curve[0]) }),
    label(high), label(low), svg("text", { x: 56, y: height / 2 + 2, "text-anchor": "end" }, "V"));
  const band = (t, name) => svg("rect", { class: name, x: xs[t], y: 2, height: height - 4,
    width: Math.max(2, xs[t + 1] - xs[t]) });
  if (fall) picture.append(band(fall.t, "blamed"));
  if (marked !== null) picture.append(band(marked, "looked"));
  picture.append(svg("polyline", { class: "value", points: steps.join(" ") }));
  if (row.truth) {
    const at = (p) => bottom - p * (bottom - top);
    row.truth.forEach((p, i) => {
      const dot = { class: "truth", cx: xs[i], cy: at(p), r: 2.5 };
      if (isNumber(p)) picture.append(svg("circle", dot));
    });
    picture.append(svg("text", { class: "truth", x: end + 6, y: at(1) + 4 }, "100%"),
      svg("text", { class: "truth", x: end + 6, y: at(0) + 4 }, "0%"));
  }
  chart.replaceChildren(picture);
}

// ---- Credit -------------------------------------------------------------------------------------

// The problems of a run: key -> {prompt, answer, steps: step -> rows}.
function problemsOf(run) {
  const found = new Map();
  for (const row of run.rollouts) {
    const key = keyOf(row);
    if (!found.has(key)) found.set(key, { key, row, steps: new Map() });
    const steps = found.get(key).steps;
    if (!steps.has(row.step)) steps.set(row.step, []);
    steps.get(row.step).push(row);
  }
  return [...found.values()];
}

// The problem that is shown first: of those with right and wrong responses at their last step, the
// one with the largest fall in a wrong response; watched ones before others, and those with right
// and wrong responses early as well before those without.
function firstProblem(problems) {
  const isMixed = (rows) => rows.some(isRight) && !rows.every(isRight);
  let best = null, most = -1;
  for (const problem of problems) {
    const rows = [...problem.steps.values()].pop(), early = firstMoved(problem.steps);
    const falls = rows.filter((r) => !isRight(r)).map(sizeOfFall);
    const value = Math.max(0, ...falls) + (problem.row.watched ? 1e8 : 0)
      + (isMixed(rows) ? 1e6 : 0) + (isMixed(problem.steps.get(early)) ? 1e4 : 0);
    if (value > most) [best, most] = [problem, value];
  }
  return best;
}

// Of rows, those with the largest fall (wrong ones) or the smallest (right ones) first.
function byFall(rows) {
  const falls = new Map(rows.map((row) => [row, sizeOfFall(row)]));
  return [...rows].sort((a, b) => falls.get(b) - falls.get(a));
}

// The first step of a problem at which any td is not 0, else the first.
function firstMoved(steps) {
  for (const [step, rows] of steps) {
    if (rows.some((row) => row.td && row.td.some((x) => x))) return step;
  }
  return [...steps.keys()][0];
}

// One of the right or wrong responses of a step, and a button for the next one.
function cell(rows, right, run) {
  const some = byFall(rows.filter((row) => isRight(row) === right));
  if (right) some.reverse();
  some.sort((a, b) => Boolean(b.truth) - Boolean(a.truth));
  const word = right ? "right" : "wrong";
  const box = el("div", { class: "cell" });
  let at = 0;
  const draw = () => {
    const next = button(`next ${word} one (${at + 1} of ${some.length})`, () => {
      at = (at + 1) % some.length;
      draw();
      box.querySelector("button.next").focus();
    });
    next.classList.add("next");
    box.replaceChildren(card(some[at], run), ...(some.length > 1 ? [next] : []));
  };
  if (some.length) draw();
  else box.append(el("p", { class: "none" }, `No ${word} response among the ${rows.length} here.`));
  return box;
}

function promptLine(row) {
  return el("p", { class: "prompt" }, "Problem ", el("code", {}, visible(row.prompt)),
    el("span", {}, " Right answer ", el("code", {}, visible(row.answer))));
}

function problemView(run) {
  const problems = problemsOf(run);
  if (!problems.length) return el("p", { class: "none" }, "No responses were logged.");
  const chosen = problems.find((p) => p.key === state.problem) || firstProblem(problems);
  const steps = [...chosen.steps.keys()];
  const late = chosen.steps.has(state.late) ? state.late : steps[steps.length - 1];
  const early = chosen.steps.has(state.early) ? state.early : firstMoved(chosen.steps);
  const option = (p) => {
    const rows = [...p.steps.values()].pop();
    const text = visible(p.row.prompt).replace(/\s+/g, " ").slice(-60);
    return [p.key, `${text} (${rows.filter(isRight).length} of ${rows.length} right)`];
  };
  const some = (title, watched) =>
    [title, problems.filter((p) => p.row.watched === watched).map(option)];
  const groups = [some("asked again at every evaluation", true), some("of training steps", false)]
    .filter(([, options]) => options.length);
  const pick = (name) => (value) => {
    state[name] = name === "problem" ? value : Number(value);
    drawCredit();
  };
  const times = [["", steps.map((s) => [s, s ? `step ${s}` : "before training"])]];
  const view = el("div", {},
    el("div", { class: "controls" }, select("Problem ", groups, chosen.key, pick("problem")),
      steps.length > 1 ? select("Early ", times, early, pick("early")) : null,
      steps.length > 1 ? select("Late ", times, late, pick("late")) : null),
    promptLine(chosen.row));
  for (const step of new Set([late, early])) {
    const rows = chosen.steps.get(step), right = rows.filter(isRight).length;
    const time = steps.length < 2 ? "" : step === late ? "Late: " : "Early: ";
    view.append(el("h4", {}, `${time}${when(rows[0])}, ${right} of ${rows.length} are right`),
      el("div", { class: "pair" }, cell(rows, false, run), cell(rows, true, run)));
  }
  return view;
}

function listView(run) {
  let rows = run.rollouts.filter((row) =>
    state.filter === "all" || isRight(row) === (state.filter === "right"));
  if (state.sort === "fall") rows = byFall(rows);
  else if (state.sort === "new") rows = [...rows].reverse();
  const cards = rows.slice(0, state.count).map((row) =>
    el("div", { class: "listed" }, promptLine(row), card(row, run)));
  const redraw = (name) => (value) => {
    state[name] = value;
    state.count = CARDS_AT_ONCE;
    drawCredit();
  };
  const sorts = [["fall", "fell most at one token"], ["new", "newest first"],
    ["old", "oldest first"]];
  const kinds = [["all", "all"], ["wrong", "wrong ones"], ["right", "right ones"]];
  const more = button(`show ${CARDS_AT_ONCE} more`, () => {
    state.count += CARDS_AT_ONCE;
    drawCredit();
  });
  more.classList.add("more");
  const left = run.logged - run.rollouts.length;
  return el("div", {},
    el("div", { class: "controls" }, radios("Sort by", sorts, state.sort, redraw("sort")),
      radios("Show", kinds, state.filter, redraw("filter"))),
    el("p", { class: "note" }, `${Math.min(state.count, rows.length)} of ${rows.length} responses`,
      left > 0 ? `; ${left} more are in rollouts.jsonl, which this page has no room for` : "", "."),
    el("div", { class: "pair" }, cards), state.count < rows.length ? more : null);
}

function legend(run) {
  const [, label, orange, blue, more] = MEASURES.find(([key]) => key === state.measure);
  const size = run.scales[state.measure];
  const word = (name, text) => el("span", { class: "token " + name }, text);
  const low = word("low signed", "orange, solid line");
  const high = word("high signed", "blue, dotted line");
  for (const node of [low, high]) node.style.setProperty("--heat", "70%");
  const beyond = word("low signed beyond", "doubled line");
  beyond.style.setProperty("--heat", "100%");
  const ends = size ? [MINUS + show(size), "0", "+" + show(size)] : ["", "all are 0", ""];
  return el("div", { class: "legend" },
    el("p", {}, el("strong", {}, `Colour: ${label}`)),
    el("div", { class: "scale" }, el("div", { class: "bar" }),
      el("div", { class: "ends" }, ends.map((text) => el("span", {}, text)))),
    el("dl", {},
      el("dt", {}, low), el("dd", {}, orange),
      el("dt", {}, high), el("dd", {}, blue),
      el("dt", {}, word("", "no colour")), el("dd", {}, "near 0: no opinion"),
      el("dt", {}, beyond), el("dd", {}, "beyond the scale, which holds 99.5% of the run's tokens"),
      el("dt", {}, word("stop", "stop")),
      el("dd", {}, "the stop token; \u2702 marks a response that was cut at its greatest length"),
      run.rollouts.some((row) => row.truth) ? [el("dt", { class: "truth" }, "\u25cf green dots"),
        el("dd", {}, "the truth by sampling: the share of right ones among continuations of the "
          + "text up to there, on the scale at the right")] : []),
    el("p", {}, more));
}

function explanation() {
  const title = (text) => el("strong", {}, text);
  return el("div", { class: "words" },
    el("p", {}, title("How to read this. "), "A language model wrote the responses below, a piece "
      + "of text (a token) at a time. A checker said only whether the final answer is right. Which "
      + "step went wrong? The line above a text is V, the model's own estimate, while it writes, "
      + "that the answer will be right. Where V drops, the token below is orange: that is the step "
      + "the model blames."),
    el("p", {}, title("What orange does not mean. "), "Nobody checked the steps: this is an "
      + "opinion, formed from final marks alone. It may blame a harmless token, or miss a slip. "
      + "Pale colours are mostly noise. What follows a slip may be blue or white, though the "
      + "answer is lost already, and a right response may have orange tokens."),
    el("p", {}, "Point at a token, touch it, or go to a text with Tab and along it with the arrow "
      + "keys: its numbers stand below the text."));
}

const creditBox = el("div", {}), legendBox = el("div", {}), listBox = el("div", {});

function drawCredit() {
  const run = RUNS[state.run];
  legendBox.replaceChildren(legend(run));
  keepFocus(creditBox, problemView(run));
  keepFocus(listBox, listView(run));
}

// Replace what a box holds; the control that was used keeps the focus.
function keepFocus(box, made) {
  const kind = "select, input, button";
  const at = [...box.querySelectorAll(kind)].indexOf(document.activeElement);
  box.replaceChildren(made);
  const again = box.querySelectorAll(kind)[at];
  if (again) again.focus();
}

function creditSection() {
  const choose = (name) => (value) => {
    state[name] = name === "run" ? Number(value) : value;
    drawCredit();
  };
  const isKnown = ([key]) => RUNS.some((run) => run.rollouts.some((row) => row[key]));
  const known = MEASURES.filter(isKnown);
  // Without a value there is no td, and nothing to sort by.
  if (known.length && !known.some(([key]) => key === "td")) {
    [state.measure, state.sort] = [known[0][0], "new"];
  }
  const runs = RUNS.map((run, i) => [i, run.name]);
  return el("section", { id: "credit" }, el("h2", {}, "Where did the credit go?"),
    el("div", { class: "pair" }, explanation(), legendBox),
    el("div", { class: "controls" },
      RUNS.length > 1 ? radios("Run", runs, 0, choose("run")) : null,
      radios("Colour tokens by", known.map(([key, label]) => [key, label]), state.measure,
        choose("measure"))),
    el("h3", {}, "One problem: wrong and right, late and early"),
    el("p", { class: "note" }, "Shown first is the problem with the clearest fall in a wrong "
      + "response; the list holds all the others."), creditBox,
    el("h3", {}, "All responses that were logged"), listBox);
}

// ---- Curves -------------------------------------------------------------------------------------

// [title, what to know, [keys of metrics.jsonl and their names], share of 1?]
const CHARTS = [
  ["Reward", "mean of a step's responses", [["reward", "reward"],
    ["reward_clean", "without the noise"]], true],
  ["Response length", "tokens", [["response_tokens", "tokens"]]],
  ["Truncated", "share cut at the greatest length", [["truncated", "cut"]], true],
  ["KL", "from the model training began with, nats a token", [["kl", "KL"]]],
  ["Entropy", "nats a token; near 0 the model always answers alike", [["entropy", "entropy"]]],
  ["Value loss", "L_V: half the square of what V still misses", [["value_loss", "value loss"]]],
  ["Actor loss", "L_A", [["actor_loss", "actor loss"]]],
  ["Actor share", "the actor's pull on a token beside the value loss's; high is risky",
    [["actor_share", "share"]]],
  ["Telling", "correlation of V's move with the reward, within groups; at 0 V knows nothing",
    [["tells", "correlation"]]],
  ["Sampler gap", "mean |difference of log-probs|, sampler and trainer; should be tiny",
    [["sampler_gap", "gap"]]],
  ["Groups of one reward", "share of responses that teach nothing", [["uniform_groups", "share"]],
    true],
  ["Gradient norm", "before clipping", [["grad_norm", "norm"]]],
  ["Size of td", "mean |td|, and what rounding adds", [["td_size", "td"],
    ["td_noise", "rounding"]]],
  ["Seconds a step", "by phase", [["seconds_rollout", "rollout"], ["seconds_score", "score"],
    ["seconds_update", "update"]]],
];

// The mean over `reach` steps before and after, near ones counting more; gaps stay gaps.
function smoothed(ys, reach) {
  return ys.map((y, i) => {
    if (!isNumber(y)) return null;
    let sum = 0, weight = 0;
    for (let j = Math.max(0, i - reach); j <= Math.min(ys.length - 1, i + reach); j++) {
      const share = reach + 1 - Math.abs(i - j);
      if (isNumber(ys[j])) [sum, weight] = [sum + share * ys[j], weight + share];
    }
    return sum / weight;
  });
}

// Round numbers between low and high, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((m) => m * power >= rough) * power;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-9); i++) found.push(i * step);
  return found;
}

// The path of a line, with a gap where a number is missing.
function path(xs, ys, x, y) {
  let text = "", pen = false;
  ys.forEach((v, i) => {
    if (isNumber(v)) {
      text += `${pen ? "L" : "M"}${x(xs[i]).toFixed(1)} ${y(v).toFixed(1)}`;
      // A point between two gaps is a short line.
      if (!pen && !isNumber(ys[i + 1])) text += "h0.1";
    }
    pen = isNumber(v);
  });
  return text;
}

const W = 380, H = 200, LEFT = 52, RIGHT = 10, TOP = 8, BOTTOM = 24;

function axes(picture, [x0, x1], [y0, y1], x, y, isShare) {
  for (const v of ticks(y0, y1, 4)) {
    picture.append(svg("line", { class: "grid", x1: LEFT, x2: W - RIGHT, y1: y(v), y2: y(v) }),
      svg("text", { x: LEFT - 5, y: y(v) + 4, "text-anchor": "end" },
        isShare ? Math.round(100 * v) + "%" : show(Number(v.toPrecision(3)))));
  }
  for (const v of ticks(x0, x1, 5)) {
    if (Number.isInteger(v) || x1 <= 1) {
      picture.append(svg("text", { x: x(v), y: H - 6, "text-anchor": "middle" }, show(v)));
    }
  }
}

// Series {name, xs, ys, low, high, smooth, look} -> a figure with a cursor.
function figure(title, note, series, isShare) {
  const numbers = (s) => [...s.ys, ...(s.low || []), ...(s.high || [])].filter(isNumber);
  const all = series.flatMap(numbers);
  const steps = [...new Set(series.flatMap((s) => s.xs))].sort((a, b) => a - b);
  if (!all.length) return null;
  let [y0, y1] = [Math.min(...all), Math.max(...all)];
  if (isShare) [y0, y1] = [Math.min(0, y0), Math.max(1, y1)];
  if (y1 - y0 < 1e-12) [y0, y1] = [y0 - (Math.abs(y0) || 1) / 2, y1 + (Math.abs(y1) || 1) / 2];
  let [x0, x1] = [steps[0], steps[steps.length - 1]];
  if (x0 === x1) x1 = x0 + 1;
  const x = (v) => LEFT + ((v - x0) / (x1 - x0)) * (W - LEFT - RIGHT);
  const y = (v) => H - BOTTOM - ((v - y0) / (y1 - y0)) * (H - TOP - BOTTOM);
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", tabindex: 0,
    "aria-label": `${title}: arrow keys move along the steps` });
  axes(picture, [x0, x1], [y0, y1], x, y, isShare);
  for (const s of series) {
    const reach = s.smooth && state.smooth;
    picture.append(svg("path", { class: `line ${s.look}${reach ? " raw" : ""}`,
      d: path(s.xs, s.ys, x, y) }));
    if (reach) {
      picture.append(svg("path", { class: "line " + s.look,
        d: path(s.xs, smoothed(s.ys, reach), x, y) }));
    }
    s.xs.forEach((v, i) => {
      if (!s.low || !isNumber(s.low[i]) || !isNumber(s.high[i])) return;
      const bar = { x1: x(v), x2: x(v), y1: y(s.low[i]), y2: y(s.high[i]) };
      picture.append(svg("line", { class: "line " + s.look, ...bar }),
        svg("circle", { class: "dot " + s.look, cx: x(v), cy: y(s.ys[i]), r: 3 }));
    });
  }
  const readout = el("p", { class: "readout" });
  cursor(picture, readout, series, steps, x, isShare);
  const caption = el("figcaption", {}, el("strong", {}, title), " ", note);
  return el("figure", {}, caption, picture, readout);
}

// Pointer and arrow keys choose a step; its numbers stand below the figure.
function cursor(picture, readout, series, steps, x, isShare) {
  const line = svg("line", { class: "cursor", y1: TOP, y2: H - BOTTOM, x1: -9, x2: -9 });
  picture.append(line);
  let at = steps.length - 1;
  const numbersAt = (s, i) => {
    const text = isShare ? percent(s.ys[i]) : show(s.ys[i]);
    const interval = s.low && isNumber(s.low[i])
      ? ` (${percent(s.low[i])} to ${percent(s.high[i])})` : "";
    return el("span", {}, el("i", { class: "key " + s.look }), `${s.name} `,
      el("b", {}, text + interval));
  };
  const say = (to) => {
    at = Math.min(steps.length - 1, Math.max(0, to));
    const there = series.filter((s) => s.xs.includes(steps[at]));
    readout.replaceChildren(el("span", {}, `step ${steps[at]}: `),
      ...there.map((s) => numbersAt(s, s.xs.indexOf(steps[at]))));
    for (const end of ["x1", "x2"]) line.setAttribute(end, x(steps[at]));
  };
  readout.replaceChildren(el("span", {}, "at the end: "),
    ...series.map((s) => numbersAt(s, s.ys.length - 1)));
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * W;
    let best = 0;
    steps.forEach((s, i) => {
      if (Math.abs(x(s) - place) < Math.abs(x(steps[best]) - place)) best = i;
    });
    say(best);
  });
  picture.addEventListener("focus", () => say(at));
  picture.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (!(event.key in moves)) return;
    say(at + moves[event.key]);
    event.preventDefault();
  });
}

// With one run a colour is a series; with several a colour is a run, and a dash a series.
const lookOf = (run, series) => (RUNS.length > 1 ? `c${run % 6} d${series % 4}` : `c${series % 6}`);
const nameOf = (run, name) => (RUNS.length > 1 ? `${run.name}: ${name}` : name);

function metricFigure([title, note, keys, isShare]) {
  const series = [];
  RUNS.forEach((run, r) => keys.forEach(([key, name], k) => {
    const ys = run.metrics[key], first = run.metrics[keys[0][0]];
    // A clean reward that is the reward says nothing new.
    const same = key === "reward_clean" && ys && first && ys.every((v, i) => v === first[i]);
    if (ys && ys.some(isNumber) && !same) {
      series.push({ name: nameOf(run, name), xs: run.metrics.step, ys, smooth: true,
        look: lookOf(r, k) });
    }
  }));
  return series.length ? figure(title, note, series, isShare) : null;
}

// The last part of a path.
const fileName = (text) => String(text).split(/[\\/]/).pop();

function evalFigure(key, title, note, isShare) {
  const series = [];
  RUNS.forEach((run, r) => {
    const files = [...new Set(run.eval.map((row) => row.file))];
    files.forEach((file, f) => {
      const rows = run.eval.filter((row) => row.file === file && isNumber(row[key]));
      if (!rows.length) return;
      const made = { name: nameOf(run, fileName(file)), xs: rows.map((row) => row.step),
        ys: rows.map((row) => row[key]), look: lookOf(r, f) };
      if (key === "accuracy") {
        made.low = rows.map((row) => row.low);
        made.high = rows.map((row) => row.high);
      }
      series.push(made);
    });
  });
  return series.length ? figure(title, note, series, isShare) : null;
}

const curvesBox = el("div", { class: "figures" });

function drawCurves() {
  const held = evalFigure("accuracy", "Held-out accuracy", "with 95% intervals", true);
  const [reward, ...rest] = CHARTS.map(metricFigure);
  curvesBox.replaceChildren(...[held, reward, ...rest].filter((node) => node));
}

function curvesSection() {
  const spans = [[0, "raw"], [4, "raw and smoothed"], [20, "raw and very smooth"]];
  drawCurves();
  const thinned = RUNS.filter((run) => run.every > 1)
    .map((run) => `Of ${run.name} every ${run.every}th step is drawn. `);
  return el("section", { id: "curves" }, el("h2", {}, "How did the training go?"),
    runKey(),
    el("div", { class: "controls" }, radios("Lines", spans, state.smooth, (value) => {
      state.smooth = value;
      drawCurves();
    })), thinned.length ? el("p", { class: "note" }, thinned) : null, curvesBox);
}

// Which colour is which run.
function runKey() {
  if (RUNS.length < 2) return null;
  return el("p", { class: "key-line" },
    RUNS.map((run, r) => el("span", {}, el("i", { class: "key " + lookOf(r, 0) }), run.name)));
}

// ---- Does the value know ------------------------------------------------------------------------

function knowsSection() {
  const series = [], rows = [], calibration = el("div", {});
  RUNS.forEach((run, r) => {
    if (!run.knows.length) return;
    const xs = run.knows.map((k) => k.step);
    series.push({ name: nameOf(run, "the end"), xs, ys: run.knows.map((k) => k.area[3]),
      low: run.knows.map((k) => k.interval[0]), high: run.knows.map((k) => k.interval[1]),
      look: lookOf(r, 0) });
    ["a quarter", "half", "three quarters"].forEach((name, i) => series.push({
      name: nameOf(run, name), xs, ys: run.knows.map((k) => k.area[i]), look: lookOf(r, i + 1) }));
    for (const k of run.knows) rows.push([run, k]);
  });
  if (!series.length) {
    return el("section", { id: "knows" }, el("h2", {}, "Does the value know?"),
      el("p", { class: "none" }, "Too few logged responses with a value to say."));
  }
  const times = [...new Set(rows.filter(([, k]) => k.bins.length).map(([, k]) => k.step))];
  const drawAt = (step) => calibration.replaceChildren(calibrationFigure(Number(step)));
  if (times.length) drawAt(Math.max(...times));
  const chooser = times.length < 2 ? null : select("Calibration after step ",
    [["", times.map((step) => [step, step])]], Math.max(...times), drawAt);
  const xs = [...new Set(rows.map(([, k]) => k.step))].sort((a, b) => a - b);
  const chance = { name: "a coin", xs, ys: xs.map(() => 0.5), look: "coin" };
  return el("section", { id: "knows" }, el("h2", {}, "Does the value know?"),
    el("p", {}, "Take a right and a wrong response to one problem: how often has the right one the "
      + "higher V, at a quarter, half, three quarters and the end of the text? 50% is a coin, 100% "
      + "knows always. Bars are 95% intervals (problems drawn anew); counted are the responses "
      + "logged since the evaluation before. And by how much does V move, beside what it should? A "
      + "small \u03b2 gives a direction, not a size."),
    el("div", { class: "figures" },
      figure("Right above wrong", "share of pairs (AUC)", [...series, chance], true),
      el("div", {}, chooser, calibration)),
    movedTable(rows));
}

// Mean V_T of a fifth of the responses against the share of right ones among them.
function calibrationFigure(step) {
  const some = [];
  RUNS.forEach((run, r) => {
    const found = run.knows.find((k) => k.step === step && k.bins.length);
    const name = nameOf(run, `step ${step}`);
    if (found) some.push({ name, bins: found.bins, look: lookOf(r, 0) });
  });
  const x = (v) => LEFT + v * (W - LEFT - RIGHT), y = (v) => H - BOTTOM - v * (H - TOP - BOTTOM);
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img",
    "aria-label": "share of right responses against V at the end" });
  for (const v of [0, 0.25, 0.5, 0.75, 1]) {
    picture.append(svg("line", { class: "grid", x1: LEFT, x2: W - RIGHT, y1: y(v), y2: y(v) }),
      svg("text", { x: LEFT - 5, y: y(v) + 4, "text-anchor": "end" }, `${100 * v}%`),
      svg("text", { x: x(v), y: H - 6, "text-anchor": "middle" }, v));
  }
  picture.append(svg("line", { class: "line coin", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }));
  const clip = (v) => Math.min(1.02, Math.max(-0.02, v));
  for (const run of some) {
    for (const [v, right] of run.bins) {
      const dot = { class: "dot " + run.look, cx: x(clip(v)), cy: y(right), r: 4 };
      picture.append(svg("circle", dot));
    }
  }
  return el("figure", {}, el("figcaption", {}, el("strong", {}, "Calibration"),
    " share right (up) by V at the end (across), watched problems"), picture,
  el("p", { class: "readout" }, some.map((run) => el("span", {},
    el("i", { class: "key " + run.look }), `${run.name}: `,
    el("b", {}, run.bins.map(([v, right]) => `${show(v)} \u2192 ${percent(right)}`).join(", "))))),
  el("p", { class: "note" }, "V begins at the share of right ones among the same samples, so at a "
    + "small \u03b2 these points show little more than that."));
}

function movedTable(rows) {
  const head = ["step", "pairs", "problems", "right ones: V moved", "to reach 1 it had to",
    "wrong ones: V moved", "to reach 0 it had to"];
  if (RUNS.length > 1) head.unshift("run");
  const body = rows.map(([run, k]) => {
    const [right, wrong] = [k.right || [], k.wrong || []];
    const cells = [k.step, k.pairs, k.prompts, signed(right[0]), signed(right[1]), signed(wrong[0]),
      signed(wrong[1])];
    if (RUNS.length > 1) cells.unshift(run.name);
    return el("tr", {}, cells.map((text) => el("td", {}, text)));
  });
  return el("div", { class: "wide" }, el("table", {},
    el("thead", {}, el("tr", {}, head.map((text) => el("th", {}, text)))), el("tbody", {}, body)));
}

// ---- Settings, and the page ---------------------------------------------------------------------

function settingsSection() {
  const keys = [...new Set(RUNS.flatMap((run) => Object.keys(run.settings)))];
  const text = (run, key) => (key in run.settings ? JSON.stringify(run.settings[key]) : "");
  const differs = (key) => RUNS.some((run) => text(run, key) !== text(RUNS[0], key));
  const row = (key) => el("tr", {}, el("th", {}, key),
    RUNS.map((run) => el("td", {}, visible(text(run, key)))));
  const versions = (run) => Object.entries(run.versions).map(([k, v]) => `${k} ${v}`).join(", ");
  const names = RUNS.map((run) => el("th", {}, visible(run.name)));
  const head = el("thead", {}, el("tr", {}, el("th", {}, ""), names));
  const table = (some) => el("div", { class: "wide" },
    el("table", { class: "settings" }, head.cloneNode(true), el("tbody", {}, some.map(row))));
  const different = keys.filter(differs);
  return el("section", { id: "settings" }, el("h2", {}, "Settings"),
    RUNS.map((run) => el("p", {}, `${run.name}: begun ${run.date.slice(0, 16).replace("T", " ")}, `,
      visible(versions(run)), ".")),
    RUNS.length > 1 ? [el("h3", {}, "Where the runs differ"), table(different)] : [],
    el("details", {}, el("summary", {}, RUNS.length > 1 ? "All settings" : "Show all settings"),
      table(keys)));
}

// What the run came to, in a sentence.
function outcome(run) {
  const steps = run.metrics.step, last = steps[steps.length - 1];
  const ends = (xs) => xs && [xs.find(isNumber), [...xs].reverse().find(isNumber)];
  const file = run.eval.length ? run.eval[0].file : null;
  const held = ends(run.eval.filter((row) => row.file === file).map((row) => row.accuracy));
  const reward = ends(run.metrics.reward);
  let text = `${run.settings.algo || "training"}, step ${last}`;
  if (reward) text += `: reward ${show(reward[0])} \u2192 ${show(reward[1])}`;
  if (held && isNumber(held[0])) {
    text += `, held-out accuracy ${percent(held[0])} \u2192 ${percent(held[1])}`;
  }
  return el("p", {}, RUNS.length > 1 ? el("strong", {}, visible(run.name) + ": ") : "", text, ".");
}

function main() {
  const links = [["credit", "Credit"], ["curves", "Curves"], ["knows", "Does the value know?"],
    ["settings", "Settings"]];
  document.getElementById("page").append(
    el("header", { class: "top" }, el("h1", {}, visible(RUNS.map((run) => run.name).join(" and "))),
      RUNS.map(outcome), el("p", { class: "note" },
        `Made ${DATA.made}. While a run goes on this file is written anew: reload it.`),
      el("nav", {}, links.map(([id, label]) => el("a", { href: "#" + id }, label)))),
    creditSection(), curvesSection(), knowsSection(), settingsSection());
  drawCredit();
}

main();
