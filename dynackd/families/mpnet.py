"""MPNet (Song et al., 2020): BERT's layers under other names, and a bias of relative positions that all of them share.

Positions are counted from the padding, which is token 1 whatever the config says.
"""

from dynackd.families.family import HEAD, NEURON, Family, SharedBias, SlicedLinear, columns, rows

MPNET = Family(
    layers="encoder.layer",
    linears=(
        SlicedLinear("attention.attn.q", HEAD, 0),
        SlicedLinear("attention.attn.k", HEAD, 0),
        SlicedLinear("attention.attn.v", HEAD, 0),
        SlicedLinear("attention.attn.o", HEAD, 1),
        SlicedLinear("intermediate.dense", NEURON, 0),
        SlicedLinear("output.dense", NEURON, 1),
    ),
    query="attention.attn.q",
    attention_output="attention.attn.o",
    head_count=("attention.attn.num_attention_heads",),
    head_width=("attention.attn.all_head_size",),
    norms=("attention.LayerNorm", "output.LayerNorm"),
    hidden=(
        *columns("embeddings.word_embeddings", "embeddings.position_embeddings"),
        *rows("embeddings.LayerNorm"),
    ),
    shared=(SharedBias("encoder.relative_attention_bias", "attention", "position_bias"),),
    reserved_positions=2,
)
