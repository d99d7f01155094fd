// The compiled device: the chip's Verilog behind a C interface, with its memory on this side.
//
// The memory answers reads in order, `latency` cycles after it took the address, one beat per cycle; writes
// likewise, their answers `latency` cycles after the last beat. Outside of the memory it answers DECERR.
// Around the chip is a module that hands it new inputs at the rising edge, so one evaluation makes a cycle: the
// edge comes, then everything settles. For wave forms there is another for the falling edge.

#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "Vkiwicha_sim.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

constexpr int kBusBytes = KIWICHA_BUS_BYTES;
constexpr size_t kQueue = 64;           // bursts that the memory takes before it makes the chip wait
constexpr int kOkay = 0, kSlverr = 2, kDecerr = 3;

struct Burst {
    uint64_t address;
    uint64_t due;       // the cycle of its first possible answer
    uint32_t beats;
    uint8_t id;
};

constexpr int kUnits = 5;
constexpr int kFetch = 0, kIdle = 0, kSemaphore = 2;   // of kiwicha.isa: Unit, Activity

// From its first cycle on, until the unit's next span, a unit does one thing for one instruction (-1: for none).
struct Span {
    uint64_t start;
    int32_t instruction;
    uint8_t unit, activity;
    uint16_t unused;
};

// What each unit does over a run, as spans in the order in which they begin; `limit` of them at most, then
// nothing more is recorded and `cycles` says how far the spans reach.
struct Recorder {
    std::vector<Span> spans;
    uint64_t limit = 0, cycles = 0;
    bool on = false, full = false;
    std::deque<int32_t> open[kUnits];       // accepted and not yet retired
    int64_t last[kUnits];                   // instruction and activity of the unit's latest span

    void start(uint64_t most) {
        spans.clear();
        spans.shrink_to_fit();
        for (auto& queue : open) queue.clear();
        for (auto& item : last) item = INT64_MIN;
        limit = most;
        cycles = 0;
        full = false;
        on = limit > 0;
    }

    void cycle(const Vkiwicha_sim& t) {
        if (!t.probe_counted || full) return;
        Span fresh[kUnits];
        int count = 0;
        for (int unit = 0; unit < kUnits; ++unit) {
            const uint32_t word = t.probe_units[unit];
            const int32_t index = word & 0xFFFFFF;
            const uint8_t activity = word >> 24 & 7;
            auto& queue = open[unit];
            // MATMUL works on an instruction in the cycle in which it says that it has it.
            const bool taking = (word >> 27 & 1) && activity != kIdle;
            const bool ahead = activity == kSemaphore || (unit == kFetch && activity != kIdle) || taking;
            const int32_t instruction = !queue.empty() ? queue.front() : ahead ? index : -1;
            if (unit != kFetch) {
                if (word >> 27 & 1) queue.push_back(index);
                if (word >> 28 & 1 && !queue.empty()) queue.pop_front();
            }
            const int64_t now = int64_t{instruction} * 8 + activity;
            if (now == last[unit]) continue;
            last[unit] = now;
            fresh[count++] = {cycles, instruction, static_cast<uint8_t>(unit), activity, 0};
        }
        full = spans.size() + count > limit;
        if (full) return;
        spans.insert(spans.end(), fresh, fresh + count);
        ++cycles;
    }
};

struct Device {
    VerilatedContext context;
    std::unique_ptr<Vkiwicha_sim> top;
#if VM_TRACE
    std::unique_ptr<VerilatedVcdC> waves;
#endif
    uint8_t* memory = nullptr;
    uint64_t base = 0, size = 0;
    uint64_t cycle = 0;
    uint64_t latency = 30;
    uint64_t fault_first = 1, fault_last = 0;   // accesses that touch these bytes are answered SLVERR
    bool silent = false;                        // the memory takes nothing and answers nothing
    std::deque<Burst> reads, writes, answers;
    int write_resp = kOkay;
    Recorder recorder;

    int response(uint64_t address) const {
        if (address - base > size || size - (address - base) < kBusBytes) return kDecerr;
        const bool faulty = fault_first <= fault_last;
        if (faulty && address + kBusBytes > fault_first && address <= fault_last) return kSlverr;
        return kOkay;
    }

    void drive() {
        auto& t = *top;
        t.m_axi_arready = !silent && reads.size() < kQueue;
        t.m_axi_awready = !silent && writes.size() < kQueue;
        t.m_axi_wready = !silent && !writes.empty();
        const bool read = !silent && !reads.empty() && reads.front().due <= cycle;
        t.m_axi_rvalid = read;
        if (read) {
            const Burst& burst = reads.front();
            const int resp = response(burst.address);
            if (resp == kOkay) std::memcpy(&t.m_axi_rdata, memory + (burst.address - base), kBusBytes);
            else std::memset(&t.m_axi_rdata, 0xEE, kBusBytes);
            t.m_axi_rresp = resp;
            t.m_axi_rlast = burst.beats == 1;
            t.m_axi_rid = burst.id;
        }
        const bool answer = !silent && !answers.empty() && answers.front().due <= cycle;
        t.m_axi_bvalid = answer;
        if (answer) {
            t.m_axi_bresp = answers.front().id;
            t.m_axi_bid = 0;
        }
    }

    void write_beat() {
        auto& t = *top;
        Burst& burst = writes.front();
        const int resp = response(burst.address);
        if (resp > write_resp) write_resp = resp;
        const auto* data = reinterpret_cast<const uint8_t*>(&t.m_axi_wdata);
        if (resp == kOkay) {
            const uint32_t strobe = t.m_axi_wstrb;
            for (int i = 0; i < kBusBytes; ++i)
                if (strobe >> i & 1) memory[burst.address - base + i] = data[i];
        }
        burst.address += kBusBytes;
        if (--burst.beats == 0) {
            answers.push_back({0, cycle + latency, 1, static_cast<uint8_t>(write_resp)});
            write_resp = kOkay;
            writes.pop_front();
        }
    }

    void step() {
        auto& t = *top;
        drive();
        t.tick = !t.tick;
        t.eval();
#if VM_TRACE
        if (waves) waves->dump(2 * cycle);
        t.tick = 0;
        t.eval();
        if (waves) waves->dump(2 * cycle + 1);
#endif
        if (recorder.on) recorder.cycle(t);
        // What the chip shows and what was driven meet at the next rising edge.
        if (t.m_axi_rvalid && t.m_axi_rready) {
            Burst& burst = reads.front();
            burst.address += kBusBytes;
            if (--burst.beats == 0) reads.pop_front();
        }
        if (t.m_axi_wvalid && t.m_axi_wready) write_beat();
        if (t.m_axi_bvalid && t.m_axi_bready) answers.pop_front();
        if (t.m_axi_arvalid && t.m_axi_arready)
            reads.push_back({t.m_axi_araddr, cycle + latency, t.m_axi_arlen + 1u, t.m_axi_arid});
        if (t.m_axi_awvalid && t.m_axi_awready)
            writes.push_back({t.m_axi_awaddr, 0, t.m_axi_awlen + 1u, 0});
        ++cycle;
    }
};

constexpr int kPatience = 1000;     // cycles within which the registers must answer

}  // namespace

extern "C" {

Device* kiwicha_open(uint64_t latency) {
    auto* d = new Device;
    d->latency = latency;
    d->top = std::make_unique<Vkiwicha_sim>(&d->context);
    d->top->rst = 1;
    for (int i = 0; i < 8; ++i) d->step();
    d->top->rst = 0;
    return d;
}

void kiwicha_close(Device* d) {
#if VM_TRACE
    if (d->waves) d->waves->close();
#endif
    d->top->final();
    delete d;
}

void kiwicha_memory(Device* d, uint8_t* memory, uint64_t base, uint64_t size) {
    d->memory = memory;
    d->base = base;
    d->size = size;
}

void kiwicha_fault(Device* d, uint64_t first, uint64_t last, int silent) {
    d->fault_first = first;
    d->fault_last = last;
    d->silent = silent != 0;
}

// Forget what was recorded, and record at most `limit` spans of the next run; 0: none.
void kiwicha_record(Device* d, uint64_t limit) { d->recorder.start(limit); }

// Number of recorded spans; where they are, until the next run; and how many cycles they are of.
uint64_t kiwicha_spans(Device* d, const Span** spans, uint64_t* cycles) {
    *spans = d->recorder.spans.data();
    *cycles = d->recorder.cycles;
    return d->recorder.spans.size();
}

int kiwicha_waves(Device* d, const char* path) {
#if VM_TRACE
    d->context.traceEverOn(true);
    d->waves = std::make_unique<VerilatedVcdC>();
    d->top->trace(d->waves.get(), 99);
    d->waves->open(path);
    return d->waves->isOpen();
#else
    (void)d, (void)path;
    return 0;
#endif
}

// AXI response of a register write, -1 if none came.
int kiwicha_write(Device* d, uint32_t address, uint32_t value) {
    auto& t = *d->top;
    t.s_axil_awaddr = address;
    t.s_axil_wdata = value;
    t.s_axil_wstrb = 0xF;
    t.s_axil_awvalid = t.s_axil_wvalid = t.s_axil_bready = 1;
    for (int i = 0; i < kPatience; ++i) {
        d->step();
        const bool aw = t.s_axil_awvalid && t.s_axil_awready, w = t.s_axil_wvalid && t.s_axil_wready;
        const bool b = t.s_axil_bvalid;
        const int resp = t.s_axil_bresp;
        if (aw) t.s_axil_awvalid = 0;
        if (w) t.s_axil_wvalid = 0;
        if (b) {
            t.s_axil_bready = 0;
            return resp;
        }
    }
    return -1;
}

// AXI response of a register read, -1 if none came.
int kiwicha_read(Device* d, uint32_t address, uint32_t* value) {
    auto& t = *d->top;
    t.s_axil_araddr = address;
    t.s_axil_arvalid = t.s_axil_rready = 1;
    for (int i = 0; i < kPatience; ++i) {
        d->step();
        const bool ar = t.s_axil_arvalid && t.s_axil_arready, r = t.s_axil_rvalid;
        *value = t.s_axil_rdata;
        const int resp = t.s_axil_rresp;
        if (ar) t.s_axil_arvalid = 0;
        if (r) {
            t.s_axil_rready = 0;
            return resp;
        }
    }
    return -1;
}

// Run until the interrupt or for `cycles`; returns 1 if the interrupt is high.
int kiwicha_run(Device* d, uint64_t cycles) {
    for (uint64_t i = 0; i < cycles && !d->top->irq; ++i) d->step();
    return d->top->irq;
}

}  // extern "C"
