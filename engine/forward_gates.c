#include "engine/forward_gates.h"

#include "common/clock.h"

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static bool is_cancelled(const struct step_seq *seq)
{
    return seq->cancelled != NULL && atomic_load_explicit(seq->cancelled, memory_order_relaxed);
}

/* False when the rows have to leave. In slices, of which each says that the engine is well: none begins after the
 * deadline. */
static bool await_gate(struct forward *f, const struct step_seq *seq, uint32_t layer)
{
    struct layer_gate *gate = seq->gate;
    while (!layer_gate_is_open(gate, layer)) {
        const uint64_t now = clock_now_us();
        if (now >= gate->deadline_us)
            layer_gate_close(gate);
        if (is_cancelled(seq) || layer_gate_is_closed(gate))
            return false;
        layer_gate_wait(gate, layer, min_u64(gate->deadline_us - now, ENGINE_GATE_SLICE_US));
        team_mark(f->team);
        forward_device_announce_reached(&f->on_device, f->step);
    }
    return true;
}

bool forward_gates_await(struct forward *f, uint32_t layer)
{
    bool some_leave = false;
    for (uint32_t s = 0; s < f->rows.n_spans; s++) {
        struct step_seq *seq = f->rows.spans[s].seq;
        if (seq->gate == NULL || layer_gate_is_open(seq->gate, layer))
            continue;
        const uint64_t begin = clock_now_us();
        if (!await_gate(f, seq, layer)) {
            seq->gate_failed = layer_gate_is_closed(seq->gate);
            some_leave = true;
        }
        f->step->gates_us += clock_now_us() - begin;
    }
    return some_leave;
}
