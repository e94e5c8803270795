"""DeBERTa-v2 (He et al., 2021) and -v3, which is one by its config: BERT's layers, whose attention also compares words
with relative positions.

The embeddings of these positions are as wide as the hidden states; what projects them is sliced like the words' query
and key, and is these (`share_att_key`) or has its own weights. The convolution of some models stands behind the first
layer that a network has, whichever of the full network's that is.
"""

from dynackd.families.family import HEAD, NEURON, Family, Sized, SlicedLinear, columns, rows

DEBERTA_V2 = Family(
    layers="encoder.layer",
    linears=(
        SlicedLinear("attention.self.query_proj", HEAD, 0),
        SlicedLinear("attention.self.key_proj", HEAD, 0),
        SlicedLinear("attention.self.value_proj", HEAD, 0),
        SlicedLinear("attention.self.pos_query_proj", HEAD, 0, optional=True),
        SlicedLinear("attention.self.pos_key_proj", HEAD, 0, optional=True),
        SlicedLinear("attention.output.dense", HEAD, 1),
        SlicedLinear("intermediate.dense", NEURON, 0),
        SlicedLinear("output.dense", NEURON, 1),
    ),
    query="attention.self.query_proj",
    position_query="attention.self.pos_query_proj",
    attention_output="attention.output.dense",
    head_count=("attention.self.num_attention_heads",),
    head_width=("attention.self.all_head_size",),
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    hidden=(
        *columns("embeddings.word_embeddings", "embeddings.position_embeddings", "embeddings.token_type_embeddings"),
        *rows("embeddings.embed_proj", "embeddings.LayerNorm", "encoder.LayerNorm", "encoder.conv.LayerNorm"),
        *columns("encoder.rel_embeddings"),
        Sized("encoder.conv.conv", (0, 1)),
    ),
    hidden_whole_if=(("conv_groups", "the groups of its convolution hold certain hidden dimensions each"),),
    embedding_inputs=(("mask", "attention_mask"),),
    first_layer_only=("encoder.conv",),
    head_size_copies=("attention_head_size",),
    hidden_copies=("embedding_size", "pooler_hidden_size"),
)
