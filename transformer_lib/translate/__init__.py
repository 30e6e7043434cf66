"""Text in, text out: translators, fast decoding, scores, and models for other engines.

Builds on `data` and the paper's code.
"""
