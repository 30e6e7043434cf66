"use strict";
// The whole model of Figure 1, and its two searches. `core.js` has the layers.

/** @typedef {{own: KeyValueCache, memory: KeyValueCache}[]} DecoderCache one entry per decoder layer */
/** @typedef {{prefix: number[], id: number, logProb: number, kept: boolean, parent: number}} Branch
 *   a continuation of prefix number `parent` that a beam looked at */
/** @typedef {{input: number, id: number, logProbs: Float32Array, maps: Maps}} GreedyStep */
/** @typedef {{step: number, branches: Branch[], finished: Hypothesis[]}} BeamStep */

/** Rows 0 … n - 1 of the sinusoids: sin and cos of t / 10000^(2m/D) (section 3.5).
 * @param {number} n @param {number} dModel */
function sinusoidalTable(n, dModel) {
  const table = new Matrix(n, dModel);
  for (let t = 0; t < n; t++) {
    for (let even = 0; even < dModel; even += 2) {
      const angle = t * Math.exp(even * (-Math.log(10000) / dModel));
      table.row(t).set([Math.sin(angle), Math.cos(angle)], even);
    }
  }
  return table;
}

class Transformer {
  /** @param {ModelConfig} config @param {Tensors} tensors */
  constructor(config, tensors) {
    this.config = config;
    this.changes = { ...INTACT };
    const layers = Array.from({ length: config.n_layers }, (_, l) => l);
    this.encoder = layers.map((l) => new EncoderLayer(tensors, config, l, this.changes));
    this.decoder = layers.map((l) => new DecoderLayer(tensors, config, l, this.changes));
    const norm = (/** @type {string} */ name) =>
      config.norm_first ? new LayerNorm(tensors, name) : null;
    this.encoderNorm = norm("encoder.norm");
    this.decoderNorm = norm("decoder.norm");
    // Shared weights are stored once: with one vocabulary, all three are one matrix.
    this.tgtEmbedding = tensors["tgt_embedding.weight"];
    this.srcEmbedding = tensors["src_embedding.weight"] ?? this.tgtEmbedding;
    this.outputProjection = new Linear(
      tensors["output_projection.weight"] ?? this.tgtEmbedding,
    );
    this.learnedPositions = tensors["positions.table"];
    this.sinusoids = sinusoidalTable(0, config.d_model);
  }

  /** The positional encodings of all positions below `end`. @param {number} end */
  positions(end) {
    if (this.learnedPositions) return this.learnedPositions;
    if (this.config.positions === "none") return new Matrix(end, this.config.d_model);
    if (end > this.sinusoids.rows) {
      this.sinusoids = sinusoidalTable(Math.max(64, 2 * end), this.config.d_model);
    }
    return this.sinusoids;
  }

  /** Embedding times √D, plus position. @param {number[]} ids @param {Matrix} embedding
   * @param {number} [offset] position of the first id @returns {Matrix} (T, D) */
  embed(ids, embedding, offset = 0) {
    const positions = this.positions(offset + ids.length);
    const scale = this.changes.embeddingScale ? Math.fround(Math.sqrt(embedding.cols)) : 1;
    const x = new Matrix(ids.length, embedding.cols);
    ids.forEach((id, t) => {
      const [word, position, row] = [embedding.row(id), positions.row(offset + t), x.row(t)];
      for (let i = 0; i < row.length; i++) {
        row[i] = Math.fround(word[i] * scale) + (this.changes.positions ? position[i] : 0);
      }
    });
    return x;
  }

  /** Source ids to the memory, one row per token. @param {number[]} src
   * @param {Maps | null} [maps] @returns {Matrix} (S, D) */
  encode(src, maps = null) {
    let x = this.embed(src, this.srcEmbedding);
    const mask = this.changes.encoderOrder ? null : causalMask(src.length, src.length);
    for (const layer of this.encoder) x = layer.forward(x, mask, maps);
    return this.encoderNorm ? this.encoderNorm.forward(x) : x;
  }

  /** Empty caches for maxLen tokens, and the memory's keys and values.
   * @param {Matrix} memory @param {number} maxLen @returns {DecoderCache} */
  startCache(memory, maxLen) {
    const { n_heads, d_model } = this.config;
    return this.decoder.map((layer) => {
      const { keys, values } = layer.crossAttention.project(memory);
      return {
        own: KeyValueCache.empty(n_heads, maxLen, d_model / n_heads),
        memory: new KeyValueCache(keys, values, memory.rows),
      };
    });
  }

  /** New target ids to hidden vectors; the cache grows by them.
   * @param {number[]} tgt @param {DecoderCache} cache @param {Maps | null} [maps] @returns {Matrix} (T, D) */
  decode(tgt, cache, maps = null) {
    const before = cache[0].own.length;
    const nKeys = before + tgt.length;
    let x = this.embed(tgt, this.tgtEmbedding, this.changes.cachePosition ? before : 0);
    const mask = causalMask(tgt.length, nKeys);
    if (!this.changes.cacheKeys && before) {
      for (let i = 0; i < tgt.length; i++) mask.row(i).fill(0, i + 1); // aligned at the start
    }
    this.decoder.forEach((layer, l) => {
      x = layer.forward(x, mask, cache[l].memory, cache[l].own, maps);
    });
    return this.decoderNorm ? this.decoderNorm.forward(x) : x;
  }

  /** Log-probabilities of what follows one more token. @param {number} id @param {DecoderCache} cache
   * @param {Maps | null} [maps] */
  step(id, cache, maps = null) {
    return logSoftmax(this.outputProjection.forward(this.decode([id], cache, maps)).data);
  }

  /** All attention of one forward pass, as in the library. @param {number[]} src
   * @param {number[]} tgt @returns {{encoder: Maps, decoder: Maps, cross: Maps}} by layer, head */
  attentionMaps(src, tgt) {
    /** @type {[Maps, Maps]} */
    const [encoder, both] = [[], []];
    this.decode(tgt, this.startCache(this.encode(src, encoder), tgt.length), both);
    const every = (/** @type {number} */ odd) => both.filter((_, i) => i % 2 === odd);
    return { encoder, decoder: every(0), cross: every(1) };
  }
}

/** ((5 + length) / 6)^alpha; the length counts <eos>. @param {number} length @param {number} alpha */
function lengthPenalty(length, alpha) {
  return ((5 + length) / 6) ** alpha;
}

/** Most tokens of a translation, <eos> included. @param {Transformer} model @param {number[]} src
 * @param {number} extra */
function lengthLimit(model, src, extra) {
  return Math.min(Math.max(1, src.length + extra), model.config.max_len);
}

/** Indices of the k highest scores; ties go to the lower index. @param {Float32Array} scores
 * @param {number} k */
function firstTopK(scores, k) {
  /** @type {number[]} */
  const best = [];
  for (let i = 0; i < scores.length; i++) {
    if (best.length === k && scores[i] <= scores[best[k - 1]]) continue;
    let place = best.length;
    while (place > 0 && scores[best[place - 1]] < scores[i]) place--;
    best.splice(place, 0, i);
    best.length = Math.min(best.length, k);
  }
  return best;
}

/** The source without <eos>, if that is broken. @param {Transformer} model @param {number[]} src */
function sourceOf(model, src) {
  return model.changes.eos || src.length < 2 ? src : src.slice(0, -1);
}

/** Greedy decoding, one token after the other (section 3.1): yields each step, so that a page can
 * draw it, with the heads of every attention: self, cross, self, cross, …
 * @param {Transformer} model @param {number[]} src ids, <eos> at the end
 * @param {{extra?: number, forced?: number[], encoderMaps?: Maps}} [options] `forced`: the first
 * tokens of the translation; `encoderMaps` receives the encoder's attention
 * @returns {Generator<GreedyStep, Hypothesis>} */
function* greedySteps(model, src, { extra = 50, forced = [], encoderMaps } = {}) {
  const limit = lengthLimit(model, src, extra);
  const cache = model.startCache(model.encode(sourceOf(model, src), encoderMaps), limit);
  let [id, logProb] = [model.changes.bos ? BOS_ID : PAD_ID, 0];
  /** @type {number[]} */
  const ids = [];
  while (id !== EOS_ID && ids.length < limit) {
    /** @type {Maps} */
    const maps = [];
    const input = id;
    const logProbs = model.step(input, cache, maps);
    id = forced[ids.length] ?? firstTopK(logProbs, 1)[0];
    logProb += logProbs[id];
    ids.push(id);
    yield { input, id, logProbs, maps };
  }
  const finished = id === EOS_ID;
  return { ids: finished ? ids.slice(0, -1) : ids, logProb, score: logProb, finished };
}

/** @param {Transformer} model @param {number[]} src @param {{extra?: number}} [options] */
function greedyDecode(model, src, options) {
  return runToEnd(greedySteps(model, src, options));
}

/** The value that a generator returns. @template R @param {Generator<unknown, R>} steps @returns {R} */
function runToEnd(steps) {
  for (;;) {
    const { value, done } = steps.next();
    if (done) return /** @type {R} */ (value);
  }
}

/** Beam search (section 6.1): yields every step with all continuations that it looked at.
 * @param {Transformer} model @param {number[]} src
 * @param {{beamSize?: number, alpha?: number, nBest?: number, extra?: number,
 *   textOf?: ((ids: number[]) => string) | null}} [options] as in the library
 * @returns {Generator<BeamStep, Hypothesis[]>} */
function* beamSteps(model, src, options = {}) {
  const { beamSize = 4, alpha = 0.6, nBest = 1, extra = 50, textOf = null } = options;
  const limit = lengthLimit(model, src, extra);
  const vocabSize = model.config.tgt_vocab_size;
  const start = model.changes.bos ? BOS_ID : PAD_ID;
  let beams = [
    {
      ids: /** @type {number[]} */ ([]),
      total: 0,
      cache: model.startCache(model.encode(sourceOf(model, src)), limit),
    },
  ];
  /** @type {Hypothesis[]} */
  const found = [];
  let best = Infinity; // while the search continues for more texts only, the best stays the best
  for (let length = 1; length <= limit; length++) {
    /** @type {(Branch & {index: number})[]} */
    const continuing = [];
    /** @type {typeof continuing} */
    const endings = [];
    beams.forEach(({ ids, total, cache }, parent) => {
      const logProbs = model.step(ids.at(-1) ?? start, cache);
      const branch = (/** @type {number} */ id) => ({
        ...{ prefix: ids, id, parent, kept: false, index: parent * vocabSize + id },
        logProb: Math.fround(total + logProbs[id]),
      });
      endings.push(branch(EOS_ID));
      logProbs[EOS_ID] = -Infinity;
      continuing.push(...firstTopK(logProbs, beamSize).map(branch));
    });
    const ahead = (/** @type {Branch & {index: number}} */ a, /** @type {typeof a} */ b) =>
      b.logProb - a.logProb || a.index - b.index;
    continuing.sort(ahead);
    const kept = continuing.slice(0, beamSize);
    kept.forEach((branch) => (branch.kept = true));
    const rivals = [...kept, ...endings];
    const ends = endings.filter(
      (one) => rivals.filter((other) => ahead(other, one) < 0).length < beamSize,
    );
    const finished = ends
      .map(({ prefix, logProb }) => {
        const score = logProb / lengthPenalty(length, alpha);
        return { ids: prefix, logProb, score, finished: true };
      })
      .filter((hypothesis) => hypothesis.score <= best);
    ends.forEach((branch) => (branch.kept = true));
    found.push(...finished);
    yield { step: length, branches: [...continuing, ...endings], finished };
    beams = nextBeams(model, beams, kept);
    if (length < limit && found.length >= beamSize) {
      if (different(found, textOf).length >= nBest) break;
      best = Math.max(...found.map((hypothesis) => hypothesis.score));
    } else if (length === limit) {
      found.push(
        ...beams.map(({ ids, total: logProb }) => {
          return { ids, logProb, score: logProb / lengthPenalty(length, alpha), finished: false };
        }),
      );
    }
  }
  found.sort((a, b) => Number(b.finished) - Number(a.finished) || b.score - a.score);
  return different(found, textOf).slice(0, nBest);
}

/** The open prefixes after a step; each takes the cache of the prefix that it continues.
 * @param {Transformer} model @param {{ids: number[], total: number, cache: DecoderCache}[]} beams
 * @param {Branch[]} kept */
function nextBeams(model, beams, kept) {
  const taken = new Set();
  return kept.map(({ prefix, id, logProb: total, parent }, place) => {
    const row = model.changes.reorder ? parent : Math.min(place, beams.length - 1);
    let { cache } = beams[row];
    if (taken.has(row)) cache = cache.map(({ own, memory }) => ({ own: own.copy(), memory }));
    taken.add(row);
    return { ids: [...prefix, id], total, cache };
  });
}

/** The first hypothesis of every text; all of them without textOf. @param {Hypothesis[]} hypotheses
 * @param {((ids: number[]) => string) | null} textOf */
function different(hypotheses, textOf) {
  if (!textOf) return hypotheses;
  const texts = hypotheses.map(({ ids }) => textOf(ids));
  return hypotheses.filter((_, i) => texts.indexOf(texts[i]) === i);
}

/** @param {Transformer} model @param {number[]} src
 * @param {Parameters<typeof beamSteps>[2]} [options] @returns {Hypothesis[]} best first */
function beamSearch(model, src, options) {
  return runToEnd(beamSteps(model, src, options));
}
