"""The model in PyTorch, to train it: in float32, or with each operand of a product rounded as the chip rounds it.

Rounding passes gradients on as if it did nothing (a straight-through estimator). Attention takes the absorbed
form, so that training rounds what decoding rounds.
"""

from collections.abc import Callable, Mapping

import numpy as np

from ...extras import extra
from .config import DeepSeekConfig

with extra("train"):
    import torch
    from torch import Tensor
    from torch.nn import functional

__all__ = ["Weights", "forward", "round_e2m1", "round_e4m3"]

Weights = Mapping[str, Tensor]


def forward(config: DeepSeekConfig, weights: Weights, tokens: Tensor, quantized: bool = False
            ) -> tuple[Tensor, list[Tensor]]:
    """What comes after each of `tokens` [batch, n]: logits [batch, n, vocabulary], and for each mixture how many
    tokens chose each expert [experts].

    `weights` are those of :func:`.model.shapes`, in float32.
    """
    network = _Network(config, weights, quantized)
    x = weights["embed"][tokens]
    loads = []
    for number in range(config.layers):
        at = f"layers.{number}."
        x = x + network.attention(at, network.norm(x, at + "attn_norm"))
        y = network.norm(x, at + "ffn_norm")
        if number < config.dense_layers:
            x = x + network.ffn(at, y)
        else:
            mixed, load = network.mixture(at, y.flatten(0, 1))
            x = x + mixed.view_as(x)
            loads.append(load)
    return network.linear(network.act(network.norm(x, "norm")), "head"), loads


class _Network:
    def __init__(self, config: DeepSeekConfig, weights: Weights, quantized: bool):
        self.config, self.weights, self.quantized = config, weights, quantized

    def norm(self, x: Tensor, name: str) -> Tensor:
        factor = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.config.norm_epsilon)
        return x * factor * self.weights[name]

    def act(self, x: Tensor, block: int = 128) -> Tensor:
        return _rounded(x, round_e4m3, block) if self.quantized else x

    def weight(self, name: str) -> Tensor:
        w = self.weights[name]
        if not self.quantized:
            return w
        return _rounded(w, round_e2m1, 32) if "experts" in name else _rounded_squares(w)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weight(name).T

    def attention(self, at: str, x: Tensor) -> Tensor:
        c = self.config
        batch, n, _ = x.shape
        x = self.act(x)
        q = self.linear(self.act(self.norm(self.linear(x, at + "wq_a"), at + "q_norm")), at + "wq_b")
        q_nope, q_rope = q.view(batch, n, c.heads, -1).split([c.nope_size, c.rope_size], -1)
        latent, k_rope = self.linear(x, at + "wkv_a").split([c.kv_rank, c.rope_size], -1)
        latent, k_rope = self.norm(latent, at + "kv_norm"), _turned(k_rope, c)
        w_k, w_v = self.weight(at + "wkv_b").view(c.heads, -1, c.kv_rank).split([c.nope_size, c.value_size], 1)
        query = torch.cat([torch.einsum("bnhd,hdr->bhnr", self.act(q_nope), w_k),
                           _turned(q_rope.transpose(1, 2), c)], -1)
        cache = self.act(torch.cat([latent, k_rope], -1))[:, None]
        scores = self.act(query) @ cache.transpose(-1, -2) * c.softmax_scale
        scores = scores + torch.full((n, n), -torch.inf).triu(1)
        powers = (scores - scores.detach().amax(-1, keepdim=True)).exp()
        mixed = torch.cat([self._mixed(powers, *each) for each in zip(
            latent[:, None].split(128, -1), cache[..., :c.kv_rank].split(128, -1), strict=True)], -1)
        mixed = mixed / powers.sum(-1, keepdim=True)
        values = torch.einsum("bhnr,hvr->bnhv", self.act(mixed), w_v)
        return self.linear(self.act(values.flatten(2)), at + "wo")

    def _mixed(self, powers: Tensor, latent: Tensor, rounded: Tensor) -> Tensor:
        """Sums of a scale block of the latent vectors: each one's scale is a factor of its power."""
        if not self.quantized:
            return powers @ rounded
        scale = _scale(latent.detach(), 448).transpose(-1, -2)
        return self.act(powers * scale) @ (rounded / scale.transpose(-1, -2))

    def ffn(self, at: str, x: Tensor) -> Tensor:
        x = self.act(x)
        gated = functional.silu(self.linear(x, at + "w1")) * self.linear(x, at + "w3")
        return self.linear(self.act(gated), at + "w2")

    def mixture(self, at: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [tokens, width]: what its experts make of it, and how many tokens chose each expert."""
        c = self.config
        scores = torch.sigmoid(x @ self.weights[at + "gate"].T)
        chosen = _chosen(scores.detach() + self.weights[at + "bias"], c)
        kept = scores * chosen
        kept = kept / kept.sum(-1, keepdim=True) * c.route_scale
        out = self.ffn(at + "shared.", x)
        w1, w2, w3 = (self.weight(f"{at}experts.{name}") for name in ("w1", "w2", "w3"))
        y = self.act(x, 32)
        for expert in range(c.experts):
            rows = chosen[:, expert].nonzero()[:, 0]
            z = y[rows]
            z = self.act(functional.silu(z @ w1[expert].T) * (z @ w3[expert].T), 32) @ w2[expert].T
            out = out.index_add(0, rows, z * kept[rows, expert, None])
        return out, chosen.sum(0)


def _chosen(scores: Tensor, config: DeepSeekConfig) -> Tensor:
    """Which experts of [tokens, experts] work, by their scores with bias."""
    groups = scores.view(len(scores), config.groups, -1)
    best = groups.topk(2, -1).values.sum(-1).topk(config.kept_groups, -1).indices
    kept = torch.zeros(groups.shape[:2], dtype=torch.bool).scatter(1, best, True)
    scores = torch.where(kept[..., None], groups, -torch.inf).flatten(1)
    return torch.zeros(scores.shape, dtype=torch.bool).scatter(1, scores.topk(config.chosen, -1).indices, True)


def _turned(x: Tensor, config: DeepSeekConfig) -> Tensor:
    """x [..., n, rope_size] of positions from 0 on, each pair of neighbours turned by its angle."""
    angles = np.arange(x.shape[-2])[:, None] * config.rope_frequencies
    cos, sin = (torch.from_numpy(function(angles).astype(np.float32)) for function in (np.cos, np.sin))
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)


def _scale(x: Tensor, largest: float) -> Tensor:
    """The smallest power of two by which `largest` is not exceeded along the last axis, which has size 1 then."""
    fraction, exponent = torch.frexp(x.abs().amax(-1, keepdim=True).clamp(min=2. ** -100))
    limit, power = np.frexp(largest)
    exponent = exponent - int(power) + (fraction > float(limit))
    return torch.ldexp(torch.ones(exponent.shape), exponent)


def round_e4m3(x: Tensor) -> Tensor:
    """The values of E4M3 nearest to x, ties to even."""
    return x.to(torch.float8_e4m3fn).to(torch.float32)


def round_e2m1(x: Tensor) -> Tensor:
    """The values of E2M1 nearest to x, ties to even."""
    size = x.abs()
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1., 2.))
    return torch.round(x / step) * step


def _rounded(x: Tensor, rounding: Callable[[Tensor], Tensor], block: int) -> Tensor:
    """x with each `block` numbers along the last axis in a narrow format with a scale; the last may be fewer."""
    with torch.no_grad():
        short = -x.shape[-1] % block
        blocks = functional.pad(x, (0, short)).unflatten(-1, (-1, block))
        scale = _scale(blocks, 6 if rounding is round_e2m1 else 448)
        rounded = (rounding(blocks / scale) * scale).flatten(-2)[..., :x.shape[-1]]
        change = rounded - x
    return x + change


def _rounded_squares(w: Tensor) -> Tensor:
    """w [out, in] in E4M3 with a scale for each square of 128."""
    with torch.no_grad():
        out, columns = w.shape
        padded = functional.pad(w, (0, -columns % 128, 0, -out % 128))
        squares = padded.unflatten(1, (-1, 128)).unflatten(0, (-1, 128)).permute(0, 2, 1, 3).flatten(2)
        scale = _scale(squares, 448)
        rounded = (round_e4m3(squares / scale) * scale).unflatten(2, (128, 128)).permute(0, 2, 1, 3)
        change = rounded.flatten(2).flatten(0, 1)[:out, :columns] - w
    return w + change
