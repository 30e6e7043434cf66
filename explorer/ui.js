"use strict";
// The page: reads the form, runs the model, and shows what it did.

const LANGUAGES = new Intl.DisplayNames(["en"], { type: "language" });
const form = control("form", HTMLFormElement);
const direction = control("direction", HTMLSelectElement);
const sentence = control("sentence", HTMLInputElement);
const examples = control("examples", HTMLSelectElement);
const beamWidth = control("beam", HTMLSelectElement);
const alpha = control("alpha", HTMLInputElement);

/** @type {Map<string, OpenModel>} */
const openedModels = new Map();
/** @type {Result | null} */
let result = null;
let run = 0; // the newest; older ones stop

/** @param {string} text */
function say(text) {
  byId("status").textContent = text;
}

/** Wait, so that the page can draw. @param {number} [milliseconds] */
function pause(milliseconds = 0) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Open a model; its file is loaded when it is first needed. @param {string} key */
async function loadModel(key) {
  const known = openedModels.get(key);
  if (known) return known;
  if (!given.TransformerModels?.[key]) {
    say("Loading the model …");
    await new Promise((resolve, reject) => {
      const failed = () => reject(new Error(`models/${key}.js is missing: \`make explorer\` writes it`));
      document.head.append(element("script", { src: `models/${encodeURIComponent(key)}.js`, load: resolve, error: failed }));
    });
  }
  const opened = await openModel(/** @type {PackedModel} */ (given.TransformerModels?.[key]));
  openedModels.set(key, opened);
  return opened;
}

/** "German → English" for "multi30k-de-en" or known languages, else the name. @param {string} key
 * @param {About} [about] of the model, once it is open */
function modelName(key, about) {
  const shipped = /^multi30k-([a-z]{2})-([a-z]{2})$/.exec(key)?.slice(1);
  const sides = [about?.source, about?.target].map((code) => (/^[a-z]{2,3}$/.test(code ?? "") ? code : ""));
  const codes = shipped ?? sides;
  const names = codes.map((code) => code && LANGUAGES.of(code));
  return names.every(Boolean) ? names.join(" → ") : key;
}

// One run: from the form to a result.

/** @returns {Changes} what the reader has changed */
function chosenChanges() {
  const bug = MUSEUM.find(({ id }) => id === state.bug);
  return { ...INTACT, ...bug?.changes, silenced: state.silenced };
}

/** The translation by the changed model, in the chosen search. @param {Transformer} model
 * @param {Changes} changes @param {number[]} src
 * @param {((steps: BeamStep[]) => Promise<unknown>)} [show] after each step */
async function search(model, changes, src, show) {
  /** @type {BeamStep[]} */
  const steps = [];
  Object.assign(model.changes, changes);
  if (state.beam === 1) return { steps, hypotheses: [greedyDecode(model, src)] };
  const beamSize = Math.min(state.beam, model.config.tgt_vocab_size - 1);
  const found = beamSteps(model, src, { beamSize, nBest: beamSize, alpha: state.alpha });
  for (;;) {
    Object.assign(model.changes, changes); // which another run may have set meanwhile
    const { value, done } = found.next();
    if (done) return { steps, hypotheses: /** @type {Hypothesis[]} */ (value) };
    steps.push(/** @type {BeamStep} */ (value));
    await show?.(steps);
  }
}

/** Translate, and show every token as it comes. @param {boolean} [slowly] */
async function translate(slowly = false) {
  const mine = ++run;
  const began = performance.now();
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const wait = slowly && !still ? 110 : 0;
  try {
    const opened = await loadModel(state.model);
    fillForm(opened);
    const { model, srcVocab, tgtVocab } = opened;
    const src = srcVocab.encode(sentence.value, { eos: true });
    if (src.length === 1) return say("Type a sentence, or choose one.");
    if (src.length > model.config.max_len) return say(`The sentence has ${src.length} tokens, the model takes ${model.config.max_len}.`);
    state.forced = state.forced.filter((id) => id < model.config.tgt_vocab_size);
    const changes = chosenChanges();
    const isChanged = state.bug !== "" || state.silenced.length > 0;
    const right = isChanged ? (await search(model, INTACT, src)).hypotheses[0] : null;
    const intact = right && tgtVocab.decode(right.ids);
    const showBeam = async (/** @type {BeamStep[]} */ steps) => {
      if (wait && mine === run) drawBeam(opened, steps, []);
      await pause(wait);
    };
    const greedy = state.beam === 1; // then the steps below are the search
    const { steps: beamSteps, hypotheses } = greedy
      ? { steps: [], hypotheses: [] }
      : await search(model, changes, src, showBeam);
    if (mine !== run) return undefined;
    const best = hypotheses[0] ?? { ids: [], logProb: 0, score: 0, finished: false };
    const forced = greedy ? state.forced : [...best.ids, ...(best.finished ? [EOS_ID] : [])];
    Object.assign(model.changes, changes);
    const used = sourceOf(model, src);
    /** @type {Result} */
    const shown = {
      ...{ opened, changes, src, intact, hypotheses, beamSteps, best, steps: [], encoder: [] },
      source: used.map((id) => srcVocab.pieces[id]),
    };
    const growing = greedySteps(model, src, { forced, encoderMaps: shown.encoder });
    for (;;) {
      Object.assign(model.changes, changes);
      const { value, done } = growing.next();
      if (done) {
        if (greedy) shown.best = /** @type {Hypothesis} */ (value);
        break;
      }
      shown.steps.push(/** @type {GreedyStep} */ (value));
      if (wait) {
        state.at = shown.steps.length - 1;
        drawTokens(shown);
        await pause(wait);
        if (mine !== run) return undefined;
      }
    }
    result = shown;
    draw(shown);
    const seconds = (performance.now() - began) / 1000;
    say(`Translated into ${shown.steps.length} tokens${wait ? "" : ` in ${seconds.toFixed(2)} s`}.`);
    writeAddress();
    document.dispatchEvent(new CustomEvent("translated", { detail: shown }));
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
  }
  return undefined;
}

/** Count how many captions a change alters. */
async function countCaptions() {
  const mine = ++run;
  const { model, srcVocab, about } = await loadModel(state.model);
  const texts = captions(about.source);
  const output = byId("counted");
  const changes = chosenChanges();
  let changed = 0;
  for (let i = 0; i < texts.length; i++) {
    const src = srcVocab.encode(texts[i], { eos: true });
    const [right, now] = [INTACT, changes].map((which) => {
      Object.assign(model.changes, which);
      return String(greedyDecode(model, src).ids);
    });
    changed += Number(right !== now);
    output.textContent = `${changed} of ${i + 1} captions change …`;
    await pause();
    if (mine !== run) return;
  }
  output.textContent = texts.length
    ? `${changed} of ${texts.length} captions change, decoded greedily.`
    : "The page has captions in German and English only.";
}

// Drawing

/** @param {Result} shown */
function draw(shown) {
  const { config } = shown.opened.model;
  state.layer = Math.min(state.layer, config.n_layers - 1);
  if (state.head !== "mean") state.head = Math.min(state.head, config.n_heads - 1);
  state.at = Math.min(state.at, shown.steps.length - 1);
  drawTokens(shown);
  drawHeads(shown);
  drawMap(shown);
  drawBeam(shown.opened, shown.beamSteps, shown.hypotheses);
  drawExhibit(shown);
  const positions = shown.opened.model.positions(shown.source.length).first(shown.source.length);
  byId("width").textContent = String(config.d_model);
  byId("positions").replaceChildren(matrixPicture(positions, -1, `Positional encodings of ${positions.rows} positions`));
  const mask = causalMask(shown.steps.length, shown.steps.length);
  byId("mask").replaceChildren(matrixPicture(mask, 0, `Causal mask of ${mask.rows} tokens: a lower triangle`));
}

/** @param {Result} shown */
function drawTokens(shown) {
  const { tgtVocab, srcVocab, about } = shown.opened;
  const ids = shown.steps.map(({ id }) => id);
  const text = tgtVocab.decode(ids);
  byId("text").replaceChildren(...(shown.intact === null ? [text] : markDifferences(text, shown.intact)));
  byId("text").lang = about.target ?? "";
  byId("tokens").replaceChildren(...shown.steps.map(({ id, logProbs }, at) => {
    const share = Math.exp(logProbs[id]);
    const forced = state.beam === 1 && at < state.forced.length;
    const choose = () => {
      state.at = at;
      state.cell = [at, state.cell[1]];
      draw(shown);
      writeAddress();
      byId("tokens").querySelectorAll("button")[at].focus();
    };
    const label = `${tgtVocab.pieces[id]}, ${percent(share)}${forced ? ", forced" : ""}`;
    return element("li", {}, element("button", {
      type: "button", class: forced ? "forced" : null, "aria-pressed": String(at === state.at),
      "aria-label": label, title: label, style: `--p: ${(100 * share).toFixed(1)}%`, click: choose,
    }, tgtVocab.pieces[id]));
  }));
  byId("next").replaceChildren(nextTokens(shown, state.at, (id) => {
    state.forced = [...ids.slice(0, state.at), id];
    [state.beam, state.at] = [1, state.at + 1];
    translate();
  }));
  const asTrained = shown.intact === null && (state.beam > 1 || !state.forced.length);
  const doubt = asTrained && shown.best.ids.length > 0 && whyUnfamiliar(srcVocab, sentence.value, shown.best, about.valLoss);
  const notes = [
    ...(doubt ? [`This sentence is unlike the training text (${doubt}). Do not trust its translation.`] : []),
    ...(shown === result && ids.at(-1) !== EOS_ID ? ["The translation reached the length limit without an end."] : []),
  ];
  byId("doubt").hidden = !notes.length;
  byId("doubt").textContent = notes.join(" ");
  drawChanges();
}

/** Name what is changed, with a button that undoes it. */
function drawChanges() {
  const bug = MUSEUM.find(({ id }) => id === state.bug);
  const parts = [
    ...(bug ? [bug.name] : []),
    ...(state.silenced.length ? [`${state.silenced.length} silenced head${state.silenced.length > 1 ? "s" : ""}`] : []),
    ...(state.forced.length && state.beam === 1 ? [`the first ${state.forced.length} tokens forced`] : []),
  ];
  byId("changed").hidden = !parts.length;
  const undo = element("button", { type: "button", click: restore }, "Restore");
  byId("changed").replaceChildren(`Changed: ${parts.join("; ")}. `, undo);
}

function restore() {
  Object.assign(state, { bug: "", silenced: [], forced: [] });
  byId("counted").textContent = "";
  translate();
}

/** @param {Result} shown */
function drawHeads(shown) {
  const { n_layers, n_heads } = shown.opened.model.config;
  const box = byId("heads");
  box.style.gridTemplateColumns = `repeat(${n_heads + 1}, minmax(0, 1fr))`;
  /** @type {(number | "mean")[]} */
  const heads = [...Array(n_heads).keys(), "mean"];
  box.replaceChildren(...Array.from({ length: n_layers }, (_, layer) => heads.map((head) => {
    const map = mapView(shown, state.kind, layer, head);
    const silenced = state.silenced.includes(`${state.kind} ${layer} ${head}`);
    const short = head === "mean" ? "mean" : `${layer + 1}.${head + 1}`;
    const name = head === "mean" ? `mean of layer ${layer + 1}` : `${short}: layer ${layer + 1}, head ${head + 1}`;
    const isChosen = layer === state.layer && head === state.head;
    return element("button", {
      type: "button", class: silenced ? "silenced" : null, "aria-pressed": String(isChosen),
      "aria-label": `${name}${silenced ? ", silenced" : ""}`,
      click: () => {
        Object.assign(state, { layer, head });
        drawHeads(shown);
        drawMap(shown);
        writeAddress();
        /** @type {HTMLElement | null} */ (box.querySelector('[aria-pressed="true"]'))?.focus();
      },
    }, thumbnail(map), element("span", {}, short));
  })).flat());
}

/** The chosen map. @param {Result} shown @param {boolean} [focus] move the focus to the chosen cell */
function drawMap(shown, focus = false) {
  const map = mapView(shown, state.kind, state.layer, state.head);
  state.cell = [Math.min(state.cell[0], map.rows.length - 1), Math.min(state.cell[1], map.cols.length - 1)];
  byId("map-title").textContent = map.title;
  const choose = (/** @type {number} */ i, /** @type {number} */ j) => {
    state.cell = [i, j];
    drawMap(shown, true);
    writeAddress();
  };
  const read = (/** @type {string} */ text) => void (byId("reading").textContent = text);
  byId("map").replaceChildren(mapTable(map, state.cell, choose, read));
  byId("arithmetic").replaceChildren(arithmetic(shown, map, state.cell));
  byId("description").textContent = map.description;
  read(cellText(map, ...state.cell));
  const mean = state.head === "mean";
  const silenced = namesOfChosen(shown).every((name) => state.silenced.includes(name));
  byId("silence").textContent = mean ? "Silence this layer's heads" : "Silence this head";
  byId("silence").setAttribute("aria-pressed", String(silenced));
  if (focus) /** @type {HTMLElement | null} */ (byId("map").querySelector('[tabindex="0"]'))?.focus();
}

/** The chosen head, or all heads of the layer, as in `Changes.silenced`. @param {Result} shown */
function namesOfChosen(shown) {
  const { n_heads } = shown.opened.model.config;
  const heads = state.head === "mean" ? [...Array(n_heads).keys()] : [state.head];
  return heads.map((head) => `${state.kind} ${state.layer} ${head}`);
}

/** @param {Result["opened"]} opened @param {BeamStep[]} steps @param {Hypothesis[]} hypotheses */
function drawBeam({ tgtVocab }, steps, hypotheses) {
  byId("beam-section").hidden = !steps.length;
  if (!steps.length) return;
  const best = hypotheses[0] ?? { ids: [], logProb: 0, score: 0, finished: false };
  const textOf = (/** @type {number[]} */ ids) => tgtVocab.decode(ids);
  byId("hypotheses").replaceChildren(...hypotheses.map((h) =>
    element("li", {}, `${textOf(h.ids)} (score ${h.score.toFixed(3)}${h.finished ? "" : ", unfinished"})`)));
  byId("tree").replaceChildren(beamTree(steps, best, (id) => tgtVocab.pieces[id]));
  byId("tree-table").replaceChildren(beamTable(steps, best, textOf));
}

/** The right model beside the broken one. @param {Result} shown */
function drawExhibit(shown) {
  const bug = MUSEUM.find(({ id }) => id === state.bug);
  document.querySelectorAll('input[name="bug"]').forEach((radio) => {
    if (radio instanceof HTMLInputElement) radio.checked = radio.value === state.bug;
  });
  const lines = [];
  if (bug) {
    const probe = bug.probe ? ["The probe ", element("code", {}, bug.probe), " finds it."] : ["No probe finds it: the model agrees with itself. Compare with an independent implementation, or look at the scores."];
    lines.push(element("p", {}, bug.what, " See ", paperLink(`section ${bug.section}`), " and ", notebookLink(bug.symbol), ". ", ...probe));
  } else lines.push(element("p", {}, "Choose a bug to see the right model beside the broken one. All of these are mistakes that people make; none of them raises an error."));
  if (shown.intact !== null) {
    const broken = shown.opened.tgtVocab.decode(shown.steps.map(({ id }) => id));
    lines.push(element("dl", { class: "exhibit" },
      element("dt", {}, "the right model"), element("dd", {}, ...markDifferences(shown.intact, broken)),
      element("dt", {}, "this model"), element("dd", {}, ...(broken ? markDifferences(broken, shown.intact) : ["(nothing)"]))));
    if (broken === shown.intact) lines.push(element("p", {}, "This sentence does not show it. Such bugs are the worst: try a longer sentence, look at the probabilities, or count."));
  }
  byId("exhibit").replaceChildren(...lines);
  control("count", HTMLButtonElement).disabled = shown.intact === null;
  control("restore", HTMLButtonElement).disabled = shown.intact === null;
}

/** Show the state in the form. @param {OpenModel} opened */
function fillForm({ about }) {
  const known = about.source === "de" || about.source === "en" ? EXAMPLES[about.source] : [];
  if (state.sentence === null) state.sentence = known[0] ?? "";
  if (sentence.value !== state.sentence) sentence.value = state.sentence;
  sentence.lang = about.source ?? "";
  direction.value = state.model;
  const option = direction.selectedOptions[0];
  if (option) option.textContent = modelName(state.model, about);
  beamWidth.value = String(state.beam);
  alpha.value = String(state.alpha);
  alpha.disabled = state.beam === 1;
  examples.replaceChildren(element("option", { value: "" }, "examples"), ...known.map((text) => element("option", { lang: about.source, value: text }, text)));
  /** @type {HTMLElement} */ (examples.parentElement).hidden = !known.length;
  byId("limits").textContent = about.note || "The model knows what it was trained on and little else. Do not rely on its translations.";
  byId("origin").textContent = `Model: ${about.title}.`;
  document.querySelectorAll('input[name="kind"]').forEach((radio) => {
    if (radio instanceof HTMLInputElement) radio.checked = radio.value === state.kind;
  });
}

// What the reader does

/** @param {string} kind @param {(map: MapView) => void} act */
function onMap(kind, act) {
  byId(kind).addEventListener("click", () => {
    if (result) act(mapView(result, state.kind, state.layer, state.head));
  });
}

function listen() {
  start.models.forEach((key) => direction.append(element("option", { value: key }, modelName(key))));
  WIDTHS.forEach((width) => beamWidth.append(element("option", { value: width }, width === 1 ? "greedy" : `beam of ${width}`)));
  MUSEUM.forEach(({ id, name }) => byId("bugs").append(element("label", {}, element("input", { type: "radio", name: "bug", value: id }), name)));
  byId("bugs").querySelector("legend")?.after(element("label", {}, element("input", { type: "radio", name: "bug", value: "", checked: true }), "as it was trained"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    Object.assign(state, { sentence: sentence.value, forced: [], at: 0, beam: Number(beamWidth.value) });
    state.alpha = Math.min(5, Math.max(0, alpha.valueAsNumber || 0));
    translate(true);
  });
  direction.addEventListener("change", () => {
    Object.assign(state, { model: direction.value, sentence: null, forced: [], silenced: [], at: 0 });
    translate();
  });
  examples.addEventListener("change", () => {
    if (!examples.value) return;
    Object.assign(state, { sentence: examples.value, forced: [], at: 0 });
    translate(true);
  });
  beamWidth.addEventListener("change", () => {
    Object.assign(state, { beam: Number(beamWidth.value), forced: [], at: 0 });
    translate();
  });
  byId("kinds").addEventListener("change", (event) => {
    if (event.target instanceof HTMLInputElement) state.kind = /** @type {Kind} */ (event.target.value);
    if (!result) return;
    drawHeads(result);
    drawMap(result);
    writeAddress();
  });
  byId("bugs").addEventListener("change", (event) => {
    if (event.target instanceof HTMLInputElement) state.bug = event.target.value;
    Object.assign(state, { forced: [], at: 0 });
    byId("counted").textContent = "";
    translate();
  });
  byId("silence").addEventListener("click", () => {
    if (!result) return;
    const names = namesOfChosen(result);
    const others = state.silenced.filter((name) => !names.includes(name));
    const all = names.every((name) => state.silenced.includes(name));
    Object.assign(state, { silenced: all ? others : [...others, ...names], forced: [] });
    translate();
  });
  byId("count").addEventListener("click", countCaptions);
  byId("restore").addEventListener("click", restore);
  const name = (/** @type {MapView} */ map) => map.title.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  onMap("save-svg", (map) => download(`${name(map)}.svg`, new Blob([mapSvg(map)], { type: "image/svg+xml" })));
  onMap("save-csv", (map) => download(`${name(map)}.csv`, new Blob([mapCsv(map)], { type: "text/csv" })));
  onMap("save-png", async (map) => download(`${name(map)}.png`, await toPng(mapSvg(map))));
  byId("copy-link").addEventListener("click", async () => {
    writeAddress();
    try {
      await navigator.clipboard.writeText(location.href);
      say("The link to this state is copied.");
    } catch {
      say("The address bar holds the link to this state.");
    }
  });
  addEventListener("hashchange", () => {
    readAddress();
    translate();
  });
  byId("copy-link").hidden = location.protocol === "about:"; // a frame in a notebook
  const { book } = document.documentElement.dataset;
  byId("home").hidden = !book;
  byId("home").setAttribute("href", `${book}index.html`);
}

listen();
readAddress();
translate();
