"""The sizes of a language model of the DeepSeek-V3 kind, and what follows from them.

Multi-head latent attention, a mixture of experts with groups and a bias for balance, rotary embeddings stretched
by YaRN. Sources: DeepSeek-V3 (arXiv 2412.19437, section 2.1) and its published inference code; YaRN (arXiv
2309.00071).
"""

import math
from dataclasses import dataclass

import numpy as np

from ... import arguments

__all__ = ["DeepSeekConfig"]

_SIZES = ("layers", "width", "heads", "q_rank", "kv_rank", "nope_size", "rope_size", "value_size", "ffn",
          "experts", "groups", "kept_groups", "chosen", "expert_ffn", "shared_ffn", "vocabulary", "context",
          "original_context")


@dataclass(frozen=True)
class DeepSeekConfig:
    """What a model's weights do not say by themselves.

    Parameters
    ----------
    layers, dense_layers, width, heads, vocabulary, context : int
        Sizes, as in :class:`~kiwicha_host.language.model.LlamaConfig`. The first `dense_layers` have one gated
        network (SwiGLU) after attention, the others a mixture of experts.
    q_rank, kv_rank : int
        Sizes of the latent vectors that queries, and keys and values, come from.
    nope_size, rope_size, value_size : int
        Of a head: dimensions of query and key without and with rotary embedding, and of the value. All heads share
        the key's rotated part.
    ffn, expert_ffn, shared_ffn : int
        Inside the gated networks of a dense layer, of an expert, and of the expert that every token goes to.
    experts, groups, kept_groups, chosen : int
        Experts of a layer, in `groups` of neighbours; of a token's groups `kept_groups` are kept, and of their
        experts `chosen` work.
    route_scale : float
        The sum of the weights of a token's chosen experts.
    rope_base, rope_factor, beta_fast, beta_slow, mscale : float
        YaRN: `rope_factor` times the positions of `original_context`. Pairs that turn more than `beta_fast` times
        within that are left as they are, those that turn less than `beta_slow` times are slowed down by the
        factor.
    norm_epsilon : float
        Added to the mean square in RMSNorm.
    """
    layers: int
    dense_layers: int
    width: int
    heads: int
    q_rank: int
    kv_rank: int
    nope_size: int
    rope_size: int
    value_size: int
    ffn: int
    experts: int
    groups: int
    kept_groups: int
    chosen: int
    expert_ffn: int
    shared_ffn: int
    vocabulary: int
    context: int
    original_context: int
    route_scale: float = 2.5
    rope_base: float = 10000.0
    rope_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for name in _SIZES:
            arguments.integer(name, getattr(self, name), 1)
        arguments.integer("dense_layers", self.dense_layers, 0, self.layers)
        for name in ("route_scale", "rope_base", "rope_factor", "beta_fast", "beta_slow", "norm_epsilon"):
            arguments.number(name, getattr(self, name), positive=True)
        arguments.number("mscale", self.mscale)
        if self.rope_size % 2:
            raise ValueError(f"rope_size must be even, not {self.rope_size}")
        if not self.beta_slow < self.beta_fast:
            raise ValueError(f"beta_slow must be less than beta_fast, not {self.beta_slow} for {self.beta_fast}")
        if self.experts % self.groups or self.experts < 2 * self.groups:
            raise ValueError(f"experts must be groups times 2 or more, not {self.experts} for {self.groups}")
        arguments.integer("kept_groups", self.kept_groups, 1, self.groups)
        arguments.integer("chosen", self.chosen, 1, self.kept_groups * self.experts // self.groups)

    @property
    def position_macs(self) -> int:
        """Multiply-accumulates of a position but for attention and the head; of experts those that it goes to."""
        key = self.kv_rank + self.rope_size
        attention = (self.width * (self.q_rank + key) + self.heads * (
            self.q_rank * (self.nope_size + self.rope_size) + self.kv_rank * (self.nope_size + self.value_size)
            + self.value_size * self.width))
        mixture = self.width * (self.experts + 3 * (self.shared_ffn + self.chosen * self.expert_ffn))
        dense = 3 * self.width * self.ffn
        return (self.layers * attention + self.dense_layers * dense
                + (self.layers - self.dense_layers) * mixture)

    @property
    def pair_macs(self) -> int:
        """Those of absorbed attention, for a position and one that it looks at."""
        return self.layers * self.heads * (2 * self.kv_rank + self.rope_size)

    @property
    def rope_frequencies(self) -> np.ndarray:
        """By how many radians each pair (2i, 2i + 1) turns from one position to the next: float64 [rope_size / 2].
        """
        pairs = np.arange(self.rope_size // 2)
        plain = self.rope_base ** (-2. * pairs / self.rope_size)
        if self.context <= self.original_context:
            return plain
        low = max(math.floor(self._pair_that_turns(self.beta_fast)), 0)
        high = min(math.ceil(self._pair_that_turns(self.beta_slow)), self.rope_size - 1)
        slowed = np.clip((pairs - low) / max(high - low, 0.001), 0, 1)
        return plain / self.rope_factor * slowed + plain * (1 - slowed)

    @property
    def softmax_scale(self) -> float:
        """What scores are multiplied with: 1 / sqrt(size of a key), and YaRN's correction for long contexts."""
        scale = (self.nope_size + self.rope_size) ** -0.5
        if self.context <= self.original_context:
            return scale
        return scale * (0.1 * self.mscale * math.log(self.rope_factor) + 1) ** 2

    def _pair_that_turns(self, times: float) -> float:
        """The number of the pair, not a whole one, that turns so many times within `original_context`."""
        return (self.rope_size * math.log(self.original_context / (times * 2 * math.pi))
                / (2 * math.log(self.rope_base)))
