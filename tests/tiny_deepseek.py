"""DeepSeek models of random weights, small enough for slow references."""

import numpy as np

from kiwicha_host.language.deepseek.config import DeepSeekConfig
from kiwicha_host.language.deepseek.model import shapes

#: Every size is another one, as far as sizes can be.
SIZES = {"layers": 3, "dense_layers": 1, "width": 96, "heads": 3, "q_rank": 40, "kv_rank": 256, "nope_size": 128,
         "rope_size": 16, "value_size": 128, "ffn": 160, "experts": 12, "groups": 3, "kept_groups": 2, "chosen":
         4, "expert_ffn": 64, "shared_ffn": 72, "vocabulary": 50, "context": 64, "original_context": 16,
         "rope_factor": 4.0, "rope_base": 100.0, "beta_fast": 2.0, "beta_slow": 0.3, "route_scale": 1.75}


def config(**changes):
    return DeepSeekConfig(**{**SIZES, **changes})


def tensors(config, seed):
    """Float32 weights with which scores, gates and biases differ enough to matter."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes(config).items():
        last = name.rpartition(".")[2]
        if last.endswith("norm"):
            made[name] = rng.uniform(0.5, 1.5, shape)
        elif last == "bias":
            made[name] = rng.normal(0, 0.2, shape)
        else:
            made[name] = rng.normal(0, 1 if last == "embed" else 1.5 * shape[-1] ** -0.5, shape)
    return {name: array.astype(np.float32) for name, array in made.items()}
