"use strict";
// The Transformer of the library in plain JavaScript: the same names, the same numbers, one
// sentence at a time. `text.js` turns text into ids and back.
//
// Shapes as in the library: S source length, T target length, D d_model, H heads, V vocabulary.
// A Matrix (T, D) holds one row per token. Masks are Matrices, too: 1 = may attend.

/** @typedef {{[name: string]: Matrix}} Tensors the weights by their names in the library */
/** @typedef {{src_vocab_size: number, tgt_vocab_size: number, d_model: number, n_heads: number,
 *   n_layers: number, d_ff: number, max_len: number, norm_first: boolean, pad_id: number,
 *   positions: string}} ModelConfig */
/** @typedef {{query: Matrix, key: Matrix, scores: Matrix, weights: Matrix}} Head
 *   one head's attention: all that a page shows of it */
/** @typedef {Head[][]} Maps receives, for every attention, its heads */
/** @typedef {{ids: number[], logProb: number, score: number, finished: boolean}} Hypothesis */
/** @typedef {typeof INTACT} Changes */

const [PAD_ID, UNK_ID, BOS_ID, EOS_ID] = [0, 1, 2, 3];

/** What the page can break. With these values, the model is the library's. */
const INTACT = {
  scale: true, // divide the scores by √d_k (section 3.2.1)
  embeddingScale: true, // multiply embeddings by √d_model (section 3.4)
  positions: true, // add positional encodings (section 3.5)
  residual: true, // add x to the output of each sub-layer (section 3.1)
  cachePosition: true, // a decoder that is fed token by token continues to count
  cacheKeys: true, // a new query sees all cached keys, not the first only
  encoderOrder: true, // the encoder sees both directions; false: a causal mask
  eos: true, // the source ends in <eos>, as in training
  bos: true, // the target starts with <bos>; false: with <pad>
  reorder: true, // the beams' caches follow their prefixes
  /** @type {string[]} */
  silenced: [], // heads whose output is 0: "cross 3 0" is decoder layer 3, head 0
};

class Matrix {
  /** @param {number} rows @param {number} cols @param {Float32Array} [data] row after row */
  constructor(rows, cols, data = new Float32Array(rows * cols)) {
    this.rows = rows;
    this.cols = cols;
    this.data = data;
  }

  /** A view of row i. @param {number} i */
  row(i) {
    return this.data.subarray(i * this.cols, (i + 1) * this.cols);
  }

  /** A view of the first n rows. @param {number} n */
  first(n) {
    return new Matrix(n, this.cols, this.data.subarray(0, n * this.cols));
  }
}

/** a + b, element by element. @param {Matrix} a @param {Matrix} b */
function sum(a, b) {
  return new Matrix(a.rows, a.cols, a.data.map((value, i) => value + b.data[i]));
}

/** The dot product of a vector and row j of a matrix, in double precision.
 * @param {Float32Array} x @param {Matrix} matrix @param {number} j */
function dot(x, { data: y, cols }, j) {
  let s0 = 0, s1 = 0, s2 = 0, s3 = 0; // four sums, which a processor adds side by side
  let i = 0;
  let at = j * cols;
  for (; i + 3 < cols; i += 4, at += 4) {
    s0 += x[i] * y[at];
    s1 += x[i + 1] * y[at + 1];
    s2 += x[i + 2] * y[at + 2];
    s3 += x[i + 3] * y[at + 3];
  }
  for (; i < cols; i++, at++) s0 += x[i] * y[at];
  return s0 + s1 + (s2 + s3);
}

/** softmax of a row, in place. @param {Float32Array} row */
function softmax(row) {
  const highest = row.reduce((a, b) => Math.max(a, b), -Infinity);
  const exponentials = Array.from(row, (value) => Math.exp(value - highest));
  const total = exponentials.reduce((a, b) => a + b, 0);
  exponentials.forEach((value, i) => (row[i] = value / total));
}

/** Log-probabilities of all tokens. @param {Float32Array} logits */
function logSoftmax(logits) {
  let highest = -Infinity;
  let total = 0;
  for (const value of logits) if (value > highest) highest = value;
  for (const value of logits) total += Math.exp(value - highest);
  const normalizer = highest + Math.log(total);
  return logits.map((value) => value - normalizer);
}

/** True where a key does not come after the query; the last query sees every key (section 3.2.3).
 * @param {number} nQueries @param {number} nKeys */
function causalMask(nQueries, nKeys) {
  const mask = new Matrix(nQueries, nKeys);
  for (let i = 0; i < nQueries; i++) mask.row(i).fill(1, 0, nKeys - nQueries + i + 1);
  return mask;
}

/** Scaled dot-product attention of one head: softmax(Q Kᵀ / √d_k) V (equation 1).
 * @param {Matrix} query (T, d_k) @param {Matrix} key (S, d_k) @param {Matrix} value (S, d_v)
 * @param {Matrix | null} mask (T, S) @param {boolean} [scale] false leaves √d_k out
 * @returns {{output: Matrix, head: Head}} */
function attention(query, key, value, mask, scale = true) {
  const scores = new Matrix(query.rows, key.rows);
  const weights = new Matrix(query.rows, key.rows);
  const output = new Matrix(query.rows, value.cols);
  for (let i = 0; i < query.rows; i++) {
    const [q, score, weight] = [query.row(i), scores.row(i), weights.row(i)];
    for (let j = 0; j < key.rows; j++) {
      const product = dot(q, key, j);
      score[j] = scale ? product / Math.sqrt(query.cols) : product;
      weight[j] = mask && !mask.row(i)[j] ? -Infinity : score[j];
    }
    softmax(weight);
    const mean = new Float64Array(value.cols); // of the values, by their weights
    for (let j = 0; j < key.rows; j++) {
      const v = value.row(j);
      for (let c = 0; c < v.length; c++) mean[c] += weight[j] * v[c];
    }
    output.row(i).set(mean);
  }
  return { output, head: { query, key, scores, weights } };
}

/** Split every row into nHeads parts. @param {Matrix} x (T, D) @param {number} nHeads
 * @returns {Matrix[]} for each head (T, d_k) */
function splitHeads(x, nHeads) {
  const width = x.cols / nHeads;
  return Array.from({ length: nHeads }, (_, h) => {
    const part = new Matrix(x.rows, width);
    for (let t = 0; t < x.rows; t++) {
      part.row(t).set(x.row(t).subarray(h * width, (h + 1) * width));
    }
    return part;
  });
}

/** Concatenate the heads. @param {Matrix[]} heads for each (T, d_k) @returns {Matrix} (T, D) */
function mergeHeads(heads) {
  const x = new Matrix(heads[0].rows, heads[0].cols * heads.length);
  heads.forEach((part, h) => {
    for (let t = 0; t < x.rows; t++) x.row(t).set(part.row(t), h * part.cols);
  });
  return x;
}

/** Keys and values of the tokens so far, for one attention; there is room for maxLen tokens. */
class KeyValueCache {
  /** @param {Matrix[]} keys @param {Matrix[]} values for each head (maxLen, d_k)
   * @param {number} length how many rows are in use */
  constructor(keys, values, length) {
    this.keys = keys;
    this.values = values;
    this.length = length;
  }

  /** @param {number} nHeads @param {number} maxLen @param {number} width */
  static empty(nHeads, maxLen, width) {
    const room = () => Array.from({ length: nHeads }, () => new Matrix(maxLen, width));
    return new KeyValueCache(room(), room(), 0);
  }

  /** Append keys and values, and return all of them. @param {Matrix[]} keys @param {Matrix[]} values */
  append(keys, values) {
    keys.forEach((part, h) => this.keys[h].data.set(part.data, this.length * part.cols));
    values.forEach((part, h) => this.values[h].data.set(part.data, this.length * part.cols));
    this.length += keys[0].rows;
    return this.read();
  }

  read() {
    const used = (/** @type {Matrix} */ part) => part.first(this.length);
    return { keys: this.keys.map(used), values: this.values.map(used) };
  }

  copy() {
    const copy = (/** @type {Matrix} */ m) => new Matrix(m.rows, m.cols, m.data.slice());
    return new KeyValueCache(this.keys.map(copy), this.values.map(copy), this.length);
  }
}

/** x Wᵀ + b. */
class Linear {
  /** @param {Matrix} weight (out, in) @param {Matrix} [bias] (1, out) */
  constructor(weight, bias) {
    this.weight = weight;
    this.bias = bias;
  }

  /** @param {Tensors} tensors @param {string} name */
  static named(tensors, name) {
    return new Linear(tensors[`${name}.weight`], tensors[`${name}.bias`]);
  }

  /** @param {Matrix} x (T, in) @returns {Matrix} (T, out) */
  forward(x) {
    const out = new Matrix(x.rows, this.weight.rows);
    for (let t = 0; t < x.rows; t++) {
      const [from, to] = [x.row(t), out.row(t)];
      for (let o = 0; o < to.length; o++) {
        to[o] = dot(from, this.weight, o) + (this.bias ? this.bias.data[o] : 0);
      }
    }
    return out;
  }
}

class LayerNorm {
  /** @param {Tensors} tensors @param {string} name */
  constructor(tensors, name) {
    this.weight = tensors[`${name}.weight`].data;
    this.bias = tensors[`${name}.bias`].data;
  }

  /** Give every row mean 0 and variance 1, then scale and shift. @param {Matrix} x */
  forward(x) {
    const out = new Matrix(x.rows, x.cols);
    for (let t = 0; t < x.rows; t++) {
      const row = x.row(t);
      const mean = row.reduce((total, value) => total + value, 0) / x.cols;
      const variance = row.reduce((total, value) => total + (value - mean) ** 2, 0) / x.cols;
      const deviation = Math.sqrt(variance + 1e-5);
      row.forEach((value, i) => {
        out.row(t)[i] = ((value - mean) / deviation) * this.weight[i] + this.bias[i];
      });
    }
    return out;
  }
}

/** Several heads in parallel (section 3.2.2). */
class MultiHeadAttention {
  /** @param {Tensors} tensors @param {string} name @param {number} nHeads
   * @param {Changes} changes @param {string} place such as "cross 3", to silence its heads */
  constructor(tensors, name, nHeads, changes, place) {
    this.nHeads = nHeads;
    this.changes = changes;
    this.place = place;
    this.query = Linear.named(tensors, `${name}.query`);
    this.key = Linear.named(tensors, `${name}.key`);
    this.value = Linear.named(tensors, `${name}.value`);
    this.output = Linear.named(tensors, `${name}.output`);
  }

  /** Keys and values of all heads. @param {Matrix} source (S, D) */
  project(source) {
    const keys = splitHeads(this.key.forward(source), this.nHeads);
    return { keys, values: splitHeads(this.value.forward(source), this.nHeads) };
  }

  /** Attend from x (queries) to keys and values, and append what `Maps` shows to `maps`.
   * @param {Matrix} x (T, D) @param {{keys: Matrix[], values: Matrix[]}} source
   * @param {Matrix | null} mask (T, S) @param {Maps | null} maps */
  forward(x, { keys, values }, mask, maps) {
    const queries = splitHeads(this.query.forward(x), this.nHeads);
    const results = queries.map((query, h) =>
      attention(query, keys[h], values[h], mask, this.changes.scale),
    );
    const outputs = results.map(({ output }, h) =>
      this.changes.silenced.includes(`${this.place} ${h}`)
        ? new Matrix(output.rows, output.cols)
        : output,
    );
    maps?.push(results.map((result) => result.head));
    return this.output.forward(mergeHeads(outputs));
  }
}

/** max(0, x W₁ + b₁) W₂ + b₂ (equation 2). */
class FeedForward {
  /** @param {Tensors} tensors @param {string} name */
  constructor(tensors, name) {
    this.expand = Linear.named(tensors, `${name}.expand`);
    this.contract = Linear.named(tensors, `${name}.contract`);
  }

  /** @param {Matrix} x (T, D) */
  forward(x) {
    const inner = this.expand.forward(x);
    inner.data.forEach((value, i) => (inner.data[i] = Math.max(0, value)));
    return this.contract.forward(inner);
  }
}

/** A residual connection and a LayerNorm around a sub-layer (section 3.1). */
class Residual {
  /** @param {Tensors} tensors @param {string} name @param {boolean} normFirst
   * @param {Changes} changes */
  constructor(tensors, name, normFirst, changes) {
    this.norm = new LayerNorm(tensors, `${name}.norm`);
    this.normFirst = normFirst;
    this.changes = changes;
  }

  /** @param {Matrix} x @param {(y: Matrix) => Matrix} sublayer */
  forward(x, sublayer) {
    const add = this.changes.residual ? sum : (/** @type {Matrix} */ _, /** @type {Matrix} */ y) => y;
    if (this.normFirst) return add(x, sublayer(this.norm.forward(x)));
    return this.norm.forward(add(x, sublayer(x)));
  }
}

class EncoderLayer {
  /** @param {Tensors} tensors @param {ModelConfig} config @param {number} l @param {Changes} changes */
  constructor(tensors, config, l, changes) {
    const name = `encoder.layers.${l}`;
    const attend = (/** @type {string} */ kind, /** @type {string} */ place) =>
      new MultiHeadAttention(tensors, `${name}.${kind}`, config.n_heads, changes, `${place} ${l}`);
    this.selfAttention = attend("self_attention", "encoder");
    this.feedForward = new FeedForward(tensors, `${name}.feed_forward`);
    this.residuals = [0, 1].map(
      (i) => new Residual(tensors, `${name}.residuals.${i}`, config.norm_first, changes),
    );
  }

  /** @param {Matrix} x (S, D) @param {Matrix | null} mask (S, S) @param {Maps | null} maps */
  forward(x, mask, maps) {
    x = this.residuals[0].forward(x, (y) =>
      this.selfAttention.forward(y, this.selfAttention.project(y), mask, maps),
    );
    return this.residuals[1].forward(x, (y) => this.feedForward.forward(y));
  }
}

class DecoderLayer {
  /** @param {Tensors} tensors @param {ModelConfig} config @param {number} l @param {Changes} changes */
  constructor(tensors, config, l, changes) {
    const name = `decoder.layers.${l}`;
    const attend = (/** @type {string} */ kind, /** @type {string} */ place) =>
      new MultiHeadAttention(tensors, `${name}.${kind}`, config.n_heads, changes, `${place} ${l}`);
    this.selfAttention = attend("self_attention", "decoder");
    this.crossAttention = attend("cross_attention", "cross");
    this.feedForward = new FeedForward(tensors, `${name}.feed_forward`);
    this.residuals = [0, 1, 2].map(
      (i) => new Residual(tensors, `${name}.residuals.${i}`, config.norm_first, changes),
    );
  }

  /** One layer for new tokens; their keys and values are appended to `cache`. `memory` has keys
   * and values of the encoder's output.
   * @param {Matrix} x (T, D) @param {Matrix} mask @param {KeyValueCache} memory
   * @param {KeyValueCache} cache @param {Maps | null} maps self, then cross */
  forward(x, mask, memory, cache, maps) {
    x = this.residuals[0].forward(x, (y) => {
      const { keys, values } = this.selfAttention.project(y);
      return this.selfAttention.forward(y, cache.append(keys, values), mask, maps);
    });
    x = this.residuals[1].forward(x, (y) =>
      this.crossAttention.forward(y, memory.read(), null, maps),
    );
    return this.residuals[2].forward(x, (y) => this.feedForward.forward(y));
  }
}
