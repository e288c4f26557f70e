"""The names of a transformers model in memory as those of the release's files."""

import re

_RENAMES = [
    (r"^model\.", ""),
    (r"^lm_head\.", "head."),
    (r"^embed_tokens\.", "embed."),
    (r"^hc_head\.hc_", "hc_head_"),
    (r"\.self_attn\.sinks$", ".attn.attn_sink"),
    (r"\.self_attn\.compressor\.indexer\.scorer\.", ".attn.indexer."),
    (r"\.self_attn\.compressor\.indexer\.q_b_proj\.", ".attn.indexer.wq_b."),
    (r"\.self_attn\.compressor\.indexer\.", ".attn.indexer.compressor."),
    (r"\.self_attn\.", ".attn."),
    (r"\.mlp\.", ".ffn."),
    (r"\.(attn|ffn)_hc\.", r".hc_\1_"),
    (r"\.input_layernorm\.", ".attn_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.e_score_correction_bias$", ".bias"),
    (r"\.position_bias$", ".ape"),
    (r"(compressor)\.kv_norm\.", r"\1.norm."),
    (r"(compressor)\.kv_proj\.", r"\1.wkv."),
    (r"(compressor)\.gate_proj\.", r"\1.wgate."),
    (r"\.attn\.(q|o)_(a|b)_proj\.", r".attn.w\1_\2."),
    (r"\.attn\.kv_proj\.", ".attn.wkv."),
    (r"\.attn\.q_a_norm\.", ".attn.q_norm."),
    (r"shared_experts\.gate_proj\.", "shared_experts.w1."),
    (r"shared_experts\.down_proj\.", "shared_experts.w2."),
    (r"shared_experts\.up_proj\.", "shared_experts.w3."),
]


def to_release(tensors):
    """{name: array} under the release's names, where they are those of transformers' modules; the
    experts' stacked matrices become one each."""
    if not any(".self_attn." in name for name in tensors):
        return tensors
    renamed = {}
    for name, value in tensors.items():
        for pattern, new in _RENAMES:
            name = re.sub(pattern, new, name)
        if name.endswith(".experts.gate_up_proj"):
            base = name[: -len("gate_up_proj")]
            for i, both in enumerate(value):
                half = both.shape[0] // 2
                renamed[f"{base}{i}.w1.weight"] = both[:half]
                renamed[f"{base}{i}.w3.weight"] = both[half:]
        elif name.endswith(".experts.down_proj"):
            for i, one in enumerate(value):
                renamed[f"{name[:-len('down_proj')]}{i}.w2.weight"] = one
        else:
            renamed[name] = value
    return renamed
