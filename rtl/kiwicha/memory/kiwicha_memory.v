// One memory: a write port and read ports, all on one clock. Each memory of the chip is an instance of this module, so
// whoever has macros or a compiler for them replaces this file and nothing else.
//
// Parameters
//   WIDTH    bits of a word
//   DEPTH    words; addresses from DEPTH on do not occur
//   LATENCY  1: read_data is a register, which takes the word at an edge with read_enable and holds it otherwise
//               (block RAM, SRAM macro)
//            0: read_data is the word that read_address names, at once; read_enable is always 1
//               (LUT RAM, latches, flip-flops)
//   READS    read ports; with LATENCY 1 there is one. Port i has the i-th bit of read_enable and the i-th group of bits,
//            from the right, of read_address and read_data
//   ADDRESS  bits of an address; not to be set
//
// A write takes effect at the rising edge of clk. Nothing has a reset. What the words hold before they are written, and
// what read_data holds before the first read, does not matter: the chip uses neither.
//
// Collision. With LATENCY 1, a word that is written at an edge must not be read at that edge: what would be read is
// undefined, so that no macro needs a bypass. Programs with correct semaphores never do it; a simulation warns of it.
// With LATENCY 0, a read shows the old word up to the edge and the new one after it.
module kiwicha_memory #(
    parameter WIDTH = 8,
    parameter DEPTH = 16,
    parameter LATENCY = 1,
    parameter READS = 1,
    parameter ADDRESS = DEPTH > 2 ? $clog2(DEPTH) : 1
) (
    input clk,
    input write_enable,
    input [ADDRESS-1:0] write_address,
    input [WIDTH-1:0] write_data,
    input [READS-1:0] read_enable,
    input [READS*ADDRESS-1:0] read_address,
    output [READS*WIDTH-1:0] read_data
);
    // Yosys need not care for collisions either.
    (* no_rw_check *)
    reg [WIDTH-1:0] words [0:DEPTH-1];

    always @(posedge clk)
        if (write_enable)
            words[write_address] <= write_data;

    genvar port;
    generate
        if (LATENCY == 0) begin : at_once
            wire [READS-1:0] unused = read_enable;
            for (port = 0; port < READS; port = port + 1) begin : reads
                assign read_data[port*WIDTH +: WIDTH] = words[read_address[port*ADDRESS +: ADDRESS]];
            end
        end else begin : registered
            reg [WIDTH-1:0] word;
            always @(posedge clk)
                if (read_enable[0])
                    word <= words[read_address[ADDRESS-1:0]];
            assign read_data = word;
`ifndef SYNTHESIS
            always @(posedge clk)
                if (write_enable && read_enable[0] && write_address == read_address[ADDRESS-1:0])
                    $warning("%m: word %0d is read and written at once", write_address);
`endif
        end
    endgenerate
endmodule
