"""Files that are whole or absent, text read line by line, and corpora prepared for training.

Knows the paper's code (to read models and vocabularies), and nothing of the rooms above.
"""
