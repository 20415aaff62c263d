#include "virtual_internal.h"

#define GATE_SLICE_US 20u

/* What the slot of position p holds in one (layer, side, head): a chain over the tokens up to p. */
static uint64_t chain(uint64_t before, uint32_t token, uint32_t layer, uint32_t segment)
{
    return vc_mix(before ^ vc_mix(((uint64_t)token << 16) + layer * 64 + segment + 1));
}

static uint64_t *slot(struct node *n, const uint32_t *blocks, uint32_t pos, uint32_t layer, uint32_t segment)
{
    const struct kv_layout *l = &n->vc->layout;
    uint8_t *block = n->memory + (size_t)blocks[pos / BLOCK_TOKENS] * kv_block_bytes(l);
    return (uint64_t *)(void *)(block + kv_offset(l, layer, (enum kv_side)(segment / HEADS), segment % HEADS,
                                                  pos % BLOCK_TOKENS));
}

static void compute_layer(struct node *n, struct step_seq *seq, uint32_t layer)
{
    for (uint32_t s = 0; s < 2 * HEADS; s++)
        for (uint32_t r = 0; r < seq->n_rows; r++) {
            uint32_t pos = seq->first_pos + r;
            uint64_t before = pos ? slot(n, seq->blocks, pos - 1, layer, s)[0] : 0;
            uint64_t *out = slot(n, seq->blocks, pos, layer, s);
            out[0] = chain(before, seq->tokens[r], layer, s);
            out[1] = ~out[0];
        }
}

static uint32_t token_of(const struct vc *vc, uint64_t sum)
{
    return (uint32_t)(vc_mix(sum) % (vc->options.vocab ? vc->options.vocab : VC_VOCAB));
}

/* After position end - 1. Reads every slot, as attention does. */
static struct sampled sample(struct node *n, const struct step_seq *seq, uint32_t end)
{
    uint64_t sum = 0;
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t s = 0; s < 2 * HEADS; s++)
            for (uint32_t pos = 0; pos < end; pos++) {
                const uint64_t *v = slot(n, seq->blocks, pos, l, s);
                sum += vc_mix(v[0]) + 3 * vc_mix(v[1]);
            }
    return (struct sampled){ .id = token_of(n->vc, sum), .hash = { end, 7 } };
}

uint32_t vc_next_token(const struct vc *vc, const uint32_t *tokens, uint32_t n)
{
    uint64_t sum = 0;
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t s = 0; s < 2 * HEADS; s++) {
            uint64_t v = 0;
            for (uint32_t pos = 0; pos < n; pos++) {
                v = chain(v, tokens[pos], l, s);
                sum += vc_mix(v) + 3 * vc_mix(~v);
            }
        }
    return token_of(vc, sum);
}

static uint64_t rows_of(const struct step *step)
{
    uint64_t rows = 0;
    for (uint32_t i = 0; i < step->n_seqs; i++)
        rows += step->seqs[i].n_rows;
    return rows;
}

static void push_step_event(struct node *n, enum event_kind kind, uint64_t after_us, uint32_t layer)
{
    event_push(n->vc,
               (struct event){
                   .at_us = node_time(n) + after_us, .kind = kind, .node = n->index, .life = n->life, .a = layer });
}

void virtual_run(void *ctx, struct step *step, struct drafts *drafts)
{
    (void)drafts;
    struct node *n = ctx;
    n->step = step;
    push_step_event(n, EV_LAYER, (300 + 20 * rows_of(step)) / LAYERS, 0);
}

/* Whether the layer has to wait for this sequence's gate. */
static bool is_shut(const struct node *n, struct step_seq *seq, uint32_t layer)
{
    if (!seq->gate || !seq->done || layer_gate_is_open(seq->gate, layer))
        return false;
    if (seq->gate->deadline_us <= node_time(n))
        layer_gate_close(seq->gate);
    seq->gate_failed = layer_gate_is_closed(seq->gate);
    return !seq->gate_failed;
}

static bool waits(struct node *n, uint32_t layer)
{
    bool waits = false;
    for (uint32_t i = 0; i < n->step->n_seqs; i++) {
        struct step_seq *seq = &n->step->seqs[i];
        seq->done = (seq->done || layer == 0) && !atomic_load(seq->cancelled);
        waits |= is_shut(n, seq, layer);
        seq->done = seq->done && !seq->gate_failed;
    }
    return waits;
}

void virtual_layer_done(struct node *n, uint32_t layer)
{
    struct step *step = n->step;
    if (waits(n, layer)) {
        step->gates_us += GATE_SLICE_US;
        push_step_event(n, EV_LAYER, GATE_SLICE_US, layer);
        return;
    }
    for (uint32_t i = 0; i < step->n_seqs; i++)
        if (step->seqs[i].done)
            compute_layer(n, &step->seqs[i], layer);
    if (layer + 1 < LAYERS)
        push_step_event(n, EV_LAYER, (300 + 20 * rows_of(step)) / LAYERS, layer + 1);
    else
        push_step_event(n, EV_STEP, 10, 0);
    worker_layers_done(n->worker, layer + 1);
}

void virtual_step_done(struct node *n)
{
    for (uint32_t i = 0; i < n->step->n_seqs; i++) {
        struct step_seq *seq = &n->step->seqs[i];
        if (seq->done && seq->logits == STEP_SAMPLE)
            seq->sampled = sample(n, seq, seq->first_pos + seq->n_rows);
        for (uint32_t r = 0; r < seq->n_rows && seq->done && seq->logits == STEP_SAMPLE_EACH; r++)
            seq->sampled_each[r] = sample(n, seq, seq->first_pos + r + 1);
    }
    n->step = NULL;
    worker_step_done(n->worker);
}
