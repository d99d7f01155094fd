"""How long things take: all latencies of the cycle model, in one place."""

from dataclasses import dataclass

from kiwicha import ChipConfig, timing

__all__ = ["MEASURED", "Timing"]

#: Cycles that no constant of the hardware names. Each was counted in the source of the unit that it is about;
#: ``python -m bench.cycles --units`` shows, on programs of one instruction, by how much they are off.
MEASURED = {
    "start_to_ask": 3,          # first cycle of a run to the fetch's first address
    "ask_period": 3,            # from one address of the fetch to the next
    "address_to_bus": 1,        # through the read arbiter, out
    "beat_from_bus": 1,         # through the read arbiter, back
    "beat_to_offer": 9,         # an instruction's last beat to its being ready for dispatch
    "dispatch_period": 3,       # between two instructions
    "dispatch_to_room": 2,      # an instruction's dispatch to its place in the buffer being free
    "retire_to_end": 4,         # last retire to the end of the run, both counted
    "transfer": 2,              # acceptance of a LOAD or STORE to its multiplication
    "index": 3,                 # acceptance of one with an index to the read of that
    "burst": 4,                 # a transfer handed over to its first burst
    "burst_period": 2,          # between bursts of a transfer
    "segment": 4,               # a transfer handed over to its first segment
    "plan": 3,                  # a burst of STORE announced to the first of its beats
    "loop": 1,                  # last iteration of a MATMUL's loops to the acceptance of the next, besides
    "vector": 4,                # acceptance of a MATMUL to its first vector
    "weight_row": 3,            # acceptance of a MATMUL to its first row of weights
    "parameter_fetch": 3,       # acceptance of a VECTOR to its offer to the address generator, besides filling
    "parameters": 3,            # the last parameter that was read to that offer
    "address_generator": 3,     # an instruction taken by the address generator to its first read
    "operand": 6,               # a line of operands ordered to the read that takes it, besides that of A
    "tables": 7,                # a VECTOR is prepared and all before has ended, to its offer, besides the words
    "address_generator_period": 2,  # last read of an instruction to first read of the next
}


@dataclass(frozen=True)
class Timing:
    """Latencies of a chip of `config`, cycles. The names are those of the hardware's own properties.

    Attributes
    ----------
    array : int
        Issue of a vector to its sums at the accumulators.
    accumulate : int
        Sums at the accumulators to the first read that sees them.
    added : int
        Of those, cycles until the accumulators' port is taken.
    hazard : int
        Cycles between two vectors of one accumulator line, at least.
    vector, dynamic_scale : int
        A line's (or, with dynamic scales, pixel's) last read to its (first) write.
    push, pop : int
        A beat that LOAD accepts to the first take of its bytes; a take to the line's write.
    read, send : int
        A segment that STORE comes to, to the first take of its bytes; a take to its beat on the bus.
    """
    array: int
    accumulate: int
    added: int
    hazard: int
    vector: int
    dynamic_scale: int
    push: int
    pop: int
    read: int
    send: int

    @classmethod
    def of(cls, config: ChipConfig) -> "Timing":
        turn = timing.turn_stages(max(config.line_bytes, config.bus_bytes))
        out = timing.REALIGNER_OUT + turn
        return cls(
            array=timing.READ_LATENCY + timing.decode_latency(config) + timing.array_latency(config),
            accumulate=timing.accumulator_latency(config), added=timing.BLOCK_SUM if config.block_scaled else 0,
            hazard=timing.accumulator_hazard(config), vector=timing.vector_latency(config),
            dynamic_scale=timing.dynamic_scale_latency(config),
            push=timing.REALIGNER_IN + timing.turn_stages(config.bus_bytes), pop=out + 1,
            read=2 + timing.READ_LATENCY + timing.REALIGNER_IN + timing.turn_stages(config.line_bytes),
            send=out + 2)
