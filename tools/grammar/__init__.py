"""The generator of data/grammar: German to English sentence pairs with gold word alignments.

`lexicon` has the words, `sampling` and `kinds` choose what is said, `syntax` holds its structure,
`german` and `english` put it into words, `corpus` splits the pairs and writes the files.
"""
