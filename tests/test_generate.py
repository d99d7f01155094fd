"""Text from a language model: the loop on the reference decoder, and the command with it in a chip's place."""

import contextlib
import hashlib
import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tiny_llama
from commands import GOLDEN, fails

from kiwicha import ChipConfig
from kiwicha.isa import ErrorCode, Unit
from kiwicha_host.job import DeviceError
from kiwicha_host.language import reference
from kiwicha_host.language.decoder import open_decoder
from kiwicha_host.language.generate import (
    Completion,
    GenerationError,
    Verified,
    complete,
    complete_all,
    figures,
    generate,
    macs,
)
from kiwicha_host.language.gguf_file import read_gguf
from kiwicha_host.language.model import shapes
from kiwicha_host.language.tokenizer import Tokenizer

PROMPT = "The capital of France is"


class Broken(reference.Decoder):
    """Raises `error` in its third step."""

    def __init__(self, model, error):
        super().__init__(model)
        self._left, self._error = 3, error

    def step(self, token):
        self._left -= 1
        if not self._left:
            raise self._error
        return super().step(token)


class Batch:
    """References side by side."""

    cycles = bytes = compulsory_bytes = 0

    def __init__(self, model, sequences):
        self._decoders = [reference.Decoder(model) for _ in range(sequences)]

    def prefill(self, tokens, sequence=0):
        return self._decoders[sequence].prefill(tokens)

    def step(self, token):
        return self._decoders[0].step(token)

    def steps(self, tokens):
        return {number: self._decoders[number].step(token) for number, token in tokens.items()}


@pytest.fixture
def opened(monkeypatch):
    """What the command opens is the reference; returns the options of each call, and what to open in its place."""
    calls = types.SimpleNamespace(options=[], closed=0, make=reference.Decoder)

    def open_decoder(model, **options):
        calls.options.append(options)
        decoder = Batch(model, options["sequences"]) if "sequences" in options else calls.make(model)
        decoder.close = lambda: setattr(calls, "closed", calls.closed + 1)
        return decoder
    module = types.ModuleType("kiwicha_host.language.decoder")
    module.open_decoder = open_decoder
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


@pytest.fixture
def no_decoder(opened):
    """What is wrong must be found before a decoder is opened."""
    opened.make = lambda model: pytest.fail("a decoder was opened")


@pytest.fixture
def ask(run, opened):
    """The command on a tiny model, model.gguf."""
    tiny_llama.write_gguf("model.gguf", "Q8_0", seed=1)
    return lambda *arguments: run("generate", "model.gguf", *arguments, *GOLDEN)


def expected(prompt, count, path="model.gguf"):
    """(tokens, SHA-256 of the logits), with all positions computed anew for each token."""
    loaded = read_gguf(path)
    tokens, digest = Tokenizer(loaded.vocabulary).encode(prompt), hashlib.sha256()
    made = []
    for _ in range(count):
        if not made:
            decoder = reference.Decoder(loaded.model)
            logits = decoder.prefill(tokens)
        else:
            logits = decoder.step(made[-1])
        digest.update(logits.tobytes())
        made.append(int(np.flatnonzero(logits == logits.max())[0]))
    return made, digest.hexdigest()


def first_other(tokens):
    """Where the first token is that differs from those before it."""
    return next(index for index, token in enumerate(tokens) if token != tokens[0])


# The loop.

def test_the_most_likely_token_is_taken():
    model = tiny_llama.model(seed=2)
    done = list(generate(reference.Decoder(model), [1, 40, 41], 6))
    tokens = [item.token for item in done]
    every = reference.Decoder(model).logits([1, 40, 41, *tokens])
    assert len(tokens) == 6 and len(set(tokens)) > 1
    assert every[2:-1].argmax(axis=1).tolist() == tokens
    for item, logits in zip(done, every[2:], strict=False):
        np.testing.assert_allclose(item.logits, logits, atol=1e-5)


def test_the_last_token_is_not_run():
    """It would take a step's time and a position of the context for nothing."""
    model = tiny_llama.model(context=5)
    assert len(list(generate(reference.Decoder(model), [1, 2, 3], 3))) == 3


def test_an_end_is_the_last_token():
    model = tiny_llama.model(seed=2)
    tokens = [item.token for item in generate(reference.Decoder(model), [1, 40, 41], 6)]
    last = first_other(tokens)
    ended = generate(reference.Decoder(model), [1, 40, 41], 6, {tokens[last]})
    assert [item.token for item in ended] == tokens[:last + 1]


def test_of_equal_logits_the_first_is_taken():
    class Equal(reference.Decoder):
        def prefill(self, tokens):
            return np.array([0, 3, 1, 3], np.float32)
    assert next(generate(Equal(tiny_llama.model()), [1], 1)).token == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_say_nothing(value):
    arrays = tiny_llama.weights(tiny_llama.config())
    arrays["out_norm"][3] = value
    model = tiny_llama.LlamaModel(tiny_llama.config(), arrays)
    with np.errstate(invalid="ignore"), pytest.raises(GenerationError, match="of token 1 are not all finite"):
        list(generate(reference.Decoder(model), [1], 1))


def test_nothing_to_generate():
    decoder = reference.Decoder(tiny_llama.model())
    for prompt, count, message in (([], 1, "the number of tokens of prompt must be at least 1, not 0"),
                                   ([1], 0, "count must be at least 1, not 0")):
        with pytest.raises(ValueError, match=message):
            next(generate(decoder, prompt, count))


def test_text_comes_whole_and_in_pieces(tmp_path):
    loaded = read_gguf(tiny_llama.write_gguf(tmp_path / "model.gguf", seed=1))
    tokenizer = Tokenizer(loaded.vocabulary)
    pieces = []
    done = complete(reference.Decoder(loaded.model), tokenizer, tokenizer.encode(PROMPT), 20, pieces.append)
    assert "".join(pieces) == done.text == tokenizer.decode(done.tokens) and len(pieces) > 3 and "" not in pieces
    assert done.prompt_tokens == len(tokenizer.encode(PROMPT))
    assert complete(reference.Decoder(loaded.model), tokenizer, tokenizer.encode(PROMPT), 20).text == done.text


# Figures.

@pytest.mark.parametrize("changes", [{}, {"heads": 6, "kv_heads": 3, "head_size": 8, "tied_head": False}])
@pytest.mark.parametrize("prompt, steps", [(1, 0), (5, 0), (5, 3)])
def test_macs(changes, prompt, steps):
    sizes = tiny_llama.config(**changes)
    matrices = [shape for name, shape in shapes(sizes).items() if name.startswith("layers") and len(shape) == 2]
    expected = 0
    for position in range(prompt + steps):
        expected += sum(out * into for out, into in matrices)
        # Scores and sums of values, with each position up to this one.
        expected += 2 * sizes.layers * sizes.heads * sizes.head_size * (position + 1)
        if position >= prompt - 1:
            expected += sizes.vocabulary * sizes.width
    assert macs(sizes, prompt, steps) == expected


def test_figures():
    chip, sizes = ChipConfig.preset("small"), tiny_llama.config()
    done = Completion("abc", (5, 6, 7), 4, "00ff", cycles_prefill=10_000, bytes_prefill=700, cycles=30_000,
                      bytes=1500, compulsory_bytes=1200, wall_s=2.5)
    work = macs(sizes, 4, 2)
    assert figures("golden", chip, sizes, done) == {
        "text": "abc", "tokens": [5, 6, 7], "prompt_tokens": 4, "logits_sha256": "00ff", "device": "golden",
        "config": "small", "cycles_prefill": 10_000, "cycles_per_token": 10_000, "bytes_per_token": 400,
        "utilization": work / (64 * 30_000), "roofline_fraction": work / 64 / 30_000, "wall_s": 2.5}
    one = Completion("a", (5,), 4, "00ff", 0, 0, 0, 0, 0, 2.5)
    nothing = figures("golden", chip, sizes, one)
    assert [name for name, value in nothing.items() if value is None] == [
        "cycles_per_token", "bytes_per_token", "utilization", "roofline_fraction"]


@pytest.fixture
def tokenizer(tmp_path):
    return Tokenizer(read_gguf(tiny_llama.write_gguf(tmp_path / "vocabulary.gguf")).vocabulary)


def test_several_at_once(tokenizer):
    """As each alone, and what a step takes is shared out."""
    model, prompts = tiny_llama.model(), [tokenizer.encode(text) for text in (PROMPT, "the", "12 of")]
    with contextlib.closing(open_decoder(model, device="golden", context=48, sequences=3)) as decoder:
        together = complete_all(decoder, tokenizer, prompts, 6)
        assert abs(sum(done.cycles for done in together) - decoder.cycles) <= 3
        assert abs(sum(done.compulsory_bytes for done in together) - decoder.compulsory_bytes) <= 3
    for prompt, done in zip(prompts, together, strict=True):
        with contextlib.closing(open_decoder(model, device="golden", context=48)) as decoder:
            alone = complete(decoder, tokenizer, prompt, 6)
        assert (done.tokens, done.text, done.logits_sha256, done.prompt_tokens) == (
            alone.tokens, alone.text, alone.logits_sha256, alone.prompt_tokens)
        assert abs(done.cycles_prefill / alone.cycles_prefill - 1) < 0.01
        assert done.cycles < alone.cycles


class Slightly(Batch):
    """Wrong in the last bit of one logit, from the second token on."""

    def steps(self, tokens):
        logits = super().steps(tokens)
        logits[0][7] = np.nextafter(logits[0][7], np.float32(9))
        return logits

    def step(self, token):
        return self.steps({0: token})[0]


def test_verified(tokenizer):
    model, prompts = tiny_llama.model(), [tokenizer.encode(text) for text in (PROMPT, "the")]
    expected = [complete(reference.Decoder(model), tokenizer, prompt, 4) for prompt in prompts]
    same = Verified(Batch(model, 2), Batch(model, 2))
    assert (same.cycles, same.bytes, same.compulsory_bytes) == (0, 0, 0)
    for done, alone in zip(complete_all(same, tokenizer, prompts, 4), expected, strict=True):
        assert (done.tokens, done.logits_sha256) == (alone.tokens, alone.logits_sha256)
    message = "1 of [0-9]+ logits differ from the golden device's, first that of token 7: "
    with pytest.raises(GenerationError, match=message):
        complete_all(Verified(Batch(model, 2), Slightly(model, 2)), tokenizer, prompts, 4)
    with pytest.raises(GenerationError, match=message):
        complete(Verified(Batch(model, 1), Slightly(model, 1)), tokenizer, prompts[0], 4)


# The command.

def test_json(ask, opened):
    tokens, digest = expected(PROMPT, 10)
    status, out, err = ask("--prompt", PROMPT, "--tokens", 10, "--json")
    report = json.loads(out)
    assert (status, err) == (0, "")
    assert report.pop("wall_s") > 0
    loaded = read_gguf("model.gguf")
    tokenizer = Tokenizer(loaded.vocabulary)
    count = len(tokenizer.encode(PROMPT))
    assert report == {"text": tokenizer.decode(tokens), "tokens": tokens, "prompt_tokens": count,
                      "logits_sha256": digest, "device": "golden", "config": "wide", "cycles_prefill": 0,
                      "cycles_per_token": 0, "bytes_per_token": 0, "utilization": None, "roofline_fraction": None}
    [options] = opened.options
    assert options == {"config": ChipConfig.preset("wide"), "device": "golden", "context": count + 9,
                       "weights": None}
    assert opened.closed == 1


def test_text(ask):
    text = json.loads(ask("--prompt", PROMPT, "--json")[1])
    assert len(text["tokens"]) == 32
    status, out, err = ask("--prompt", PROMPT)
    assert (status, out) == (0, text["text"] + "\n")
    assert "cycles prefill" in err and text["logits_sha256"] in err


def test_an_end_has_no_text(ask):
    before = json.loads(ask("--prompt", PROMPT, "--json")[1])["tokens"]
    last = first_other(before)
    tiny_llama.write_gguf("model.gguf", "Q8_0", seed=1, changed={"tokenizer.ggml.eos_token_id": before[last]})
    after = json.loads(ask("--prompt", PROMPT, "--json")[1])
    assert after["tokens"] == before[:last + 1]
    assert after["text"] == Tokenizer(read_gguf("model.gguf").vocabulary).decode(before[:last])


def test_verify(ask, opened):
    opened.make = lambda model: Batch(model, 1)
    assert ask("--prompt", PROMPT, "--tokens", 3, "--verify", "--json")[0] == 0
    assert [options["device"] for options in opened.options] == ["golden", "golden"]
    assert opened.closed == 2


def test_several_prompts(ask, opened):
    prompts = [PROMPT, "the", "日本 of"]
    alone = [json.loads(ask("--prompt", prompt, "--tokens", 5, "--json")[1]) for prompt in prompts]
    for text in ("\n".join(prompts), "\ufeff" + "\r\n".join(prompts) + "\r\n"):
        Path("prompts.txt").write_bytes(text.encode())
        status, out, err = ask("--batch", "prompts.txt", "--tokens", 5, "--json")
        together = json.loads(out)
        assert (status, err) == (0, "")
        for one, other in zip(alone, together, strict=True):
            assert one | {"wall_s": 0} == other | {"wall_s": 0}
    status, out, _ = ask("--batch", "prompts.txt", "--tokens", 5)
    assert (status, out) == (0, "".join(f"{prompt}{one['text']}\n" for prompt, one in zip(prompts, alone,
                                                                                         strict=True)))
    assert len({options["context"] for options in opened.options[3:]}) == 1
    assert [options["sequences"] for options in opened.options[3:]] == [3, 3, 3]
    assert opened.closed == len(opened.options)


def test_a_folder(ask, run, opened):
    one = json.loads(ask("--prompt", "the", "--json")[1])
    for folder in (".", "./"):
        found = json.loads(run("generate", folder, "--prompt", "the", "--json", *GOLDEN)[1])
        assert found["tokens"] == one["tokens"]
    os.mkdir("empty.gguf")
    fails(run, 1, "empty.gguf has no .gguf files; name the file", "generate", "empty.gguf", "--prompt", "the")


def test_an_interrupt_in_the_middle(ask, opened):
    whole = json.loads(ask("--prompt", PROMPT, "--json")[1])
    text = Tokenizer(read_gguf("model.gguf").vocabulary).decode(whole["tokens"][:3]).rstrip("\ufffd")
    assert text
    for error, said in ((KeyboardInterrupt(), "interrupted"), (DeviceError(ErrorCode.FIELD, Unit.LOAD, 3), "")):
        opened.make = lambda model, error=error: Broken(model, error)
        status, out, err = ask("--prompt", PROMPT)
        assert (status, out) == (1, text + "\n")
        assert err.startswith(f"kiwicha: {said}") and err.count("\n") == 1
        assert ask("--prompt", PROMPT, "--json") == (1, "", err)
    assert opened.closed == 5


@pytest.mark.parametrize("status, message, arguments", [
    (2, "give --prompt or --batch, and not both", []),
    (2, "give --prompt or --batch, and not both", ["--prompt", "a", "--batch", "b.txt"]),
    (2, "Invalid value for '--tokens': 0 is not in the range x>=1", ["--prompt", "a", "--tokens", "0"]),
    (2, "Invalid value for '--tokens': -3 is not in the range x>=1", ["--prompt", "a", "--tokens", "-3"]),
    (2, "--report needs --device verilated, not golden", ["--prompt", "a", "--report", "folder"]),
    (1, "the prompt is empty; give --prompt a text to continue", ["--prompt", ""]),
    (1, "the prompt has 65 tokens, and the model's context 64; give a shorter one", ["--prompt", "a" * 64]),
    (1, "a prompt of 41 tokens and --tokens 32 are beyond the model's context of 64; --tokens 24 is the most",
     ["--prompt", "a" * 40]),
    (1, "the text has '\\udcff', which is not valid in UTF-8", ["--prompt", "a\udcff"]),
    (1, "no such file: prompts.txt", ["--batch", "prompts.txt"]),
    (1, "empty.txt has no prompts; write one a line", ["--batch", "empty.txt"]),
    (1, "gap.txt has an empty prompt in line 2; write one a line", ["--batch", "gap.txt"]),
    (1, "latin.txt is not UTF-8 at byte 2; save it as UTF-8", ["--batch", "latin.txt"]),
    (1, "no configuration", ["--prompt", "a", "--config", "nonsense"]),
])
def test_what_is_wrong(ask, run, no_decoder, status, message, arguments):
    for name, data in (("empty.txt", b""), ("gap.txt", b"a\n\nb\n"), ("latin.txt", b"ab\xe9\n")):
        Path(name).write_bytes(data)
    fails(run, status, message, "generate", "model.gguf", *arguments, *GOLDEN)


def test_wrong_files(ask, run, no_decoder):
    good = Path("model.gguf").read_bytes()
    for data, message in ((b"", "bad.gguf is not a GGUF file"), (b"PK\x03\x04", "bad.gguf is not a GGUF file"),
                          (good[:3000], "bad.gguf is truncated"), (good[:-999], "bad.gguf is truncated")):
        Path("bad.gguf").write_bytes(data)
        fails(run, 1, message, "generate", "bad.gguf", "--prompt", "a")
    tiny_llama.write_gguf("bad.gguf", architecture="gemma3")
    fails(run, 1, "has the architecture 'gemma3'", "generate", "bad.gguf", "--prompt", "a")
    tiny_llama.write_gguf("bad.gguf", changed={"tokenizer.ggml.pre": "tekken"})
    fails(run, 1, "the vocabulary cuts words as 'tekken' does", "generate", "bad.gguf", "--prompt", "a")
    tiny_llama.write_gguf("bad.gguf", tensors={"blk.0.attn_k.weight": np.ones((32, 64), np.int8)})
    fails(run, 1, "blk.0.attn_k.weight as I8, which is not supported", "generate", "bad.gguf", "--prompt", "a")
    fails(run, 1, "no such file: none.gguf", "generate", "none.gguf", "--prompt", "a")
    fails(run, 1, ". has 2 .gguf files; name the file", "generate", ".", "--prompt", "a")
    fails(run, 1, "- is no file on a disk", "generate", "-", "--prompt", "a")
    fails(run, 2, "a name must not be empty", "generate", "", "--prompt", "a")
