"""What families call their heads, tables, connectors, attention, MLPs and experts. Pure.

A name that one family alone has stands in that family's `Parts`.
"""

HEADS = ("lm_head", "head", "output", "ff_out")
"""Last parts of the names of output heads, which stand outside the layer stack."""

EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embedding", "embed_in")
"""Last parts of the names of token embeddings."""

CONNECTORS = frozenset(
    {
        "aligner",
        "connector",
        "deepstack_merger_list",
        "embed_vision",
        "image_pooling_2d",
        "image_proj",
        "image_projection",
        "image_projector",
        "img_projection",
        "img_projector",
        "layerwise_projectors",
        "merger",
        "mlp1",
        "mm_projector",
        "modality_projection",
        "multi_modal_projector",
        "patch_merger",
        "perceive",
        "perceiver_resampler",
        "proj_mlp",
        "projector",
        "resampler",
        "resampler_model",
        "spatial_projectors",
        "vision_adapter",
        "vision_projection",
        "vit_merger",
        "vl_connector",
    }
)
"""Parts of the names of what stands between a tower and the language model, within the tower's module or beside it."""

OTHERS = ("audio", "speech", "sound", "talker", "code2wav", "segm")
"""In the names of what neither sees nor writes."""

ATTENTION = ("attn", "attention")
"""In the names of modules of attention."""

ATTENTION_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "att_proj")
"""Last parts of the names of attention's layers, whatever the module around them is called."""

ATTENDS_ELSEWHERE = ("cross", "encoder_attn")
"""Parts of the names of modules whose keys and values come from another input than their queries."""

SHARE_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("wq", "wk", "wv"), ("w1", "w3"))
"""Names of layers that one module calls with the same input."""

GATED = ("down_proj", "gate_proj", "up_proj")
"""The layers of an MLP with a gate, sorted."""

PROJECTED = ("q_proj", "k_proj", "v_proj", "o_proj")
"""The layers of attention: to queries, keys and values, and of its result."""

MLP_NAMES = frozenset({"mlp", "feed_forward", "ffn", "shared_mlp", "block_sparse_moe", "experts"})
"""Names that layers give their MLPs."""

MLP_CLASSES = ("mlp", "moe", "feedforward")
"""What the names of their classes end with, where a layer calls whatever it has by one name."""

ROUTERS = ("gate", "gate_1", "router", "shared_expert_gate")
"""Parts of the names of layers that choose experts. An adapter there moves tokens between experts;
gate projections of MLPs have other names (gate_proj)."""

BALANCING = (
    "e_score_correction_bias",
    "e_score_correction_bias_1",
    "expert_bias",
    "router_bias",
    "balancing_biases",
    "bias_vl",
)
"""Names of what is added to routers' scores only where experts are chosen, and was set to keep them equally busy."""
