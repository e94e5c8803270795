"""The encoder of jina-embeddings-v3 (Sturua et al., 2024): GTE's with an ordinary FFN."""

from dataclasses import replace

from dynackd.families.family import NEURON, SlicedLinear
from dynackd.families.gte import GTE

JINA_EMBEDDINGS_V3 = replace(
    GTE, linears=(*GTE.linears[:4], SlicedLinear("mlp.fc1", NEURON, 0), SlicedLinear("mlp.fc2", NEURON, 1))
)
