"""What MATMUL means: the lines that it asks for, in order, and the sums that it leaves."""

import itertools

import numpy as np

from tb.matmul.scaled_model import BlockModel, bad_field, elements

__all__ = ["Model", "ports"]


def ports(config):
    """The unit's scratchpad ports."""
    return "aws" if config.block_scaled else "aw"


class Model:
    """The memories, and what must have been asked for and summed after the instructions so far."""

    def __init__(self, config, rng):
        self.config = config
        memory = np.random.default_rng(rng.getrandbits(32)).integers(
            -128, 128, (config.scratchpad_lines, config.line_bytes), np.int8)
        memory[rng.randrange(8)::8] = -128
        self.memory, self.sums = memory, np.zeros((config.accumulator_lines, config.columns), np.int32)
        self.blocks = BlockModel(config)
        self.forget()

    def forget(self):
        """Forget the instructions, but not what the memories hold."""
        self.expected = {name: [] for name in ports(self.config)}
        self.vectors = 0                # of all instructions so far, and after each
        self.ends = []

    def execute(self, f):
        """Do what an instruction does; False if it ends in an error, half done."""
        config = self.config
        if 0 in f["count"] or bad_field(config, f):
            return False
        for i3, i2 in itertools.product(range(f["count"][3]), range(f["count"][2])):
            w_line = f["w_line"] + i2 * f["w_stride"][0] + i3 * f["w_stride"][1]
            if f["scaled"]:
                self.blocks.tile(f, i2, i3)
                if self.blocks.end:
                    if not 0 <= self.blocks.w_scale_line < config.scratchpad_lines:
                        return False
                    self.expected["w"].append(self.blocks.w_scale_line)
            for row in range(config.rows):
                if not 0 <= w_line + row < config.scratchpad_lines:
                    return False
                self.expected["w"].append(w_line + row)
            tile = elements(self.memory[w_line:w_line + config.rows], f["w_format"], config.columns)
            for i1, i0 in itertools.product(range(f["count"][1]), range(f["count"][0])):
                index = (i0, i1, i2, i3)
                a_line = f["a_line"] + sum(i * s for i, s in zip(index, f["a_stride"], strict=True))
                acc_line = f["acc_line"] + sum(i * s for i, s in zip(index, f["acc_stride"], strict=True))
                if not 0 <= a_line < config.scratchpad_lines:
                    return False
                number = i1 * f["count"][0] + i0
                scale_line = self.blocks.a_scale_line + number // config.line_bytes
                byte = number % config.line_bytes
                fetch = f["scaled"] and self.blocks.end and byte == 0
                if fetch and not 0 <= scale_line < config.scratchpad_lines:
                    return False
                if not 0 <= acc_line < config.accumulator_lines:
                    return False
                self.expected["a"].append(a_line)
                self.expected.get("s", []).extend([scale_line] if fetch else [])
                vector = elements(self.memory[a_line:a_line + 1], f["a_format"], config.rows)[0]
                if f["scaled"]:
                    index = (i0, i1, i2 // f["block_tiles"], i3)
                again = any(i > 0 for i, s in zip(index, f["acc_stride"], strict=True) if s == 0)
                old = self.sums[acc_line] if f["accumulate"] or again else np.zeros_like(self.sums[acc_line])
                if f["scaled"]:
                    self.sums[acc_line] = self.blocks.vector(
                        acc_line, vector, tile, old, self.sums[acc_line],
                        self.memory.view(np.uint8)[scale_line % len(self.memory), byte],
                        self.memory.view(np.uint8)[self.blocks.w_scale_line % len(self.memory), :config.columns])
                else:
                    self.sums[acc_line] = (old + vector.astype(np.int64) @ tile.astype(np.int64)).astype(np.int32)
                self.vectors += 1
        self.ends.append(self.vectors)
        return True
