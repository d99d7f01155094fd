// Smoke bench of the exported chip, for any Verilog simulator: one cycle of reset, the ID register, one program, and
// every byte of the memory afterwards. It prints PASS or FAIL.
//
// `kiwicha_host.verilog.write_smoke` writes what it reads: smoke_writes.hex (register offset and value), smoke_before.hex and
// smoke_after.hex (the memory, a bus word per line), and smoke.vh with their sizes.
`timescale 1ns / 1ps
`include "smoke.vh"
module smoke_tb;
    localparam BYTES = `KIWICHA_BUS_BYTES;
    localparam WORDS = `KIWICHA_MEMORY_WORDS;
    localparam CYCLES = 200000;

    reg clk = 0;
    always #5 clk = ~clk;
    reg rst;

    // Register accesses.
    reg awvalid = 0, wvalid = 0, arvalid = 0;
    reg [11:0] address = 0;
    reg [31:0] value = 0;
    wire awready, wready, arready, bvalid, rvalid, irq;
    wire [31:0] answer;

    // Main memory: one burst at a time in each direction.
    reg [8*BYTES-1:0] memory [0:WORDS-1];
    reg [8*BYTES-1:0] expected [0:WORDS-1];
    reg [43:0] writes [0:`KIWICHA_WRITES-1];
    wire m_arvalid, m_arid, m_awvalid, m_wvalid, m_wlast, m_rready, m_bready;
    wire [31:0] m_araddr, m_awaddr;
    wire [7:0] m_arlen;
    wire [8*BYTES-1:0] m_wdata;
    wire [BYTES-1:0] m_wstrb;
    reg reading = 0, writing = 0, answering = 0, read_id = 0;
    reg [31:0] read_word = 0, write_word = 0;
    reg [7:0] left = 0;

    `KIWICHA_TOP dut (
        .clk(clk), .rst(rst), .irq(irq),
        .s_axil_awaddr(address), .s_axil_awprot(3'd0), .s_axil_awvalid(awvalid), .s_axil_awready(awready),
        .s_axil_wdata(value), .s_axil_wstrb(4'hf), .s_axil_wvalid(wvalid), .s_axil_wready(wready),
        .s_axil_bresp(), .s_axil_bvalid(bvalid), .s_axil_bready(1'b1),
        .s_axil_araddr(address), .s_axil_arprot(3'd0), .s_axil_arvalid(arvalid), .s_axil_arready(arready),
        .s_axil_rdata(answer), .s_axil_rresp(), .s_axil_rvalid(rvalid), .s_axil_rready(1'b1),
        .m_axi_arid(m_arid), .m_axi_araddr(m_araddr), .m_axi_arlen(m_arlen), .m_axi_arsize(), .m_axi_arburst(),
        .m_axi_arlock(), .m_axi_arcache(), .m_axi_arprot(), .m_axi_arvalid(m_arvalid), .m_axi_arready(!reading),
        .m_axi_rid(read_id), .m_axi_rdata(memory[read_word]), .m_axi_rresp(2'd0), .m_axi_rlast(left == 0),
        .m_axi_rvalid(reading), .m_axi_rready(m_rready),
        .m_axi_awid(), .m_axi_awaddr(m_awaddr), .m_axi_awlen(), .m_axi_awsize(), .m_axi_awburst(), .m_axi_awlock(),
        .m_axi_awcache(), .m_axi_awprot(), .m_axi_awvalid(m_awvalid), .m_axi_awready(!writing && !answering),
        .m_axi_wdata(m_wdata), .m_axi_wstrb(m_wstrb), .m_axi_wlast(m_wlast), .m_axi_wvalid(m_wvalid),
        .m_axi_wready(writing), .m_axi_bid(1'b0), .m_axi_bresp(2'd0), .m_axi_bvalid(answering),
        .m_axi_bready(m_bready)
    );

    always @(posedge clk)
        if (m_arvalid && !reading) begin
            reading <= 1;
            read_id <= m_arid;
            read_word <= m_araddr / BYTES;
            left <= m_arlen;
        end else if (reading && m_rready) begin
            reading <= left != 0;
            read_word <= read_word + 1;
            left <= left - 8'd1;
        end

    integer lane;
    always @(posedge clk) begin
        if (m_awvalid && !writing && !answering) begin
            writing <= 1;
            write_word <= m_awaddr / BYTES;
        end else if (writing && m_wvalid) begin
            for (lane = 0; lane < BYTES; lane = lane + 1)
                if (m_wstrb[lane] !== 1'b0)
                    memory[write_word][8*lane +: 8] <= m_wstrb[lane] ? m_wdata[8*lane +: 8] : 8'hxx;
            write_word <= write_word + 1;
            writing <= !m_wlast;
            answering <= m_wlast;
        end
        if (answering && m_bready)
            answering <= 0;
    end

    task write(input [11:0] to, input [31:0] what);
        begin
            address <= to;
            value <= what;
            awvalid <= 1;
            wvalid <= 1;
            @(posedge clk);
            while (awvalid || wvalid) begin
                // Address and data are taken in any order, or together.
                if (awready) awvalid <= 0;
                if (wready) wvalid <= 0;
                @(posedge clk);
            end
            while (!bvalid) @(posedge clk);
        end
    endtask

    integer i, wrong;
    initial begin
        $readmemh("smoke_writes.hex", writes);
        $readmemh("smoke_before.hex", memory);
        $readmemh("smoke_after.hex", expected);
        // Assigned here: where a declaration does it, SystemVerilog has no event for `always @*` to see.
        rst = 1;
        @(posedge clk);
        rst <= 0;
        @(posedge clk);
        address <= 0;
        arvalid <= 1;
        @(posedge clk);
        while (!arready) @(posedge clk);
        arvalid <= 0;
        while (!rvalid) @(posedge clk);
        if (answer !== `KIWICHA_ID) begin
            $display("FAIL: ID reads %h", answer);
            $finish;
        end
        for (i = 0; i < `KIWICHA_WRITES; i = i + 1)
            write(writes[i][43:32], writes[i][31:0]);
        while (irq !== 1'b1) @(posedge clk);
        wrong = 0;
        for (i = 0; i < WORDS; i = i + 1)
            if (memory[i] !== expected[i]) begin
                if (wrong < 8)
                    $display("word %0d is %h, not %h", i, memory[i], expected[i]);
                wrong = wrong + 1;
            end
        if (wrong == 0) $display("PASS");
        else $display("FAIL: %0d of %0d words", wrong, WORDS);
        $finish;
    end

    initial begin
        repeat (CYCLES) @(posedge clk);
        $display("FAIL: no end after %0d cycles", CYCLES);
        $finish;
    end
endmodule
