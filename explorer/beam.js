"use strict";
// The beam as a tree: a column per step, with the prefixes that were kept, dropped and finished.

/** @typedef {Branch & {state: "kept" | "finished" | "dropped", onBest: boolean}} Leaf */

const DROPPED_SHOWN = 3;

/** The leaves of a step from top to bottom: kept ones first, then finished, then some dropped.
 * @param {BeamStep} step @param {Hypothesis} best @returns {Leaf[]} */
function leavesOf({ branches }, best) {
  const ofState = (/** @type {Leaf["state"]} */ state) =>
    branches
      .filter(({ id, kept }) => (kept ? (id === EOS_ID ? "finished" : "kept") : "dropped") === state)
      .map((branch) => ({ ...branch, state, onBest: isPrefix(branch, best) }));
  const dropped = ofState("dropped").sort((a, b) => b.logProb - a.logProb);
  return [...ofState("kept"), ...ofState("finished"), ...dropped.slice(0, DROPPED_SHOWN)];
}

/** True if a branch is a part of the best hypothesis. @param {Branch} branch @param {Hypothesis} best */
function isPrefix({ prefix, id, kept }, best) {
  const whole = best.finished ? [...best.ids, EOS_ID] : best.ids;
  return kept && [...prefix, id].every((one, i) => one === whole[i]);
}

/** @param {string} tag @param {{[name: string]: unknown}} attributes @param {...(Node | string)} children */
function svgElement(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** The tree as a picture, a column per step. @param {BeamStep[]} steps @param {Hypothesis} best
 * @param {(id: number) => string} token */
function beamTree(steps, best, token) {
  const [width, height] = [122, 30];
  const columns = steps.map((step) => leavesOf(step, best));
  const rows = Math.max(...columns.map((column) => column.length));
  const middle = (/** @type {number} */ row) => height * (row + 0.5);
  const svg = svgElement("svg", {
    class: "tree",
    role: "img",
    width: width * (steps.length + 1),
    height: height * rows + 24,
    "aria-label": `Beam search in ${steps.length} steps; the table below has all its numbers.`,
  });
  const [edges, nodes] = [svgElement("g", {}), svgElement("g", {})];
  nodes.append(svgElement("text", { x: 8, y: middle(0) + 5 }, "<bos>"));
  columns.forEach((column, step) => {
    const x = width * (step + 1);
    column.forEach((leaf, row) => {
      const [from, to] = [middle(step ? leaf.parent : 0), middle(row)];
      const start = step ? x - 22 : x - 44;
      edges.append(svgElement("path", {
        class: leaf.onBest ? "best" : leaf.state,
        d: `M${start} ${from} C${x - 8} ${from} ${x - 16} ${to} ${x - 2} ${to}`,
      }));
      const box = svgElement("g", { class: `${leaf.state}${leaf.onBest ? " best" : ""}` });
      const label = leaf.state === "finished" ? "■ end" : token(leaf.id);
      const short = label.length > 9 ? `${label.slice(0, 8)}…` : label;
      box.append(
        svgElement("title", {}, `${label}, ${leaf.state}, log-probability ${leaf.logProb.toFixed(2)}`),
        svgElement("rect", { x, y: to - 12, width: width - 22, height: 24, rx: 4 }),
        svgElement("text", { x: x + 4, y: to + 4 }, short),
        svgElement("text", { x: x + width - 26, y: to + 4, class: "number" }, leaf.logProb.toFixed(1)),
      );
      nodes.append(box);
    });
    nodes.append(svgElement("text", { x, y: height * rows + 16, class: "step" }, `step ${step + 1}`));
  });
  svg.append(edges, nodes);
  return svg;
}

/** The same numbers as a table. @param {BeamStep[]} steps @param {Hypothesis} best
 * @param {(ids: number[]) => string} textOf */
function beamTable(steps, best, textOf) {
  const body = element("tbody");
  for (const step of steps) {
    const cell = (/** @type {Leaf["state"]} */ state) => {
      const leaves = leavesOf(step, best).filter((leaf) => leaf.state === state);
      return element("td", {}, ...leaves.map(({ prefix, id, logProb }) =>
        element("div", {}, `${textOf([...prefix, id]) || "(empty)"} (${logProb.toFixed(2)})`)));
    };
    body.append(element("tr", {}, element("th", { scope: "row" }, String(step.step)), cell("kept"), cell("finished"), cell("dropped")));
  }
  const heads = ["step", "kept", "finished", `best ${DROPPED_SHOWN} dropped`];
  return element("table", { class: "plain" },
    element("caption", {}, "Prefixes and their log-probabilities"),
    element("thead", {}, element("tr", {}, ...heads.map((name) => element("th", { scope: "col" }, name)))),
    body);
}
