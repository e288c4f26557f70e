"""A tiny model of transformers beside ds4, stage by stage: an example of a numerics check."""

import pytest

import ds4

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.10")

SMALL = dict(vocab_size=96, hidden_size=48, num_hidden_layers=5, num_attention_heads=4, head_dim=24,
             qk_rope_head_dim=8, q_lora_rank=24, o_lora_rank=12, o_groups=2, sliding_window=8,
             index_n_heads=8, index_head_dim=16, index_topk=4, moe_intermediate_size=20,
             n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=1, hc_mult=2,
             max_position_embeddings=4096, num_nextn_predict_layers=0,
             layer_types=["sliding_attention", "compressed_sparse_attention",
                          "heavily_compressed_attention", "compressed_sparse_attention",
                          "sliding_attention"],
             mlp_layer_types=["hash_moe", "moe", "moe", "moe", "moe"])


def record(model, ids):
    """The stages of a pass of transformers, under ds4's names, by forward hooks."""
    stages = {}

    def keep(name):
        def hook(module, inputs, output):
            stages[name] = (output[0] if isinstance(output, tuple) else output).detach()
        return hook

    for i, layer in enumerate(model.model.layers):
        for module, stage in [(layer.input_layernorm, "attn.input"), (layer.self_attn, "attn.output"),
                              (layer.post_attention_layernorm, "mlp.input"),
                              (layer.mlp, "mlp.output"), (layer, "output")]:
            module.register_forward_hook(keep(f"layers.{i}.{stage}"))
        if (indexer := getattr(layer.self_attn.compressor, "indexer", None)) is not None:
            indexer.register_forward_hook(keep(f"layers.{i}.indexer.topk"))
    model.model.norm.register_forward_hook(keep("final_norm"))
    with torch.no_grad():
        stages["logits"] = model(torch.tensor([ids]), use_cache=False).logits
    return stages


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(1)
    config = transformers.DeepseekV4Config(**SMALL)
    model = transformers.DeepseekV4ForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ds4.add(config, name="transformers_small")
    return model, config


IDS = list(range(2, 90)) + list(range(5, 77))  # two entries of HCA


def test_every_stage_agrees(pair):
    model, config = pair
    m = ds4.load(config=config, tensors=model.state_dict())
    comparison = ds4.compare(m, IDS, record(model, IDS))
    print(comparison)
    assert comparison, comparison
    assert len(comparison.stages) == 5 * 5 + 2 + 2


def test_a_wrong_constant_is_found_and_named(pair):
    model, config = pair
    wrong = config.to_dict()
    wrong["rope_theta"] = wrong["rope_parameters"]["main"]["rope_theta"] = 20000.0
    ds4.add(wrong, name="transformers_wrong")
    m = ds4.load(config=wrong, tensors=model.state_dict())
    comparison = ds4.compare(m, IDS, record(model, IDS))
    assert not comparison
    print(comparison)
    assert comparison.first.name == "layer 0 attn.output"
