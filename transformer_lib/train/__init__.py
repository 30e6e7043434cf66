"""Training for real: the loop that is resumed bit for bit, in one process or in many.

Builds on `translate`, `data` and the paper's code.
"""
