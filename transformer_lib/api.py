"""The public names of the library, which `import transformer_lib` imports on first use."""

from transformer_lib.attention import KeyValueCache, MultiHeadAttention, attention
from transformer_lib.batching import Batch, collate, epoch_batches, token_batches
from transformer_lib.config import ModelConfig
from transformer_lib.decoding import Hypothesis
from transformer_lib.embeddings import OutputProjection, TokenEmbedding
from transformer_lib.feed_forward import FeedForward, Residual, layer_norm
from transformer_lib.layers import Decoder, DecoderLayer, Encoder, EncoderLayer
from transformer_lib.masks import causal_mask, padding_mask, target_mask, teacher_forcing
from transformer_lib.model import AttentionMaps, Transformer
from transformer_lib.positional import (
    LearnedPositionalEncoding,
    SinusoidalPositionalEncoding,
    sinusoidal_table,
)
from transformer_lib.training import (
    Evaluation,
    StepResult,
    TrainConfig,
    average_weights,
    evaluate,
    inverse_sqrt_rate,
    label_smoothed_loss,
    make_optimizer,
    noam_rate,
    train_step,
)
from transformer_lib.translate.explorer import Explorer
from transformer_lib.translate.search import beam_search, greedy_decode
from transformer_lib.translate.translator import Translator
from transformer_lib.vocab import SubwordVocab, Vocab, WordVocab, normalize_text

__all__ = [
    "AttentionMaps",
    "Batch",
    "Decoder",
    "DecoderLayer",
    "Encoder",
    "EncoderLayer",
    "Evaluation",
    "Explorer",
    "FeedForward",
    "Hypothesis",
    "KeyValueCache",
    "LearnedPositionalEncoding",
    "ModelConfig",
    "MultiHeadAttention",
    "OutputProjection",
    "Residual",
    "SinusoidalPositionalEncoding",
    "StepResult",
    "SubwordVocab",
    "TokenEmbedding",
    "TrainConfig",
    "Transformer",
    "Translator",
    "Vocab",
    "WordVocab",
    "attention",
    "average_weights",
    "beam_search",
    "causal_mask",
    "collate",
    "epoch_batches",
    "evaluate",
    "greedy_decode",
    "inverse_sqrt_rate",
    "label_smoothed_loss",
    "layer_norm",
    "make_optimizer",
    "noam_rate",
    "normalize_text",
    "padding_mask",
    "sinusoidal_table",
    "target_mask",
    "teacher_forcing",
    "token_batches",
    "train_step",
]
