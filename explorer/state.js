"use strict";
// What the reader has chosen. The address holds all of it, so that a link leads to what one sees.

/** @typedef {{models: string[], sentence: string | null}} Start */
/** @typedef {{TransformerModels?: {[key: string]: PackedModel}, ExplorerStart?: Start}} Given */

const given = /** @type {Given} */ (globalThis);
const start = given.ExplorerStart ?? { models: ["multi30k-de-en", "multi30k-en-de"], sentence: null };
const WIDTHS = [1, 2, 3, 4, 5, 8]; // of the beam; 1 is greedy

const state = {
  model: start.models[0],
  sentence: start.sentence,
  beam: 1,
  alpha: 1,
  kind: /** @type {Kind} */ ("cross"),
  layer: Infinity, // the last one
  head: /** @type {number | "mean"} */ (0),
  cell: /** @type {[number, number]} */ ([1, 1]),
  at: 0, // the step whose next tokens are shown
  silenced: /** @type {string[]} */ ([]),
  bug: "",
  forced: /** @type {number[]} */ ([]),
};

function writeAddress() {
  const values = {
    m: state.model, s: state.sentence ?? "", b: state.beam, a: state.alpha,
    map: `${state.kind}.${state.layer}.${state.head}`, cell: state.cell.join("."), t: state.at,
    off: state.silenced.map((name) => name.replaceAll(" ", ".")).join("_"),
    bug: state.bug, f: state.forced.join("."),
  };
  const filled = Object.entries(values).filter(([, value]) => value !== "");
  const hash = `#${new URLSearchParams(filled.map(([name, value]) => [name, String(value)]))}`;
  try {
    history.replaceState(null, "", hash);
  } catch {
    // a frame without an address
  }
}

function readAddress() {
  const values = new URLSearchParams(location.hash.slice(1));
  const numbers = (/** @type {string} */ name) =>
    (values.get(name) ?? "").split(/[._]/).filter((text) => /^\d{1,6}$/.test(text)).map(Number);
  if (start.models.includes(values.get("m") ?? "")) state.model = values.get("m") ?? "";
  state.sentence = values.get("s")?.slice(0, 400) ?? state.sentence;
  const [width, penalty] = [numbers("b")[0] ?? 1, Number(values.get("a") ?? 1)];
  state.beam = WIDTHS.includes(width) ? width : 1;
  state.alpha = penalty >= 0 && penalty <= 5 ? penalty : 1;
  const [kind, layer, head] = (values.get("map") ?? "").split(".");
  if (kind === "encoder" || kind === "decoder" || kind === "cross") {
    const whole = (/** @type {string} */ text) => (/^\d{1,3}$/.test(text) ? Number(text) : 0);
    Object.assign(state, { kind, layer: whole(layer), head: head === "mean" ? head : whole(head) });
  }
  const [i, j] = numbers("cell");
  if (j !== undefined) state.cell = [i, j];
  state.at = numbers("t")[0] ?? 0;
  const heads = (values.get("off") ?? "").split("_").map((name) => name.replaceAll(".", " "));
  state.silenced = heads.filter((name) => /^(encoder|decoder|cross) \d{1,3} \d{1,3}$/.test(name));
  state.bug = MUSEUM.some(({ id }) => id === values.get("bug")) ? values.get("bug") ?? "" : "";
  state.forced = numbers("f");
}
