// The function pipe behind a C interface: a stream of operands, one per cycle, and their results.

#include <cstdint>

#include "Vfunction_pipe.h"
#include "verilated.h"

extern "C" void function_pipe_run(uint32_t function, uint64_t count, const uint32_t* operands, uint32_t* results) {
    static Vfunction_pipe pipe;
    pipe.select = function;
    for (uint64_t cycle = 0; cycle < count + LATENCY - 1; ++cycle) {
        pipe.i = cycle < count ? operands[cycle] : 0;
        pipe.clk = 0;
        pipe.eval();
        pipe.clk = 1;
        pipe.eval();
        if (cycle >= LATENCY - 1) results[cycle - (LATENCY - 1)] = pipe.o;
    }
}
