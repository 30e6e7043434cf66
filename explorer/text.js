"use strict";
// Text to ids and back, as in the library's `vocab.py`, and the files of a model: safetensors and
// sentencepiece, read as they are.

/** @typedef {{config: ModelConfig, weights: string, source: string, target: string | null,
 *   about: About}} PackedModel a model as `models/*.js` holds it: its files, deflated, in base64;
 *   target: null if the vocabulary is shared */
/** @typedef {{model: Transformer, srcVocab: SubwordVocab, tgtVocab: SubwordVocab,
 *   about: About}} OpenModel */
/** @typedef {{title: string, source: string | null, target: string | null, valLoss: number | null,
 *   note: string, examples: string[]}} About */

const SPACES = /[\t\n\v\f\r\x1c-\x1f \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;
const INVISIBLE = new RegExp(
  "[\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b-\\u200f\\u202a-\\u202e" +
    "\\u2060-\\u206f\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff0-\\ufff8" +
    "\\u{1bca0}-\\u{1bca3}\\u{1d173}-\\u{1d17a}\\u{e0000}-\\u{e0fff}]" +
    "(?<![\\u0600-\\u1cff\\ua800-\\uabff\\ufe0f\\u{10a00}-\\u{11fff}\\u2190-\\u2bff\\u{1f000}-\\u{1faff}]" +
    "[\\u200c\\u200d])",
  "gu",
);
const ENTITY =
  /&(?:(?:amp|AMP|#0*38|#[xX]0*26);)*([A-Za-z][A-Za-z0-9]*;|#[0-9]{1,8};|#[xX][0-9a-fA-F]{1,8};)/gu;
const NO_SPACES =
  "\\u0e00-\\u0eff\\u1000-\\u109f\\u1780-\\u17ff\\u3040-\\u30ff\\u3400-\\u9fff\\u{20000}-\\u{3ffff}";
const WORD = new RegExp(`[${NO_SPACES}]|[^${NO_SPACES}${SPACES.source.slice(1, -2)}]+`, "gu");

/** The character of an entity such as `&amp;` or `&#38;`; unknown names stay.
 * @param {string} _ @param {string} name */
function plainCharacter(_, name) {
  if (name[0] !== "#") {
    const element = document.createElement("i");
    element.innerHTML = `&${name}`; // the browser knows all 2,231 names
    const text = element.textContent ?? "";
    const partly = text.endsWith(";") && name !== "semi;"; // &notit; became ¬it;
    return partly ? `&${name}` : text;
  }
  const code = parseInt(name.replace(/^#[xX]/, "0x").replace("#", ""));
  if (code >= 0x80 && code < 0xa0) {
    return new TextDecoder("windows-1252").decode(new Uint8Array([code]));
  }
  if (code === 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return "\ufffd";
  const control = code < 32 && ![9, 10, 12, 13].includes(code);
  const noCharacter = (code & 0xfffe) === 0xfffe || (code >= 0xfdd0 && code < 0xfdf0);
  return control || code === 127 || noCharacter ? "" : String.fromCodePoint(code);
}

/** A sentence in one spelling: NFC, no invisible characters or entities, single spaces.
 * @param {string} line */
function normalizeText(line) {
  for (let before = null; line !== before; ) {
    before = line; // again: one step can create work for another, "&amp;#173;"
    const plain = line.replace(INVISIBLE, "").replace(ENTITY, plainCharacter).replaceAll("▁", "_");
    line = plain.normalize("NFC").split(SPACES).filter(Boolean).join(" ");
  }
  return line;
}

/** Reads fields of a protocol buffer message: [number, wire type, value]. Value: a number, or the
 * bytes of a string, an inner message or a float. @param {Uint8Array} bytes
 * @returns {Generator<[number, number | Uint8Array]>} */
function* protobufFields(bytes) {
  let at = 0;
  const varint = () => {
    let [value, scale] = [0, 1];
    for (; bytes[at] & 128; scale *= 128) value += (bytes[at++] & 127) * scale;
    return value + bytes[at++] * scale;
  };
  while (at < bytes.length) {
    const key = varint();
    const wire = key & 7;
    const size = wire === 2 ? varint() : { 1: 8, 5: 4 }[wire] ?? 0;
    yield [key >> 3, wire === 0 ? varint() : bytes.subarray(at, (at += size))];
  }
}

/** A vocabulary of subwords: byte-pair encoding, from the bytes of a sentencepiece model. */
class SubwordVocab {
  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    /** @type {string[]} */
    this.pieces = [];
    /** @type {number[]} */
    this.scores = [];
    /** @type {Map<string, number>} ids of ordinary pieces: a typed "<eos>" never becomes special */
    this.ids = new Map();
    for (const [field, value] of protobufFields(bytes)) {
      if (field === 1 && typeof value !== "number") this.addPiece(value);
    }
  }

  /** @param {Uint8Array} message piece = 1, score = 2, type = 3 (1: an ordinary piece) */
  addPiece(message) {
    const found = Object.fromEntries(protobufFields(message));
    const [text, float] = /** @type {Uint8Array[]} */ ([found[1], found[2] ?? new Uint8Array(4)]);
    const piece = new TextDecoder().decode(text);
    if ((found[3] ?? 1) === 1) this.ids.set(piece, this.pieces.length);
    this.scores.push(new DataView(float.buffer, float.byteOffset).getFloat32(0, true));
    this.pieces.push(piece);
  }

  /** @param {string} text @returns {string[]} */
  tokenize(text) {
    const words = normalizeText(text.toWellFormed?.() ?? text).split(" ");
    const parts = words.filter(Boolean).flatMap((word) => this.mergePairs([..."▁" + word]));
    /** @type {string[]} */
    const tokens = []; // neighboring unknown characters are one token
    parts.forEach((part, i) => {
      const joins = i > 0 && !this.ids.has(part) && !this.ids.has(parts[i - 1]);
      if (joins) tokens.push(tokens.pop() + part);
      else tokens.push(part);
    });
    return tokens;
  }

  /** Merge the pair with the best score until there is none; ties go to the first.
   * @param {string[]} parts of one word; no piece reaches over a space */
  mergePairs(parts) {
    for (;;) {
      let [best, at] = [-Infinity, -1];
      for (let i = 0; i + 1 < parts.length; i++) {
        const id = this.ids.get(parts[i] + parts[i + 1]);
        if (id !== undefined && this.scores[id] > best) [best, at] = [this.scores[id], i];
      }
      if (at < 0) return parts;
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }

  /** Ids of a sentence. @param {string} text @param {{eos?: boolean}} [options] */
  encode(text, { eos = false } = {}) {
    const ids = this.tokenize(text).map((token) => this.ids.get(token) ?? UNK_ID);
    return eos ? [...ids, EOS_ID] : ids;
  }

  /** A sentence, without padding, <bos> and <eos>. @param {number[]} ids */
  decode(ids) {
    const hidden = [PAD_ID, BOS_ID, EOS_ID];
    const tokens = ids.filter((id) => !hidden.includes(id)).map((id) => this.pieces[id]);
    return tokens.join("").replaceAll("▁", " ").trim();
  }
}

/** How a sentence is unlike the training text, or null: `why_unfamiliar` in the library.
 * @param {SubwordVocab} vocab @param {string} sentence @param {Hypothesis} hypothesis
 * @param {number | null} valLoss */
function whyUnfamiliar(vocab, sentence, hypothesis, valLoss) {
  const words = sentence.match(WORD)?.length ?? 0;
  const ids = vocab.encode(sentence);
  const unknown = ids.filter((id) => id === UNK_ID).length / Math.max(1, ids.length);
  const perWord = ids.length / Math.max(1, words);
  const nTokens = hypothesis.ids.length + Number(hypothesis.finished);
  const nats = -hypothesis.logProb / Math.max(1, nTokens);
  const doubt = nats / Math.max(1, (valLoss ?? 0) / 1.45) + 0.3 * perWord + unknown;
  if (!words || doubt <= 1.25) return null;
  const share = (100 * unknown).toFixed(1);
  return `${share}% unknown, ${perWord.toFixed(2)} tokens per word, ${(-nats).toFixed(2)} log-probability per token of its translation`;
}

/** The bytes of a packed file. @param {string} text @returns {Promise<Uint8Array>} */
async function unpack(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(inflated).arrayBuffer());
}

/** Half-precision numbers in single precision. @param {Uint16Array} halves */
function fromHalves(halves) {
  const known = new Float32Array(65536); // every half-precision number once
  for (let bits = 0; bits < 65536; bits++) {
    const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
    const size =
      exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
    known[bits] = bits & 0x8000 ? -size : size; // a model holds no infinities
  }
  const numbers = new Float32Array(halves.length);
  for (let i = 0; i < numbers.length; i++) numbers[i] = known[halves[i]];
  return numbers;
}

/** The weights of a safetensors file. @param {Uint8Array} bytes @returns {Tensors} */
function readSafetensors(bytes) {
  const { buffer } = bytes;
  const headLength = Number(new DataView(buffer).getBigUint64(0, true));
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + headLength)));
  const numbers = buffer.slice(8 + headLength);
  /** @type {Tensors} */
  const tensors = {};
  const isHalf = Object.values(head).some(({ dtype }) => dtype === "F16");
  const all = isHalf ? fromHalves(new Uint16Array(numbers)) : new Float32Array(numbers);
  for (const [name, { shape, data_offsets }] of Object.entries(head)) {
    if (name === "__metadata__") continue;
    const [from, to] = data_offsets.map((/** @type {number} */ at) => at / (isHalf ? 2 : 4));
    const [rows, cols] = shape.length === 1 ? [1, ...shape] : shape;
    tensors[name] = new Matrix(rows, cols, all.subarray(from, to));
  }
  return tensors;
}

/** A model and its vocabularies. @param {PackedModel} packed @returns {Promise<OpenModel>} */
async function openModel({ config, weights, source, target, about }) {
  const srcVocab = new SubwordVocab(await unpack(source));
  const tgtVocab = target === null ? srcVocab : new SubwordVocab(await unpack(target));
  const tensors = readSafetensors(await unpack(weights));
  return { model: new Transformer(config, tensors), srcVocab, tgtVocab, about };
}
