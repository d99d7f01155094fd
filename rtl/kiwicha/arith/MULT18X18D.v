// Behavioural model of the ECP5 multiplier MULT18X18D, for simulation: what Lattice TN1267 says of a
// multiplier on its own, with the port and parameter names of Yosys' cells_bb.v.
//
// Modelled: signed and unsigned operands, and the input, pipeline and output registers, each absent ("NONE")
// or clocked by CLK0, with their clock enables and synchronous resets. Not modelled, and refused at the start
// where a parameter asks for it: other clocks, asynchronous reset. SOURCEA and SOURCEB must be 0, and SIGNEDA
// and SIGNEDB constant (the device registers them with their operands). The ports C, SRI*, SRO*, RO* and
// SIGNEDP are absent. Registers start at 0.
/* verilator lint_off UNUSED */
module MULT18X18D (
    A0, A1, A2, A3, A4, A5, A6, A7, A8, A9, A10, A11, A12, A13, A14, A15, A16, A17, B0, B1, B2, B3, B4, B5,
    B6, B7, B8, B9, B10, B11, B12, B13, B14, B15, B16, B17, SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CLK1,
    CLK2, CLK3, CE0, CE1, CE2, CE3, RST0, RST1, RST2, RST3,
    P0, P1, P2, P3, P4, P5, P6, P7, P8, P9, P10, P11, P12, P13, P14, P15, P16, P17, P18, P19, P20, P21,
    P22, P23, P24, P25, P26, P27, P28, P29, P30, P31, P32, P33, P34, P35);
    /* verilator inline_module */
    parameter REG_INPUTA_CLK = "NONE";
    parameter REG_INPUTA_CE = "CE0";
    parameter REG_INPUTA_RST = "RST0";
    parameter REG_INPUTB_CLK = "NONE";
    parameter REG_INPUTB_CE = "CE0";
    parameter REG_INPUTB_RST = "RST0";
    parameter REG_INPUTC_CLK = "NONE";
    parameter REG_INPUTC_CE = "CE0";
    parameter REG_INPUTC_RST = "RST0";
    parameter REG_PIPELINE_CLK = "NONE";
    parameter REG_PIPELINE_CE = "CE0";
    parameter REG_PIPELINE_RST = "RST0";
    parameter REG_OUTPUT_CLK = "NONE";
    parameter REG_OUTPUT_CE = "CE0";
    parameter REG_OUTPUT_RST = "RST0";
    parameter CLK0_DIV = "ENABLED";
    parameter CLK1_DIV = "ENABLED";
    parameter CLK2_DIV = "ENABLED";
    parameter CLK3_DIV = "ENABLED";
    parameter HIGHSPEED_CLK = "NONE";
    parameter GSR = "ENABLED";
    parameter CAS_MATCH_REG = "FALSE";
    parameter SOURCEB_MODE = "B_SHIFT";
    parameter MULT_BYPASS = "DISABLED";
    parameter RESETMODE = "SYNC";

    input A0, A1, A2, A3, A4, A5, A6, A7, A8, A9, A10, A11, A12, A13, A14, A15, A16, A17;
    input B0, B1, B2, B3, B4, B5, B6, B7, B8, B9, B10, B11, B12, B13, B14, B15, B16, B17;
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CLK1, CLK2, CLK3, CE0, CE1, CE2, CE3, RST0, RST1, RST2,
          RST3;
    output P0, P1, P2, P3, P4, P5, P6, P7, P8, P9, P10, P11, P12, P13, P14, P15, P16, P17, P18, P19, P20,
           P21, P22, P23, P24, P25, P26, P27, P28, P29, P30, P31, P32, P33, P34, P35;

    wire ce_a = REG_INPUTA_CE == "CE0" ? CE0 : REG_INPUTA_CE == "CE1" ? CE1
              : REG_INPUTA_CE == "CE2" ? CE2 : CE3;
    wire rst_a = REG_INPUTA_RST == "RST0" ? RST0 : REG_INPUTA_RST == "RST1" ? RST1
               : REG_INPUTA_RST == "RST2" ? RST2 : RST3;
    wire ce_b = REG_INPUTB_CE == "CE0" ? CE0 : REG_INPUTB_CE == "CE1" ? CE1
              : REG_INPUTB_CE == "CE2" ? CE2 : CE3;
    wire rst_b = REG_INPUTB_RST == "RST0" ? RST0 : REG_INPUTB_RST == "RST1" ? RST1
               : REG_INPUTB_RST == "RST2" ? RST2 : RST3;
    wire ce_m = REG_PIPELINE_CE == "CE0" ? CE0 : REG_PIPELINE_CE == "CE1" ? CE1
              : REG_PIPELINE_CE == "CE2" ? CE2 : CE3;
    wire rst_m = REG_PIPELINE_RST == "RST0" ? RST0 : REG_PIPELINE_RST == "RST1" ? RST1
               : REG_PIPELINE_RST == "RST2" ? RST2 : RST3;
    wire ce_p = REG_OUTPUT_CE == "CE0" ? CE0 : REG_OUTPUT_CE == "CE1" ? CE1
              : REG_OUTPUT_CE == "CE2" ? CE2 : CE3;
    wire rst_p = REG_OUTPUT_RST == "RST0" ? RST0 : REG_OUTPUT_RST == "RST1" ? RST1
               : REG_OUTPUT_RST == "RST2" ? RST2 : RST3;

    // 19 bits hold a signed and an unsigned operand alike.
    wire [17:0] a_pins = {
        A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
    wire [17:0] b_pins = {
        B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
    wire [17:0] a, b;
    wire signed [35:0] product;
    wire [35:0] m, p;
    /* verilator lint_off WIDTH */
    assign product = {{18{SIGNEDA & a[17]}}, a} * {{18{SIGNEDB & b[17]}}, b};
    /* verilator lint_on WIDTH */
    assign {
        P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16,
        P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = p;

    generate
        if (REG_INPUTA_CLK == "CLK0") begin : reg_a
            reg [17:0] q = 0;
            always @(posedge CLK0)
                if (rst_a) q <= 0;
                else if (ce_a) q <= a_pins;
            assign a = q;
        end else begin : no_reg_a
            assign a = a_pins;
        end
        if (REG_INPUTB_CLK == "CLK0") begin : reg_b
            reg [17:0] q = 0;
            always @(posedge CLK0)
                if (rst_b) q <= 0;
                else if (ce_b) q <= b_pins;
            assign b = q;
        end else begin : no_reg_b
            assign b = b_pins;
        end
        if (REG_PIPELINE_CLK == "CLK0") begin : reg_m
            reg [35:0] q = 0;
            always @(posedge CLK0)
                if (rst_m) q <= 0;
                else if (ce_m) q <= product;
            assign m = q;
        end else begin : no_reg_m
            assign m = product;
        end
        if (REG_OUTPUT_CLK == "CLK0") begin : reg_p
            reg [35:0] q = 0;
            always @(posedge CLK0)
                if (rst_p) q <= 0;
                else if (ce_p) q <= m;
            assign p = q;
        end else begin : no_reg_p
            assign p = m;
        end
    endgenerate

    initial begin
        if (REG_INPUTA_CLK != "NONE" && REG_INPUTA_CLK != "CLK0")
            $fatal(1, "MULT18X18D: REG_INPUTA_CLK = %s is not modelled", REG_INPUTA_CLK);
        if (REG_INPUTB_CLK != "NONE" && REG_INPUTB_CLK != "CLK0")
            $fatal(1, "MULT18X18D: REG_INPUTB_CLK = %s is not modelled", REG_INPUTB_CLK);
        if (REG_PIPELINE_CLK != "NONE" && REG_PIPELINE_CLK != "CLK0")
            $fatal(1, "MULT18X18D: REG_PIPELINE_CLK = %s is not modelled", REG_PIPELINE_CLK);
        if (REG_OUTPUT_CLK != "NONE" && REG_OUTPUT_CLK != "CLK0")
            $fatal(1, "MULT18X18D: REG_OUTPUT_CLK = %s is not modelled", REG_OUTPUT_CLK);
        if (RESETMODE != "SYNC" || HIGHSPEED_CLK != "NONE" || MULT_BYPASS != "DISABLED")
            $fatal(1, "MULT18X18D: RESETMODE, HIGHSPEED_CLK or MULT_BYPASS is not modelled");
    end
endmodule
