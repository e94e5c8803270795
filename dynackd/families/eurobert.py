"""EuroBERT (Boizard et al., 2025): Llama's layers without its look ahead. Several query heads may share a key and a
value; such a group is what counts as a head here, so that a sub-network keeps all of it or nothing."""

from dynackd.families.family import HEAD, NEURON, Family, SlicedLinear, columns, rows

EUROBERT = Family(
    layers="layers",
    linears=(
        SlicedLinear("self_attn.q_proj", HEAD, 0),
        SlicedLinear("self_attn.k_proj", HEAD, 0),
        SlicedLinear("self_attn.v_proj", HEAD, 0),
        SlicedLinear("self_attn.o_proj", HEAD, 1),
        SlicedLinear("mlp.gate_proj", NEURON, 0),
        SlicedLinear("mlp.up_proj", NEURON, 0),
        SlicedLinear("mlp.down_proj", NEURON, 1),
    ),
    query="self_attn.q_proj",
    attention_output="self_attn.o_proj",
    norms=("input_layernorm", "post_attention_layernorm"),
    hidden=(*columns("embed_tokens"), *rows("norm")),
    embeddings=("embed_tokens",),
    embedding_inputs=(("input", "input_ids"),),
    heads_key="num_key_value_heads",
    query_heads_key="num_attention_heads",
    head_size_key="head_dim",
    rotary=True,
    ported=True,
)
