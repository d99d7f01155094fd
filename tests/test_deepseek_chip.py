"""The DeepSeek decoder as programs: the bits of its arithmetic in numpy, on every chip and however tokens come."""

import dataclasses

import numpy as np
import pytest
import tiny_deepseek

from kiwicha import ChipConfig
from kiwicha_host import open_device
from kiwicha_host.compiler import CompileError
from kiwicha_host.golden.numerics import top
from kiwicha_host.language import running
from kiwicha_host.language.decoder import ChipDecoder, Run, Step, attend, check_chip, lines, open_decoder, tile
from kiwicha_host.language.deepseek.exact import ExactDecoder
from kiwicha_host.language.deepseek.model import DeepSeekModel, Quantized
from kiwicha_host.language.deepseek.stored import load, quantized

WIDE = ChipConfig.preset("wide")
SMALL = dataclasses.replace(ChipConfig.preset("small"), bank_lines=8192, accumulator_lines=1024, name="roomy")


def model(seed, **changes):
    config = tiny_deepseek.config(**changes)
    return quantized(config, tiny_deepseek.tensors(config, seed))


def tokens_of(count, seed=1, vocabulary=50):
    return [int(token) for token in np.random.default_rng(seed).integers(0, vocabulary, count)]


def assert_same_bits(a, b):
    assert a.dtype == b.dtype == np.float32
    np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


def logits_of(decoder, tokens, prompt):
    return np.stack([decoder.prefill(tokens[:prompt]), *(decoder.step(token) for token in tokens[prompt:])])


@pytest.fixture(scope="module")
def tiny():
    """Every size is another one, as far as sizes can be."""
    return model(3)


@pytest.fixture(scope="module")
def expected(tiny):
    return ExactDecoder(tiny).logits(tokens_of(18))


@pytest.mark.parametrize("config, rows", [
    (WIDE, 1), (WIDE, 7), (WIDE, 32), (SMALL, 5),
    (dataclasses.replace(SMALL, rows=4, columns=4, vector_lanes=1), 3),
    (dataclasses.replace(SMALL, rows=32), 16),
    (dataclasses.replace(WIDE, rows=8, columns=32, vector_lanes=8, name="flat"), 4)],
    ids=lambda value: f"{value.rows}x{value.columns}" if isinstance(value, ChipConfig) else str(value))
def test_the_same_bits_everywhere(tiny, expected, config, rows):
    decoder = ChipDecoder(tiny, open_device("golden", config=config), 64, rows=rows)
    assert_same_bits(logits_of(decoder, tokens_of(18), 16), expected[15:])
    assert decoder.chosen == {0: int(top(expected[-1], 1)[1][0])}


@pytest.mark.parametrize("changes", [
    {"layers": 1, "dense_layers": 1, "q_rank": 1, "rope_size": 2, "heads": 1},
    {"layers": 1, "dense_layers": 0, "experts": 6, "groups": 3, "kept_groups": 3, "chosen": 6, "vocabulary": 50},
    {"layers": 1, "dense_layers": 0, "experts": 70, "groups": 2, "kept_groups": 1, "chosen": 8, "width": 33,
     "expert_ffn": 5, "shared_ffn": 130},
    {"layers": 2, "kv_rank": 128, "value_size": 256, "nope_size": 256, "rope_size": 66, "norm_epsilon": 0.5,
     "context": 200},
    {"layers": 1, "ffn": 700, "width": 200, "q_rank": 130, "heads": 5, "experts": 20, "groups": 10,
     "kept_groups": 8, "chosen": 1, "dense_layers": 0}], ids=str)
def test_other_shapes(changes):
    odd, tokens = model(4, **changes), tokens_of(20)
    decoder = ChipDecoder(odd, open_device("golden", config=SMALL), 32, rows=4)
    assert_same_bits(logits_of(decoder, tokens, 17), ExactDecoder(odd).logits(tokens)[16:])


@pytest.mark.parametrize("seed", range(3))
def test_random_shapes(seed):
    """A random model on a random chip, its prompt cut somewhere."""
    rng = np.random.default_rng(seed)

    def below(most, least=1):
        return int(rng.integers(least, most + 1))

    groups, kept, columns = below(5), 0, 1 << below(5)
    size = below(8, 2)
    kept = below(groups)
    sizes = {"layers": 2, "dense_layers": below(2, 0), "width": below(150), "heads": below(4),
             "q_rank": below(150), "kv_rank": 128 * below(2), "nope_size": 128 * below(2),
             "rope_size": 2 * below(40),
             "value_size": 128 * below(2), "ffn": below(200), "experts": groups * size, "groups": groups,
             "kept_groups": kept, "chosen": below(min(8, kept * size)), "expert_ffn": below(100),
             "shared_ffn": below(150), "vocabulary": below(300, 2), "context": 256, "original_context": below(256)}
    chip = dataclasses.replace(SMALL, name="random", rows=1 << below(5), columns=columns,
                               vector_lanes=min(columns, 2), bank_lines=16384, accumulator_lines=4096,
                               bus_width=int(rng.choice([64, 128])))
    drawn, tokens = model(seed, **sizes), tokens_of(30, seed, sizes["vocabulary"])
    prompt = below(27)
    decoder = ChipDecoder(drawn, open_device("golden", config=chip), 30, rows=below(12))
    got = logits_of(decoder, tokens[:prompt + 2], prompt)
    assert_same_bits(got, ExactDecoder(drawn).logits(tokens[:prompt + 2])[prompt - 1:])


def test_the_stored_model_across_scale_blocks_of_positions():
    """Beyond 128 positions there are two scales for the powers of positions."""
    stored = load()
    tokens = [int(token) for token in stored.held_out[:131]]
    decoder = ChipDecoder(stored.model, open_device("golden", config=WIDE), 140, rows=32)
    assert_same_bits(logits_of(decoder, tokens, 126), ExactDecoder(stored.model).logits(tokens)[125:])


def test_the_stored_model_on_the_small_chip():
    stored, tokens = load(), [3, 100, 7, 512]
    decoder = ChipDecoder(stored.model, open_device("golden", config="small"), 64)
    assert_same_bits(logits_of(decoder, tokens, 3), ExactDecoder(stored.model).logits(tokens)[2:])


def test_a_running_maximum(tiny, monkeypatch):
    """Over three tiles of 32 positions in place of 512; latent vectors have two scales as values."""
    for module in (attend, lines, tile, running):
        monkeypatch.setattr(module, "TILE", 32)
    tokens = tokens_of(60)
    decoder = ChipDecoder(tiny, open_device("golden", config=WIDE), 64, rows=29)
    logits = [decoder.prefill(tokens[:58]), decoder.step(tokens[58]), decoder.step(tokens[59])]
    assert_same_bits(np.stack(logits), ExactDecoder(tiny).logits(tokens)[57:])


def test_a_batch_has_the_bits_of_each_alone(tiny):
    device = open_device("golden", config=WIDE)
    together = ChipDecoder(tiny, device, 64, sequences=8)
    prompts = [tokens_of(1 + number % 3, seed=number) for number in range(8)]
    for number, prompt in enumerate(prompts):
        together.prefill(prompt, number)
    for i in range(2):
        logits = together.steps({number: 5 + number + i for number in range(8)})
        for number, prompt in enumerate(prompts):
            after = [*prompt, *(5 + number + j for j in range(i + 1))]
            assert_same_bits(logits[number], ExactDecoder(tiny).prefill(after))
            assert together.chosen[number] == int(top(logits[number], 1)[1][0])


def test_an_earlier_sequence_of_nan():
    """Its latent vectors are NaN, and lie beyond where the new one has been."""
    plain = model(7, layers=1)
    tensors = dict(plain.tensors)
    tensors["embed"] = tensors["embed"].copy()
    tensors["embed"][49] = np.inf
    broken = DeepSeekModel(plain.config, tensors)
    decoder = ChipDecoder(broken, open_device("golden", config=WIDE), 64)
    assert np.isnan(decoder.prefill([49] * 64)).all()
    tokens = tokens_of(9, vocabulary=49)
    assert_same_bits(decoder.run(Step((Run(0, 0),), 9), tokens)[0], ExactDecoder(plain).prefill(tokens))


def test_equal_experts_are_taken_in_order(tiny):
    """A gate of zeros: all scores are the same, and so are those of groups."""
    tensors = {name: np.zeros_like(tensor) if name.endswith(("gate", "bias")) else tensor
               for name, tensor in tiny.tensors.items()}
    same = DeepSeekModel(tiny.config, tensors)
    decoder = ChipDecoder(same, open_device("golden", config=SMALL), 32)
    assert_same_bits(decoder.prefill([1, 2, 3]), ExactDecoder(same).prefill([1, 2, 3]))
    # The first experts' weights count, those of the last do not.
    for number, changes in ((0, True), (11, False)):
        weights = tensors["layers.1.experts.w2"]
        elements = weights.elements.copy()
        elements[number] = 0
        other = DeepSeekModel(tiny.config, tensors | {
            "layers.1.experts.w2": Quantized(elements, weights.scales, weights.block)})
        logits = ChipDecoder(other, open_device("golden", config=SMALL), 32).prefill([1, 2, 3])
        assert (logits != ExactDecoder(same).prefill([1, 2, 3])).any() == changes


def test_experts_are_added_from_the_best_on(tiny):
    """The first two cancel, and are so large that what was added before them is lost, and not what comes after."""
    tensors = {name: np.zeros_like(tensor) if name.endswith(("gate", "bias")) else tensor
               for name, tensor in tiny.tensors.items()}
    for name in [name for name in tensors if ".experts." in name]:
        weights = tensors[name]
        elements, scales = weights.elements.copy(), weights.scales.copy()
        elements[1], scales[1] = elements[0], scales[0]
        if name.endswith("w2"):
            elements[1] = -elements[0]
            scales[:2] += 60
        tensors[name] = Quantized(elements, scales, weights.block)
    cancelling = DeepSeekModel(tiny.config, tensors)
    decoder = ChipDecoder(cancelling, open_device("golden", config=WIDE), 32)
    logits = decoder.prefill([1, 2, 3])
    assert_same_bits(logits, ExactDecoder(cancelling).prefill([1, 2, 3]))
    assert np.isfinite(logits).all() and np.ptp(logits) > 1


@pytest.mark.parametrize("changes, what", [
    ({"top_k": False}, "top_k"), ({"indices": False, "formats": ("e4m3",)}, "the format e2m1 and indices")])
def test_chips_that_cannot(tiny, changes, what):
    with pytest.raises(CompileError, match=f"a DeepSeek model needs a chip with {what}, which configuration"):
        open_decoder(tiny, config=dataclasses.replace(SMALL, **changes), device="golden", context=8)
    check_chip(SMALL, tiny)
    with pytest.raises(ValueError, match="keeps its own formats; give no weights, not 'e4m3'"):
        open_decoder(tiny, config=SMALL, device="golden", context=8, weights="e4m3")


def test_choices_beyond_the_chip():
    """The chip sorts out eight at most."""
    many = model(3, experts=60, groups=3, chosen=9)
    with pytest.raises(ValueError, match="chosen must be at most 8, not 9"):
        ChipDecoder(many, open_device("golden", config=WIDE), 8)


def test_too_little_room(tiny):
    cramped = dataclasses.replace(SMALL, bank_lines=256, name="cramped")
    with pytest.raises(CompileError, match="needs [0-9]+ scratchpad lines; configuration 'cramped' has 1024"):
        open_decoder(tiny, config=cramped, device="golden", context=8)


def test_on_the_compiled_chip():
    """What waits for what shows there alone: the golden machine runs one instruction after the other."""
    lean = dataclasses.replace(ChipConfig.preset("tiny"), formats=("e4m3", "e2m1"), functions=True, indices=True,
                               top_k=True, bank_lines=8192, accumulator_lines=512, name="lean")
    small = model(5, layers=2, width=64, heads=2, q_rank=32, kv_rank=128, rope_size=8, ffn=32, experts=6,
                  expert_ffn=32, shared_ffn=32, chosen=3)
    tokens = tokens_of(9, 2)
    with open_device("verilated", config=lean, latency=30) as device:
        decoder = ChipDecoder(small, device, 32, rows=5)
        assert_same_bits(logits_of(decoder, tokens, 7), ExactDecoder(small).logits(tokens)[6:])
        together = ChipDecoder(small, device, 32, sequences=2)
        logits = together.run(Step((Run(0, 0), Run(1, 0)), 2), tokens[:4])
        for number in range(2):
            expected = ExactDecoder(small).prefill(tokens[2 * number:2 * number + 2])
            assert_same_bits(logits[number], expected)
            assert together.chosen[number] == int(top(expected, 1)[1][0])
