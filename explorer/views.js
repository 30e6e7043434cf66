"use strict";
// What the page shows of one translation: its maps, the arithmetic of a cell, what could follow.

/** @typedef {{opened: OpenModel, changes: Changes, src: number[],
 *   source: string[], encoder: Maps, steps: GreedyStep[], best: Hypothesis,
 *   beamSteps: BeamStep[], hypotheses: Hypothesis[], intact: string | null}} Result */
/** @typedef {"encoder" | "decoder" | "cross"} Kind */

const SHOWN = 60; // most rows and columns of a map
const KIND_NAMES = {
  encoder: "Encoder self-attention",
  decoder: "Masked decoder self-attention",
  cross: "Cross-attention",
};
/** @type {{[module: string]: string}} */
const NOTEBOOKS = {
  embeddings: "01_embeddings",
  positional: "02_positional_encoding",
  masks: "03_masks",
  attention: "04_multi_head_attention",
  feed: "05_feed_forward",
  model: "06_encoder_decoder",
  decoding: "07_training_copy_task_and_translation",
};

/** A link to the cell of a notebook that builds a symbol; plain text outside the book.
 * @param {string} symbol such as "attention-attention" */
function notebookLink(symbol) {
  const notebook = NOTEBOOKS[symbol.split("-")[0]];
  const text = `notebook ${notebook.slice(0, 2)}`;
  const { book } = document.documentElement.dataset;
  return book ? element("a", { href: `${book}notebooks/${notebook}.html#built-${symbol}` }, text) : text;
}

/** A link to a place in the paper, "section 3.2.1" or "equation 1". @param {string} place */
function paperLink(place) {
  const { book } = document.documentElement.dataset;
  const here = `${book}paper.html#${place.replace(/[ .]/g, "-")}`;
  return element("a", { href: book ? here : "https://arxiv.org/abs/1706.03762" }, place);
}

/** The heads of query i in a layer, and the row of their matrices that holds it.
 * @param {Result} result @param {Kind} kind @param {number} layer @param {number} i
 * @returns {{heads: Head[], row: number}} */
function headsAt({ encoder, steps }, kind, layer, i) {
  if (kind === "encoder") return { heads: encoder[layer], row: i };
  return { heads: steps[i].maps[2 * layer + (kind === "cross" ? 1 : 0)], row: 0 };
}

/** True where query i may attend to key j. @param {Result} result @param {Kind} kind
 * @param {number} i @param {number} j */
function isAllowed({ changes }, kind, i, j) {
  if (kind === "cross") return true;
  if (kind === "encoder") return changes.encoderOrder || j <= i;
  return j <= i && (changes.cacheKeys || j === 0);
}

/** @param {Result} result @param {Kind} kind @param {number} layer @param {number | "mean"} head
 * @returns {MapView} */
function mapView(result, kind, layer, head) {
  const inputs = result.steps.map(({ input }) => result.opened.tgtVocab.pieces[input]);
  const [rows, cols] = { encoder: [result.source, result.source], decoder: [inputs, inputs], cross: [inputs, result.source] }[kind];
  const allowed = (/** @type {number} */ i, /** @type {number} */ j) => isAllowed(result, kind, i, j);
  const value = (/** @type {number} */ i, /** @type {number} */ j) => {
    const { heads, row } = headsAt(result, kind, layer, i);
    const chosen = head === "mean" ? heads : [heads[head]];
    return chosen.reduce((total, { weights }) => total + weights.row(row)[j], 0) / chosen.length;
  };
  const title = `${KIND_NAMES[kind]}, layer ${layer + 1}, ${head === "mean" ? "mean of the heads" : `head ${head + 1}`}`;
  const map = { kind, layer, head, rows: rows.slice(0, SHOWN), cols: cols.slice(0, SHOWN), value, allowed, title, description: "" };
  map.description = describeMap(map);
  return map;
}

/** The map in words: its size, and the strongest key of each query. @param {MapView} map */
function describeMap(map) {
  const strongest = map.rows.map((token, i) => {
    const values = map.cols.map((_, j) => (map.allowed(i, j) ? map.value(i, j) : -1));
    const j = values.indexOf(Math.max(...values));
    return `${token} to ${map.cols[j]} (${percent(values[j])})`;
  });
  return `${map.title}. Heat map of ${map.rows.length} queries by ${map.cols.length} keys. Strongest key of each query: ${strongest.join(", ")}.`;
}

/** How the weight of one cell is computed, step by step. @param {Result} result
 * @param {MapView} map @param {[number, number]} cell */
function arithmetic(result, map, [i, j]) {
  if (map.head === "mean") return element("p", {}, "Choose one head to see how a weight is computed. This map is the mean of all heads of the layer.");
  const { heads, row } = headsAt(result, /** @type {Kind} */ (map.kind), map.layer, i);
  const { query, key, scores, weights } = heads[map.head];
  const [q, k, dk] = [query.row(row), key.row(j), query.cols];
  const product = dot(q, key, j);
  const { scale } = result.changes;
  const title = element("h3", {}, `How “${map.rows[i]}” (query ${i}) weighs “${map.cols[j]}” (key ${j})`);
  const line = (/** @type {string} */ what, /** @type {(Node | string)[]} */ how) =>
    element("tr", {}, element("th", { scope: "row" }, what), element("td", {}, ...how));
  const lines = [
    line("q · k", [`sum of ${dk} products = ${product.toFixed(3)}`, productBars(q, k)]),
    line("÷ √dₖ", [scale ? `${product.toFixed(3)} / √${dk} = ${(product / Math.sqrt(dk)).toFixed(3)}` : "left out: this is the bug"]),
  ];
  if (map.allowed(i, j)) {
    const row_ = map.cols.map((_, other) => (map.allowed(i, other) ? scores.row(row)[other] : -Infinity));
    const all = Array.from(scores.row(row), (s, other) => (map.allowed(i, other) ? s : -Infinity));
    const highest = Math.max(...all);
    const total = all.reduce((sum, s) => sum + Math.exp(s - highest), 0);
    const own = Math.exp(row_[j] - highest);
    lines.push(
      line("mask", [map.kind === "decoder" ? "key is not in the future: the score stays" : "none here: every key is visible"]),
      line("softmax", [`e^(${row_[j].toFixed(3)} − ${highest.toFixed(3)}) / Σ = ${own.toFixed(4)} / ${total.toFixed(4)} = `, element("strong", {}, weights.row(row)[j].toFixed(4)), ` (${percent(weights.row(row)[j])}; the highest score of the row is subtracted first)`]),
      line("then", [`the head's output for this query gets ${weights.row(row)[j].toFixed(4)} times this key's value vector`]),
    );
  } else lines.push(line("mask", ["this key is masked: the score becomes −∞ and the weight 0"]));
  const source = element("p", { class: "hint" }, element("span", { class: "formula" }, "Attention(Q, K, V) = softmax(QKᵀ / √dₖ) V"), ", ", paperLink("equation 1"), ". Built in ", notebookLink("attention-attention"), ".");
  return element("div", {}, title, source, element("table", {}, element("tbody", {}, ...lines)));
}

/** The products of a query and a key, a bar per dimension. @param {Float32Array} q @param {Float32Array} k */
function productBars(q, k) {
  const products = Array.from(q, (value, c) => value * k[c]);
  const largest = Math.max(...products.map(Math.abs), 1e-9);
  const top = products.indexOf(Math.max(...products));
  const label = `${q.length} products; the largest is ${products[top].toFixed(2)}, in dimension ${top}`;
  const svg = svgElement("svg", { class: "products", role: "img", viewBox: `0 0 ${q.length * 10} 50`, width: q.length * 10, height: 50, "aria-label": label });
  svg.append(svgElement("line", { x1: 0, x2: q.length * 10, y1: 25, y2: 25 }));
  products.forEach((product, c) => {
    const height = Math.max(0.5, (24 * Math.abs(product)) / largest);
    const bar = svgElement("rect", { x: c * 10 + 1, y: product > 0 ? 25 - height : 25, width: 8, height, class: product > 0 ? "plus" : "minus" });
    bar.append(svgElement("title", {}, `dimension ${c}: ${q[c].toFixed(2)} × ${k[c].toFixed(2)} = ${product.toFixed(2)}`));
    svg.append(bar);
  });
  return svg;
}

/** What could follow at a step, with its probabilities. @param {Result} result @param {number} at
 * @param {(id: number) => void} force */
function nextTokens({ steps, opened }, at, force) {
  const { logProbs, id, input } = steps[at];
  const { pieces } = opened.tgtVocab;
  const likely = firstTopK(logProbs, 8);
  const shown = likely.includes(id) ? likely : [...likely, id];
  const body = element("tbody", {}, ...shown.map((token) => {
    const share = Math.exp(logProbs[token]);
    const action = token === id ? element("strong", {}, "chosen") : element("button", { type: "button", "aria-label": `take ${pieces[token]} instead`, click: () => force(token) }, "take");
    return element("tr", {},
      element("th", { scope: "row" }, pieces[token]),
      element("td", { class: "bar" }, element("span", { style: `width: ${(100 * share).toFixed(2)}%` })),
      element("td", { class: "number" }, `${(100 * share).toFixed(1)} %`),
      element("td", {}, action));
  }));
  return element("table", {}, element("caption", {}, `Step ${at + 1}: after “${pieces[input]}”`), body);
}

/** Words of `text` with those marked that `other` does not have in this order.
 * @param {string} text @param {string} other */
function markDifferences(text, other) {
  const [a, b] = [text.split(" "), other.split(" ")];
  const common = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i][j] = a[i] === b[j] ? 1 + common[i + 1][j + 1] : Math.max(common[i + 1][j], common[i][j + 1]);
    }
  }
  const parts = [];
  for (let i = 0, j = 0; i < a.length; i++) {
    while (j < b.length && a[i] !== b[j] && common[i][j + 1] > common[i + 1][j]) j++;
    const same = j < b.length && a[i] === b[j] && common[i][j] === 1 + common[i + 1][j + 1];
    if (same) j++;
    parts.push(same ? a[i] : element("mark", {}, a[i]), " ");
  }
  return parts;
}

/** A picture of numbers from `low` to 1, a pixel each. @param {Matrix} matrix @param {number} low
 * @param {string} label */
function matrixPicture(matrix, low, label) {
  const canvas = thumbnail({
    ...{ kind: "", layer: 0, head: 0, title: "", description: "", allowed: () => true },
    ...{ rows: new Array(matrix.rows).fill(""), cols: new Array(matrix.cols).fill("") },
    value: (i, j) => (matrix.row(i)[j] - low) / (1 - low),
  });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}
