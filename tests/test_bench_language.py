"""The benches of language models, on small ones."""

import dataclasses

import pytest
import tiny_llama

from bench import decoder, logits
from kiwicha import ChipConfig
from kiwicha_host import open_device
from kiwicha_host.language.decoder import ChipDecoder
from kiwicha_host.language.exact import ExactDecoder
from kiwicha_host.language.generate import generate


def test_logits_are_the_same_in_all_runs():
    model, prompt = tiny_llama.model(), [5, 9, 70, 5, 11, 12]
    made = list(generate(ExactDecoder(model), prompt, 3))
    found = list(logits.runs(model, prompt, [item.token for item in made], "golden", ["small", "32x8"]))
    assert len(found) == 2 * (len(logits.SPLITS) + 1)
    assert {digest for _, _, digest in found} == {logits.digest([item.logits for item in made])}
    other = list(generate(ExactDecoder(tiny_llama.model(seed=1)), prompt, 3))
    assert logits.digest([item.logits for item in other]) not in {digest for _, _, digest in found}


def test_the_first_layers_of_a_model():
    whole = tiny_llama.model(layers=3, tied_head=False)
    one = logits.truncated(whole, 1)
    assert one.config == dataclasses.replace(whole.config, layers=1)
    assert (one.layers[0].q == whole.layers[0].q).all() and (one.head == whole.head).all()
    assert logits.truncated(whole, 9).config == whole.config


@pytest.mark.parametrize("chip, tokens, position", [("small", 1, 20), ("small", 4, 7), ("small", 3, 0),
                                                    ("wide", 32, 0)])
def test_layers_are_alike(chip, tokens, position):
    """What follows from few layers is what a device counts of all."""
    model = tiny_llama.model(layers=9)
    config = ChipConfig.preset(chip)
    taken = decoder.take(config, model.config, tokens, position)
    with open_device("golden", config=config) as device:
        whole = ChipDecoder(model, device, position + tokens)
        if position:
            whole.prefill([1] * position)
        cycles, moved = whole.cycles, whole.bytes
        whole.prefill([2] * tokens)
    assert abs(taken.cycles / (whole.cycles - cycles) - 1) < 0.01
    assert taken.bytes == whole.bytes - moved


def test_a_prompt_keeps_the_array_busy():
    """Each half of a step hides what the other waits for."""
    config = decoder.CHIPS["wide"]
    taken = decoder.take(config, decoder.MODEL, 32, 64, logits=False)
    assert taken.macs / config.peak_macs_per_cycle / taken.cycles > 0.85
