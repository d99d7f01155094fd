"""The ECP5's multiplier, and its model for simulators."""

from pathlib import Path

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Signal

__all__ = ["MODEL", "mult18x18d"]

#: Verilog that says what a MULT18X18D does.
MODEL = Path(__file__).with_name("MULT18X18D.v")


def mult18x18d(m, a, b, *, is_signed=True, name="mult18x18d"):
    """The product of two values of up to 18 bits, both signed or neither, two cycles later.

    Its own registers hold operands and product. `name` is the submodule's.
    """
    # Operands sit at the upper pins: shifting is free in the FPGA, and extending the sign costs a simulator more
    # than the multiplication does.
    shifts = [18 - len(operand) for operand in (a, b)]
    a_pins, b_pins, product = Signal(18), Signal(18), Signal(36, name=f"{name}_product")
    m.d.comb += [pins.eq(Cat(Const(0, shift), operand))
                 for pins, shift, operand in zip((a_pins, b_pins), shifts, (a, b), strict=True)]
    registers = {f"p_REG_{stage}_CLK": "CLK0" for stage in ("INPUTA", "INPUTB", "OUTPUT")}
    pins = {**{f"i_A{i}": a_pins[i] for i in range(18)}, **{f"i_B{i}": b_pins[i] for i in range(18)},
            **{f"o_P{i}": product[i] for i in range(36)}}
    m.submodules[name] = Instance(
        "MULT18X18D", **registers, p_GSR="DISABLED", **pins,
        i_CLK0=ClockSignal(), i_CE0=Const(1), i_RST0=Const(0),
        i_SIGNEDA=Const(is_signed, 1), i_SIGNEDB=Const(is_signed, 1), i_SOURCEA=Const(0), i_SOURCEB=Const(0))
    product = product[sum(shifts):]
    return product.as_signed() if is_signed else product
