"""A language model's decoder as programs: the same bits on every chip, however a prompt is cut."""

import dataclasses

import numpy as np
import pytest

from kiwicha import ChipConfig
from kiwicha_host import open_device
from kiwicha_host.compiler import CompileError
from kiwicha_host.language import running
from kiwicha_host.language.decoder import (
    ChipDecoder,
    Run,
    Step,
    attend,
    check_chip,
    lines,
    open_decoder,
    program,
    tile,
)
from kiwicha_host.language.decoder.script import Ring, Script
from kiwicha_host.language.exact import ExactDecoder
from kiwicha_host.language.model import LlamaConfig, LlamaModel, shapes
from kiwicha_host.language.reference import Decoder

#: What a test does not say otherwise.
SIZES = {"layers": 2, "width": 64, "heads": 4, "kv_heads": 2, "head_size": 16, "ffn": 96, "vocabulary": 100,
         "context": 96}
WIDE = ChipConfig.preset("wide")
SMALL = ChipConfig.preset("small")
CHIPS = {
    "wide": WIDE,
    "small": SMALL,
    # Without indices: the host writes addresses into the program.
    "square4": dataclasses.replace(SMALL, rows=4, columns=4, vector_lanes=1, bank_lines=4096, indices=False,
                                   name="square4"),
    "tall": dataclasses.replace(SMALL, rows=32, indices=False, name="tall"),
    "flat": dataclasses.replace(WIDE, rows=8, columns=32, vector_lanes=8, name="flat"),
}


def model(seed=0, **sizes):
    config = LlamaConfig(**(SIZES | sizes))
    rng = np.random.default_rng(seed)
    tensors = {name: (rng.standard_normal(shape) * 0.1 + (len(shape) == 1)).astype(np.float32)
               for name, shape in shapes(config).items()}
    tensors["embedding"] = rng.standard_normal(tensors["embedding"].shape).astype(np.float32)
    return LlamaModel(config, tensors)


def tokens_of(count, seed=1, vocabulary=100):
    return [int(token) for token in np.random.default_rng(seed).integers(0, vocabulary, count)]


def assert_same_bits(a, b):
    assert a.dtype == b.dtype == np.float32
    np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.fixture(scope="module")
def tiny():
    return model()


@pytest.fixture(scope="module")
def exact(tiny):
    """Logits after each of some tokens."""
    return ExactDecoder(tiny).logits(tokens_of(30))


def test_exact_is_near_the_reference(tiny, exact):
    expected = Decoder(tiny).logits(tokens_of(30))
    # MXINT8 has seven bits: a few thousandths of each factor.
    assert np.abs(exact - expected).max() < 0.05 * np.abs(expected).max()
    assert np.abs(exact - expected).max() > 0


@pytest.mark.parametrize("chip, rows", [("wide", 1), ("wide", 4), ("wide", 16), ("wide", 7), ("small", 4),
                                        ("square4", 16), ("tall", 3), ("flat", 16)])
def test_the_same_bits_everywhere(tiny, exact, chip, rows):
    tokens = tokens_of(30)
    decoder = ChipDecoder(tiny, open_device("golden", config=CHIPS[chip]), 64, rows=rows)
    logits = [decoder.prefill(tokens[:23]), *(decoder.step(token) for token in tokens[23:])]
    assert_same_bits(np.stack(logits), exact[22:])


@pytest.mark.parametrize("sizes", [
    {"head_size": 24, "heads": 2, "kv_heads": 1, "width": 48, "ffn": 40, "rope_pairs": "halves"},
    {"head_size": 128, "heads": 2, "vocabulary": 33, "tied_head": True},
    {"head_size": 8, "heads": 6, "kv_heads": 2, "width": 40, "rope_factors": (1.0, 2.0, 4.0, 8.0)},
    {"layers": 1, "ffn": 1100, "width": 96, "norm_epsilon": 0.1}])
def test_other_shapes(sizes):
    odd, tokens = model(seed=3, **sizes), tokens_of(20, vocabulary=33)
    expected = ExactDecoder(odd).logits(tokens)
    decoder = ChipDecoder(odd, open_device("golden", config=CHIPS["small"]), 32)
    assert_same_bits(decoder.prefill(tokens[:17]), expected[16])
    assert_same_bits(decoder.step(tokens[17]), expected[17])


@pytest.mark.parametrize("seed", range(5))
def test_random_shapes(seed):
    """A random model on a random chip, its prompt cut somewhere."""
    rng = np.random.default_rng(seed)
    kv_heads, columns = int(rng.integers(1, 4)), 1 << int(rng.integers(1, 6))
    sizes = {"width": int(rng.integers(1, 100)), "heads": kv_heads * int(rng.integers(1, 6)), "kv_heads": kv_heads,
             "head_size": 2 * int(rng.integers(1, 40)), "ffn": int(rng.integers(1, 200)),
             "vocabulary": int(rng.integers(2, 300)), "tied_head": bool(rng.integers(2))}
    chip = dataclasses.replace(
        SMALL, name="random", rows=1 << int(rng.integers(1, 6)), columns=columns, vector_lanes=min(columns, 2),
        bank_lines=8192, accumulator_lines=2048, indices=bool(rng.integers(2)),
        bus_width=int(rng.choice([64, 128])))
    drawn, tokens = model(seed, **sizes), tokens_of(30, seed, sizes["vocabulary"])
    prompt = int(rng.integers(1, 28))
    decoder = ChipDecoder(drawn, open_device("golden", config=chip), 30, rows=int(rng.integers(1, 20)))
    logits = [decoder.prefill(tokens[:prompt]), decoder.step(tokens[prompt]), decoder.step(tokens[prompt + 1])]
    assert_same_bits(np.stack(logits), ExactDecoder(drawn).logits(tokens[:prompt + 2])[-3:])


@pytest.mark.parametrize("chip, weights", [("wide", "e2m1"), ("small", "e4m3"), ("flat", "int4"), ("tall", "e2m3"),
                                           ("square4", "e3m2")])
def test_weights_in_other_formats(tiny, chip, weights):
    tokens = tokens_of(9)
    decoder = ChipDecoder(tiny, open_device("golden", config=CHIPS[chip]), 64, weights=weights)
    logits = np.stack([decoder.prefill(tokens[:8]), decoder.step(tokens[8])])
    assert_same_bits(logits, ExactDecoder(tiny, weights_fmt=weights).logits(tokens)[7:])
    packed, eight = (sum(matrix.region.size for layer in made.memory.layers for matrix in layer) for made in (
        decoder, ChipDecoder(tiny, open_device("golden", config=CHIPS[chip]), 64)))
    assert packed / eight == (17 / 33 if weights in ("e2m1", "int4") else 1)
    with pytest.raises(ValueError, match="weights must be one of .*, not 'bf16'"):
        ChipDecoder(tiny, open_device("golden", config=CHIPS[chip]), 64, weights="bf16")


def test_a_batch_has_the_bits_of_each_alone(tiny):
    device = open_device("golden", config=CHIPS["wide"])
    together = ChipDecoder(tiny, device, 64, sequences=3)
    prompts = [tokens_of(9 + number, seed=number) for number in range(3)]
    for number, prompt in enumerate(prompts):
        together.prefill(prompt, number)
    batch = [together.run(Step(tuple(Run(number, len(prompt) + i) for number, prompt in enumerate(prompts)), 1),
                          [5 + i, 6 + i, 7 + i]) for i in range(3)]
    for number, prompt in enumerate(prompts):
        alone = ChipDecoder(tiny, device, 64)
        alone.prefill(prompt)
        for i in range(3):
            assert_same_bits(batch[i][number], alone.step(5 + number + i))


def test_steps_of_some_sequences(tiny):
    """Where there is no room for all, they are taken in parts."""
    cramped = dataclasses.replace(CHIPS["small"], bank_lines=512, name="cramped")
    together = ChipDecoder(tiny, open_device("golden", config=cramped), 32, sequences=6)
    with pytest.raises(CompileError):
        together.run(Step(tuple(Run(number, 0) for number in range(6)), 1), [1] * 6)
    logits = together.steps({number: number + 3 for number in range(6)})
    assert list(logits) == list(range(6))
    for number in (0, 5):
        assert_same_bits(logits[number], ExactDecoder(tiny).prefill([number + 3]))
        assert_same_bits(together.steps({number: 7})[number], ExactDecoder(tiny).prefill([number + 3, 7]))
    with pytest.raises(ValueError, match="sequence"):
        together.steps({6: 1})


def test_on_the_compiled_chip(monkeypatch):
    """What waits for what shows there alone: the golden machine runs one instruction after the other."""
    monkeypatch.setattr(program, "_LEAST_HALF", 4)
    lean = dataclasses.replace(ChipConfig.preset("tiny"), functions=True, block_scales=True, bank_lines=4096,
                               accumulator_lines=256, name="lean")
    small = model(seed=5, layers=2, width=32, heads=2, kv_heads=1, ffn=32, vocabulary=40)
    tokens = tokens_of(12, 2, 40)
    expected = ExactDecoder(small).logits(tokens)
    with open_device("verilated", config=lean, latency=30) as device:
        decoder = ChipDecoder(small, device, 32, rows=5)
        logits = [decoder.prefill(tokens[:9]), *(decoder.step(token) for token in tokens[9:])]
        assert_same_bits(np.stack(logits), expected[8:])
        together = ChipDecoder(small, device, 32, sequences=2)
        assert_same_bits(together.run(Step((Run(0, 0), Run(1, 0)), 3), tokens[:6])[0], expected[2])
        halves = ChipDecoder(small, device, 32)
        assert_same_bits(halves.run(Step((Run(0, 0),), 8), tokens[:8])[0], expected[7])
        assert halves.last.template.lengths == (4, 4)
        assert_same_bits(halves.prefill(tokens[8:]), expected[-1])
        with open_device("golden", config=lean, latency=30) as golden:
            predicted, in_halves = ChipDecoder(small, golden, 32, rows=5), ChipDecoder(small, golden, 32)
            predicted.prefill(tokens[:9])
            for token in tokens[9:]:
                predicted.step(token)
            in_halves.run(Step((Run(0, 0),), 8), tokens[:8])
            in_halves.prefill(tokens[8:])
        assert abs(predicted.cycles / decoder.cycles - 1) < 0.01
        assert abs(in_halves.cycles / halves.cycles - 1) < 0.01


def test_runs_of_several_tokens(tiny):
    device = open_device("golden", config=CHIPS["wide"])
    together, tokens = ChipDecoder(tiny, device, 64, sequences=2), tokens_of(8)
    logits = together.run(Step((Run(0, 0), Run(1, 0)), 4), tokens)
    for number in range(2):
        assert_same_bits(logits[number], ExactDecoder(tiny).prefill(tokens[4 * number:4 * number + 4]))


def test_halves():
    """Of many tokens of one sequence; the second begins whole blocks of columns after the first."""
    step = Step((Run(2, 5),), 21)
    assert step.halves(8, 8) == (8, 13) and step.halves(9, 8) == (21,) and step.halves(4, 4) == (8, 13)
    assert Step((Run(0, 5), Run(1, 0)), 21).halves(4, 4) == (21,)
    first, second = step.cut((8, 13), 8)
    assert first == Step((Run(2, 5),), 8, logits=False)
    assert second == Step((Run(2, 13),), 13, first_index=8 + 2)


def test_halves_where_a_block_begins(tiny):
    """A first half that ends with a block of positions sees one fewer than one that ends a position later."""
    tokens, device = tokens_of(49), open_device("golden", config=CHIPS["wide"])
    expected = ExactDecoder(tiny).logits(tokens)
    decoder = ChipDecoder(tiny, device, 64)
    decoder.prefill(tokens[:17])
    for first in (16, 17):
        logits = decoder.run(Step((Run(0, first),), 32), tokens[first:first + 32])
        assert_same_bits(logits[0], expected[first + 31])
        assert decoder.last.template.lengths == (16, 16)


def test_what_was_before_does_not_matter(tiny):
    """Keys and values of an earlier, longer sequence lie where the new one has not been yet."""
    decoder = ChipDecoder(tiny, open_device("golden", config=CHIPS["wide"]), 64)
    decoder.prefill(tokens_of(50, seed=9))
    logits = decoder.run(Step((Run(0, 0),), 5), tokens_of(5))
    assert_same_bits(logits[0], ExactDecoder(tiny).prefill(tokens_of(5)))


def test_an_earlier_sequence_of_nan(tiny):
    """Its keys and values are NaN, and lie beyond where the new one has been."""
    tensors = dict(tiny.tensors)
    tensors["embedding"] = tensors["embedding"].copy()
    tensors["embedding"][99] = np.inf
    broken = LlamaModel(tiny.config, tensors)
    decoder = ChipDecoder(broken, open_device("golden", config=CHIPS["wide"]), 64)
    assert np.isnan(decoder.prefill([99] * 64)).all()
    for tokens in (tokens_of(5, vocabulary=99), tokens_of(32, vocabulary=99)):
        logits = decoder.run(Step((Run(0, 0),), len(tokens)), tokens)
        assert_same_bits(logits[0], ExactDecoder(tiny).prefill(tokens))


def test_bytes_and_cycles(tiny):
    decoder = ChipDecoder(tiny, open_device("golden", config=CHIPS["wide"]), 64)
    decoder.step(3)
    packed = sum(matrix.region.size for layer in decoder.memory.layers for matrix in layer)
    assert packed < decoder.compulsory_bytes < decoder.bytes
    assert decoder.cycles * decoder._device.config.bus_bytes > decoder.compulsory_bytes
    decoder.close()


@pytest.mark.parametrize("config, what", [
    ("ulx3s_85f_fp8", "functions"), ("tiny", "functions and block scales"),
    (dataclasses.replace(CHIPS["wide"], columns=2, vector_lanes=4, name="two"), "vector_lanes, not 2 for 4"),
    (dataclasses.replace(CHIPS["wide"], columns=12, rows=16, name="twelve"), "columns divide 32, not 12"),
    (dataclasses.replace(CHIPS["wide"], formats=("e4m3",), name="eight"), "the format int8")])
def test_chips_that_cannot(tiny, config, what):
    with pytest.raises(CompileError, match=what):
        open_decoder(tiny, config=config, device="golden", context=8)
    check_chip(CHIPS["wide"], tiny)
    lean = dataclasses.replace(CHIPS["wide"], formats=("int8", "e4m3"))
    check_chip(lean, tiny, "e4m3")
    with pytest.raises(CompileError, match="the format e2m1, which configuration 'wide' has not"):
        check_chip(lean, tiny, "e2m1")


def test_too_little_room(tiny):
    small = dataclasses.replace(CHIPS["small"], bank_lines=128, name="cramped")
    with pytest.raises(CompileError, match="1 tokens at 32 positions needs [0-9]+ scratchpad lines; "
                                           "configuration 'cramped' has 512"):
        open_decoder(tiny, config=small, device="golden", context=8)


def test_few_accumulators(tiny, exact):
    """Fewer tokens at a time then, and one at a time or none."""
    tokens = tokens_of(30)
    for count in (64, 32):
        few = dataclasses.replace(SMALL, accumulator_lines=count, name="few")
        decoder = ChipDecoder(tiny, open_device("golden", config=few), 64, rows=16)
        assert_same_bits(decoder.prefill(tokens[:23]), exact[22])
    with pytest.raises(CompileError, match="1 tokens needs 32 accumulator lines; configuration 'few' has 16"):
        open_decoder(model(kv_heads=1), device="golden", context=8,
                     config=dataclasses.replace(SMALL, accumulator_lines=16, name="few"))


def test_too_little_memory(tiny):
    device = open_device("golden", config=CHIPS["wide"])
    device.memory_limit = 1 << 17
    with pytest.raises(CompileError, match="needs [0-9]+ bytes of memory at 64 positions.*the device has 131072"):
        ChipDecoder(tiny, device, 64)
    # Room for all but a step's program.
    device = open_device("golden", config=CHIPS["wide"])
    decoder = ChipDecoder(tiny, device, 64)
    device.memory_limit = -(-decoder._program // 4096) * 4096 + 4096
    with pytest.raises(CompileError, match="with a step's program needs [0-9]+ bytes of memory at 64 positions"):
        decoder.prefill([1, 2, 3])


def test_bad_arguments(tiny):
    decoder = ChipDecoder(tiny, open_device("golden", config=CHIPS["wide"]), 8)
    with pytest.raises(ValueError, match="number of tokens"):
        decoder.prefill([])
    with pytest.raises(ValueError, match="tokens must be .*99"):
        decoder.step(100)
    with pytest.raises(ValueError, match="9 tokens after 0 are beyond the context of 8"):
        decoder.prefill([1] * 9)
    with pytest.raises(ValueError, match="sequence"):
        decoder.prefill([1], 1)
    with pytest.raises(ValueError, match="tokens must be 5, at least one, not 3"):
        decoder.run(Step((Run(0, 0),), 5), [1, 2, 3])
    with pytest.raises(ValueError, match="sequence must be from 0 to 0, not 1"):
        decoder.run(Step((Run(1, 0),), 1), [1])
    with pytest.raises(ValueError, match="position must be at least 0, not -1"):
        decoder.run(Step((Run(0, -1),), 1), [1])
    few = ChipDecoder(tiny, open_device("golden", config=CHIPS["wide"]), 8, rows=2)
    with pytest.raises(ValueError, match="a step must have at most 2 tokens, not 3"):
        few.run(Step((Run(0, 0),), 3), [1, 2, 3])
    assert decoder.steps({}) == {}
    assert_same_bits(decoder.prefill([1, 2]), ExactDecoder(tiny).prefill([1, 2]))
    with pytest.raises(ValueError, match="context"):
        ChipDecoder(tiny, open_device("golden", config=CHIPS["wide"]), 97)
    with pytest.raises(ValueError, match="at most 128 elements"):
        ChipDecoder(model(head_size=256), open_device("golden", config=CHIPS["wide"]), 8)


def test_a_script_loads_ahead_but_not_into_what_is_used():
    events, script = [], Script()
    for number in range(5):
        script.use(40, lambda line, number=number: events.append(("load", number, line)),
                   lambda line, number=number: events.append(("use", number, line)))
    script.do(lambda: events.append(("do",)))
    script.use(64, lambda line: events.append(("load", 5, line)), lambda line: events.append(("use", 5, line)),
               after=script.here)
    script.run(Ring(100, 192, group=32))
    lines = {event[1]: event[2] for event in events if event[0] == "load"}
    assert all(event[2] == lines[event[1]] for event in events if event[0] == "use")
    # 64 lines each: three fit, and a fourth comes when the first has been used.
    assert events[:5] == [("load", 0, 100), ("load", 1, 164), ("load", 2, 228), ("use", 0, 100), ("load", 3, 100)]
    assert events.index(("do",)) < events.index(("load", 5, lines[5]))


@pytest.fixture
def short_tiles(monkeypatch):
    """Tiles of 32 positions in place of 512, in programs and in numpy."""
    for module in (attend, lines, tile, running):
        monkeypatch.setattr(module, "TILE", 32)


@pytest.mark.parametrize("chip, rows", [("wide", 1), ("small", 20), ("tall", 7), ("square4", 32)])
def test_a_running_maximum(tiny, short_tiles, chip, rows):
    """Over three tiles of positions; some rows of a step see nothing of the last."""
    tokens = tokens_of(75)
    expected = ExactDecoder(tiny).logits(tokens)
    start = 0 if rows > 1 else 60
    decoder = ChipDecoder(tiny, open_device("golden", config=CHIPS[chip]), 96, rows=max(rows, 20))
    logits = [decoder.prefill(tokens[:start + 10])]
    decoder._rows = rows
    logits += [decoder.prefill(tokens[start + 10:73]), decoder.step(tokens[73]), decoder.step(tokens[74])]
    assert_same_bits(np.stack(logits), expected[[start + 9, 72, 73, 74]])


def test_softmax_does_not_depend_on_the_tiles(tiny, monkeypatch):
    """But for rounding."""
    tokens, found = tokens_of(75), []
    for size in (32, 512):
        monkeypatch.setattr(running, "TILE", size)
        found.append(ExactDecoder(tiny).logits(tokens))
    assert (found[0][32:] != found[1][32:]).any()
    assert_same_bits(found[0][:32], found[1][:32])
    assert np.abs(found[0] - found[1]).max() < 0.03 * np.abs(found[1]).max()


def test_beyond_a_tile():
    """Of its own size."""
    long, tokens = model(seed=6, layers=1, context=600, heads=2, kv_heads=1), tokens_of(516)
    decoder = ChipDecoder(long, open_device("golden", config=CHIPS["wide"]), 520)
    logits = [decoder.prefill(tokens[:514]), decoder.step(tokens[514]), decoder.step(tokens[515])]
    assert_same_bits(np.stack(logits), ExactDecoder(long).logits(tokens)[513:])
