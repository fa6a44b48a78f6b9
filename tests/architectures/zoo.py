"""Tiny random models of every architecture, built from configs: no download, milliseconds each.

``TINY[name]()`` gives a fresh float32 model in eval mode, the same weights every time. Weights are drawn far
larger than a usual initialisation, and norms and biases are jittered, so that each component moves the logits
visibly. Grouped-query attention wherever the architecture has it; windows shorter than the test prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma3ForConditionalGeneration, PretrainedConfig, PreTrainedModel

from cca.pivots.pivot import Pivot

VOCABULARY = 64
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    **TOKENS,
}
MHA = {**BASE, "intermediate_size": 48}
GQA = {**MHA, "num_key_value_heads": 2}
WIDE = {**GQA, "head_dim": 12}  # head_dim * heads != hidden_size, as in Qwen3 and Gemma
MOE = {**GQA, "num_local_experts": 4, "num_experts_per_tok": 2}
SMALL_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
OLD = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, **TOKENS}
HYBRID = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
GEMMA3 = {**WIDE, **HYBRID, "query_pre_attn_scalar": 12}
ROUTED = {
    **MHA,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
RANKS = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 10}
LATENT = {**ROUTED, **RANKS}
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
DELTA = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 0}

# name -> (config class, its settings)
CONFIGS: dict[str, tuple[str, dict]] = {
    "llama": ("LlamaConfig", GQA),
    "llama-biased": ("LlamaConfig", {**GQA, "attention_bias": True, "mlp_bias": True}),
    "llama-tied": ("LlamaConfig", {**GQA, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {**GQA, "sliding_window": 8}),
    "qwen2": ("Qwen2Config", GQA),
    "qwen3": ("Qwen3Config", WIDE),
    "gemma": ("GemmaConfig", {**WIDE, "num_key_value_heads": 1}),
    "gemma2": ("Gemma2Config", {**GEMMA3, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0}),
    "gemma3": ("Gemma3TextConfig", GEMMA3),
    "olmo": ("OlmoConfig", GQA),
    "olmo2": ("Olmo2Config", GQA),
    "olmo3": ("Olmo3Config", {**GQA, **HYBRID}),
    "phi": ("PhiConfig", MHA),
    "phi3": ("Phi3Config", GQA),
    "gpt-neox": ("GPTNeoXConfig", MHA),
    "gpt2": ("GPT2Config", OLD),
    "gpt-bigcode": ("GPTBigCodeConfig", OLD),
    "gpt-bigcode-mha": ("GPTBigCodeConfig", {**OLD, "multi_query": False}),
    "gpt-neo": (
        "GPTNeoConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
            "max_position_embeddings": 128,
            **TOKENS,
        },
    ),
    "gptj": ("GPTJConfig", {**OLD, "rotary_dim": 4}),
    "codegen": ("CodeGenConfig", {**OLD, "rotary_dim": 4}),
    "falcon": ("FalconConfig", {**BASE, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-mqa": ("FalconConfig", {**BASE, "new_decoder_architecture": False, "multi_query": True}),
    "falcon-mha": ("FalconConfig", {**BASE, "multi_query": False, "bias": True, "alibi": True}),
    "bloom": ("BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, **TOKENS}),
    "mpt": ("MptConfig", {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, **TOKENS}),
    "opt": ("OPTConfig", {**BASE, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "xglm": (
        "XGLMConfig",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "ffn_dim": 48,
            "num_layers": 2,
            "attention_heads": 4,
            "max_position_embeddings": 128,
            **TOKENS,
        },
    ),
    "biogpt": ("BioGptConfig", MHA),
    "starcoder2": ("Starcoder2Config", GQA),
    "stablelm": ("StableLmConfig", {**GQA, "qk_layernorm": True}),
    "persimmon": ("PersimmonConfig", MHA),
    "cohere": ("CohereConfig", {**GQA, "use_qk_norm": True, "logit_scale": 1.0}),
    "cohere2": ("Cohere2Config", {**GQA, **HYBRID, "logit_scale": 1.0}),
    "glm": ("GlmConfig", {**GQA, "head_dim": 8}),
    "glm4": ("Glm4Config", {**GQA, "head_dim": 8}),
    "granite": ("GraniteConfig", GQA),
    "smollm3": ("SmolLM3Config", {**GQA, "no_rope_layers": [1, 0]}),
    "nemotron": ("NemotronConfig", {**GQA, "head_dim": 8}),
    "helium": ("HeliumConfig", {**GQA, "head_dim": 8}),
    "arcee": ("ArceeConfig", GQA),
    "apertus": ("ApertusConfig", GQA),
    "exaone4": ("Exaone4Config", {**GQA, **HYBRID}),
    "ernie4_5": ("Ernie4_5Config", {**GQA, "head_dim": 8}),
    "hunyuan": ("HunYuanDenseV1Config", {**GQA, "head_dim": 8}),
    "seed-oss": ("SeedOssConfig", WIDE),
    "mixtral": ("MixtralConfig", MOE),
    "phimoe": ("PhimoeConfig", MOE),
    "granitemoe": ("GraniteMoeConfig", MOE),
    "olmoe": ("OlmoeConfig", {**GQA, "num_experts": 4, "num_experts_per_tok": 2}),
    "qwen2-moe": ("Qwen2MoeConfig", {**GQA, **SMALL_EXPERTS, "shared_expert_intermediate_size": 24}),
    "qwen3-moe": ("Qwen3MoeConfig", {**WIDE, **SMALL_EXPERTS, "mlp_only_layers": [0]}),
    "gpt-oss": ("GptOssConfig", {**MOE, **HYBRID, "head_dim": 8}),
}

# Less common, hybrid or remarkable ones; the anatomy is tested on these too.
RARE_CONFIGS: dict[str, tuple[str, dict]] = {
    "gpt-neox-japanese": ("GPTNeoXJapaneseConfig", BASE),
    "modernbert-decoder": ("ModernBertDecoderConfig", {**MHA, **HYBRID}),
    "nanochat": ("NanoChatConfig", GQA),
    "gemma4": ("Gemma4TextConfig", {**WIDE, **HYBRID, **PER_LAYER}),
    "deepseek-v2": ("DeepseekV2Config", {**LATENT, "q_lora_rank": None, "topk_method": "greedy"}),
    "deepseek-v3": ("DeepseekV3Config", LATENT),
    "glm4-moe": ("Glm4MoeConfig", {**ROUTED, "head_dim": 8, "num_key_value_heads": 2}),
    "hunyuan-moe": ("HunYuanMoEV1Config", {**GQA, "head_dim": 8, "num_experts": 4, "moe_topk": 2}),
    "ernie4_5-moe": ("Ernie4_5_MoeConfig", {**GQA, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16}),
    "granitemoe-shared": ("GraniteMoeSharedConfig", {**MOE, "shared_intermediate_size": 24}),
    "llama4": ("Llama4TextConfig", {**MOE, "head_dim": 8, "intermediate_size_mlp": 40, "attention_chunk_size": 64}),
    "mimo-v2": ("MiMoV2FlashConfig", {**ROUTED, **HYBRID, "num_key_value_heads": 2, "head_dim": 12, "v_head_dim": 8}),
    "minimax": ("MiniMaxConfig", {**MOE, **LINEAR, "block_size": 16}),
    "lfm2": ("Lfm2Config", {**GQA, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
    "qwen3-next": (
        "Qwen3NextConfig",
        {**GQA, **LINEAR, **DELTA, **SMALL_EXPERTS, "head_dim": 8, "shared_expert_intermediate_size": 24},
    ),
    "qwen3.5": ("Qwen3_5TextConfig", {**GQA, **LINEAR, **DELTA, "head_dim": 8}),
}


def tiny(name: str, seed: int = 0) -> PreTrainedModel:
    """The tiny model ``name``, its weights drawn from ``seed``."""
    config_class, settings = (CONFIGS | RARE_CONFIGS)[name]
    config: PretrainedConfig = getattr(transformers, config_class)(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # what energise only jitters (gpt-oss sinks) starts from a draw of its own
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return energise(model, seed)


def gemma3_multimodal(seed: int = 0) -> PreTrainedModel:
    """Gemma-3 as it is published: the text decoder beside a vision tower."""
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    text = {**GEMMA3, "eos_token_id": 2}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=60,
        boi_token_index=61, eoi_token_index=62,
    )  # fmt: skip
    return energise(Gemma3ForConditionalGeneration(config), seed)


def energise(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Draw every matrix with a spread of 1.5 / sqrt(inputs) and jitter every vector by 0.2."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() >= 2:
                parameter.copy_(noise * 1.5 / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(noise * 0.2)
    return model.float().eval()


TINY: dict[str, Callable[[], PreTrainedModel]] = {
    **{name: (lambda name=name: tiny(name)) for name in CONFIGS},
    "gemma3-multimodal": gemma3_multimodal,
}
RARE: dict[str, Callable[[], PreTrainedModel]] = {name: (lambda name=name: tiny(name)) for name in RARE_CONFIGS}


def whole_gaps(model: PreTrainedModel, pivots: Iterable[Pivot]) -> Tensor:
    """logit(desired) - logit(undesired) of each pivot, every prompt run whole and alone, (P,)."""
    gaps = []
    for pivot in pivots:
        logits = model(input_ids=torch.tensor([pivot.tokens]), use_cache=False).logits[0, -1]
        gaps.append(logits[pivot.desired] - logits[pivot.undesired])
    return torch.stack(gaps)
