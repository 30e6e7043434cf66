"use strict";
// The bug museum: one line of the model broken at a time. And 100 captions to count on.

/** @typedef {{id: string, name: string, changes: Partial<Changes>, what: string, section: string,
 *   symbol: string, probe: string | null}} Bug
 *   probe: the check in `transformer_lib.probes` that finds this bug, if one does */

/** @type {Bug[]} */
const MUSEUM = [
  {
    id: "scale",
    name: "no division by √dₖ",
    changes: { scale: false },
    what: "The scores are √dₖ times too large, so softmax gives nearly all the weight to one key.",
    section: "3.2.1",
    symbol: "attention-attention",
    probe: null,
  },
  {
    id: "positions",
    name: "no positional encoding",
    changes: { positions: false },
    what: "Embeddings enter alone. The encoder can no longer tell the order of the words.",
    section: "3.5",
    symbol: "positional-sinusoidalpositionalencoding",
    probe: "encoder_is_permutation_equivariant_without_positions",
  },
  {
    id: "cache-position",
    name: "every new token at position 0",
    changes: { cachePosition: false },
    what: "A decoder with a cache gets one token per step. It must add that step's position, but here always adds position 0.",
    section: "3.5",
    symbol: "model-transformer",
    probe: "cached_equals_uncached",
  },
  {
    id: "cache-keys",
    name: "new queries see the first key only",
    changes: { cacheKeys: false },
    what: "The causal mask is aligned at the start: with one new query and many cached keys, only the first key is visible.",
    section: "3.2.3",
    symbol: "masks-causal-mask",
    probe: "cached_equals_uncached",
  },
  {
    id: "eos",
    name: "source without <eos>",
    changes: { eos: false },
    what: "In training, every source ended in <eos>. Without it, the model misses the token it learned to look at.",
    section: "3.1",
    symbol: "decoding-greedy-sentence",
    probe: null,
  },
  {
    id: "bos",
    name: "start with <pad> instead of <bos>",
    changes: { bos: false },
    what: "Decoding starts from a token that never started a sentence in training.",
    section: "3.1",
    symbol: "decoding-greedy-sentence",
    probe: null,
  },
  {
    id: "embedding-scale",
    name: "embeddings not times √d_model",
    changes: { embeddingScale: false },
    what: "The embeddings are √d_model times too short, so the positional encodings drown them.",
    section: "3.4",
    symbol: "embeddings-tokenembedding",
    probe: null,
  },
  {
    id: "encoder-mask",
    name: "causal mask in the encoder",
    changes: { encoderOrder: false },
    what: "Source tokens see only those before them. Only the decoder should be masked like this.",
    section: "3.2.3",
    symbol: "masks-causal-mask",
    probe: "encoder_is_permutation_equivariant_without_positions",
  },
  {
    id: "residual",
    name: "no residual connections",
    changes: { residual: false },
    what: "Each sub-layer's output replaces its input instead of being added to it.",
    section: "3.1",
    symbol: "feed-forward-residual",
    probe: null,
  },
];

const PEOPLE = {
  de: ["Ein Mann", "Eine Frau", "Ein kleiner Junge", "Ein junges Mädchen", "Ein alter Mann", "Eine Frau in einem roten Kleid", "Ein Mann mit einem blauen Hemd", "Ein Junge mit einer Mütze", "Ein Mädchen mit braunen Haaren", "Ein Mann mit Bart"],
  en: ["A man", "A woman", "A little boy", "A young girl", "An old man", "A woman in a red dress", "A man in a blue shirt", "A boy with a cap", "A girl with brown hair", "A man with a beard"],
};
const ACTIONS = {
  de: ["läuft durch den Schnee.", "spielt Gitarre auf der Straße.", "sitzt auf einer Bank im Park.", "fährt mit dem Fahrrad durch die Stadt.", "liest ein Buch am Strand.", "springt in ein Schwimmbecken.", "steht vor einem gelben Haus.", "kocht in einer kleinen Küche.", "spielt mit einem Hund im Garten.", "wartet auf den Bus."],
  en: ["is running through the snow.", "is playing guitar on the street.", "is sitting on a bench in the park.", "is riding a bicycle through the city.", "is reading a book at the beach.", "is jumping into a swimming pool.", "is standing in front of a yellow house.", "is cooking in a small kitchen.", "is playing with a dog in the garden.", "is waiting for the bus."],
};
const EXAMPLES = {
  de: ["Ein Hund läuft durch den tiefen Schnee.", "Zwei Kinder spielen im Garten mit einem Ball.", "Eine Frau mit rotem Hut liest auf einer Parkbank ein Buch.", "Mehrere Menschen warten im Regen auf einen Bus.", "Ein alter Mann verkauft auf einem Markt Obst.", "Ein Mann läuft durch den Schnee und eine Frau fährt mit dem Fahrrad durch die Stadt.", "Der Zug nach Berlin hat zwanzig Minuten Verspätung."],
  en: ["A dog runs through the deep snow.", "Two children are playing with a ball in the garden.", "A woman with a red hat is reading a book on a park bench.", "Several people are waiting for a bus in the rain.", "An old man is selling fruit at a market.", "A man is running through the snow and a woman is riding a bicycle through the city.", "The train to Berlin is twenty minutes late."],
};

/** A hundred captions of two actions each, for short ones hide many bugs; none for a language that
 * the page does not know. @param {string | null} language */
function captions(language) {
  if (language !== "de" && language !== "en") return [];
  const [actions, and] = [ACTIONS[language], { de: "und", en: "and" }[language]];
  return PEOPLE[language].flatMap((who) =>
    actions.map((first, i) => `${who} ${first.slice(0, -1)} ${and} ${actions[(i + 3) % 10]}`),
  );
}
