"""ELECTRA's discriminator (Clark et al., 2020): BERT's layers; small ones project their embeddings to the hidden
size."""

from dataclasses import replace

from dynackd.families.bert import BERT

ELECTRA = replace(BERT, embeddings=("embeddings", "embeddings_project"))
