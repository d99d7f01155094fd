"""Train the small model on Python's help, and write its weights and vocabulary.

Run as ``python -m kiwicha_host.language.deepseek.train [DIRECTORY]``; needs the extras `train` and `llm`. One
core, some 10 minutes. The first part trains in float32; then the step falls to nothing while each operand of a
product is rounded as the chip rounds it. Experts are balanced without a loss of its own: what is chosen too
often loses in bias (arXiv 2408.15664). On one machine the files are the same bytes each time; another's BLAS may
change the weights.
"""

import argparse
import math
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...extras import extra
from ...models import DEEPSEEK, DEEPSEEK_VOCABULARY
from . import corpus
from .config import DeepSeekConfig
from .evaluate import WINDOW, windows
from .model import shapes
from .stored import Trained, quantized, save
from .torch_model import forward

with extra("llm"):
    import tokenizers
with extra("train"):
    import torch
    from torch.nn import functional

__all__ = ["CONFIG", "initial_weights", "main", "train", "train_vocabulary"]

CONFIG = DeepSeekConfig(
    layers=3, dense_layers=1, width=256, heads=2, q_rank=128, kv_rank=128, nope_size=128, rope_size=32,
    value_size=128, ffn=384, experts=16, groups=4, kept_groups=2, chosen=4, expert_ffn=64, shared_ffn=128,
    vocabulary=1024, context=512, original_context=128, rope_factor=4.0)

SEED = 0
BATCH, STEPS = 4, 1600
#: Steps in which the learning rate rises, and the share of them until it falls, and operands are rounded.
WARM_UP, STEADY = 50, 0.65
LEARNING_RATE, DECAY, CLIP = 3e-3, 0.1, 1.0
#: How far a step moves the bias of an expert.
BALANCE = 2e-3


def train_vocabulary(texts: list[str]) -> tokenizers.Tokenizer:
    """Pairs of bytes merged as GPT-2 does, CONFIG.vocabulary tokens in all; the first is corpus.END."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
        vocab_size=CONFIG.vocabulary, special_tokens=[corpus.END], show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())))
    return tokenizer


def initial_weights(config: DeepSeekConfig, seed: int) -> dict[str, torch.Tensor]:
    """Normal numbers, smaller where results join the sum of all layers; norms are 1."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes(config).items():
        last = name.rpartition(".")[2]
        if last.endswith("norm") or last == "bias":
            weights[name] = torch.full(shape, float(last != "bias"))
            continue
        deviation = 0.02 if last in ("embed", "head") else shape[-1] ** -0.5
        if last in ("wo", "w2"):
            deviation /= math.sqrt(2 * config.layers)
        weights[name] = torch.randn(shape, generator=generator) * deviation
    return weights


def train(config: DeepSeekConfig, tokens: np.ndarray, steps: int, seed: int = SEED,
          show: Callable[[int, float], None] = lambda step, loss: None) -> dict[str, torch.Tensor]:
    """Weights after so many steps of AdamW on windows of `tokens`; `show` gets each step's number and loss."""
    generator = torch.Generator().manual_seed(seed)
    weights = initial_weights(config, seed)
    learned = {name: w.requires_grad_() for name, w in weights.items() if not name.endswith("bias")}
    optimizer = torch.optim.AdamW(
        [{"params": [w for w in learned.values() if w.ndim > 1], "weight_decay": DECAY},
         {"params": [w for w in learned.values() if w.ndim == 1], "weight_decay": 0.0}], betas=(0.9, 0.95))
    text, steady = torch.from_numpy(tokens), int(steps * STEADY)
    for step in range(steps):
        starts = torch.randint(len(text) - WINDOW, (BATCH, 1), generator=generator)
        batch = text[starts + torch.arange(WINDOW + 1)]
        logits, loads = forward(config, weights, batch[:, :-1], quantized=step >= steady)
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned.values(), CLIP)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min((step + 1) / WARM_UP, (steps - step) / (steps - steady), 1)
        optimizer.step()
        optimizer.zero_grad()
        if step < steady:
            for number, load in enumerate(loads, config.dense_layers):
                load = load.to(torch.float32)
                weights[f"layers.{number}.bias"] += BALANCE * torch.sign(load.mean() - load)
        show(step, loss.item())
    return {name: w.detach() for name, w in weights.items()}


@torch.no_grad()
def loss_of(config: DeepSeekConfig, weights: dict[str, torch.Tensor], tokens: np.ndarray, is_quantized: bool
            ) -> float:
    """Nats per token of `tokens`, in windows of which each begins anew."""
    total = count = 0
    for window in windows(tokens):
        window = torch.from_numpy(window[None])
        logits, _ = forward(config, weights, window[:, :-1], is_quantized)
        total += functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten(),
                                          reduction="sum").item()
        count += window.shape[1] - 1
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path, default=DEEPSEEK.parent,
                        help="where to write (default: with the package's other models)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default: {STEPS}")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, not {options.steps}")
    torch.set_num_threads(1)     # the sums of more threads depend on their number
    torch.use_deterministic_algorithms(True)

    training, rest = corpus.texts()
    tokenizer = train_vocabulary(training)
    tokens, held_out = (np.array(tokenizer.encode("".join(corpus.END + text for text in each)).ids)
                        for each in (training, rest))
    print(f"{len(tokens)} tokens to train on, {len(held_out)} held out")

    def show(step: int, loss: float) -> None:
        if step % 50 == 49:
            print(f"step {step + 1}: {loss:.3f}", flush=True)

    weights = train(CONFIG, tokens, options.steps, show=show)
    losses = {name: loss_of(CONFIG, weights, held_out, is_quantized) for name, is_quantized in (
        ("float32 weights, float32", False), ("float32 weights, rounded in PyTorch", True))}
    print(losses)
    model = quantized(CONFIG, {name: w.numpy() for name, w in weights.items()})
    notes = {"losses": losses, "steps": options.steps, "seed": SEED, "python": platform.python_version(),
             "torch": torch.__version__}
    save(options.directory / DEEPSEEK.name, Trained(model, held_out, notes))
    tokenizer.save(str(options.directory / DEEPSEEK_VOCABULARY.name), pretty=False)


if __name__ == "__main__":
    main()
