// A board's chip behind a pseudo-terminal: the Verilated `System` with its serial pins bit by bit.
//
// usage: board_sim CYCLES; prints the terminal's name, and ends after so many cycles or when standard input does.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include "Vboard.h"
#include "verilated.h"

namespace {

constexpr int kDivisor = KIWICHA_DIVISOR;   // cycles per bit
constexpr int kPollCycles = 256;            // cycles between looks at an idle terminal

int open_terminal() {
    const int master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (master < 0 || grantpt(master) || unlockpt(master)) {
        std::perror("board_sim: pseudo-terminal");
        std::exit(1);
    }
    // Held open here, so that a host that closes its end and one that comes later find the same line.
    const int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    termios raw;
    tcgetattr(slave, &raw);
    cfmakeraw(&raw);
    tcsetattr(slave, TCSANOW, &raw);
    return master;
}

struct Sender {         // terminal to rx
    int bits = 0, left = 0, timer = 0, idle = 0;

    bool pin(int terminal) {
        if (left == 0 && --idle <= 0) {
            unsigned char byte;
            if (read(terminal, &byte, 1) == 1) {
                bits = byte << 1 | 1 << 9;
                left = 10;
                timer = kDivisor;
            } else {
                idle = kPollCycles;
            }
        }
        if (left == 0) return true;
        const bool level = bits & 1;
        if (--timer == 0) {
            bits >>= 1;
            timer = kDivisor;
            --left;
        }
        return level;
    }
};

struct Receiver {       // tx to terminal
    int bits = 0, count = -1, timer = 0;

    void pin(bool level, int terminal) {
        if (count < 0) {
            if (level) return;
            count = 0;
            timer = kDivisor + kDivisor / 2;
        }
        if (--timer != 0) return;
        timer = kDivisor;
        if (count < 8) {
            bits = bits >> 1 | level << 7;
            ++count;
            return;
        }
        const unsigned char byte = bits;
        if (!level) std::fprintf(stderr, "board_sim: no stop bit\n");
        else if (write(terminal, &byte, 1) != 1) std::fprintf(stderr, "board_sim: terminal full\n");
        count = -1;
    }
};

}  // namespace

int main(int argc, char** argv) {
    const uint64_t limit = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 0;
    const int terminal = open_terminal();
    std::printf("%s\n", ptsname(terminal));
    std::fflush(stdout);

    VerilatedContext context;
    Vboard top(&context);
    Sender sender;
    Receiver receiver;
    top.rx = 1;
    for (uint64_t cycle = 0; cycle < limit; ++cycle) {
        top.rst = cycle < 8;
        top.rx = sender.pin(terminal);
        top.clk = 0;
        top.eval();
        receiver.pin(top.tx, terminal);
        top.clk = 1;
        top.eval();
        if (cycle % 65536 == 0) {
            pollfd input{STDIN_FILENO, POLLIN, 0};
            if (poll(&input, 1, 0) != 0) break;
        }
    }
    top.final();
    return 0;
}
