#include "transfer/runs.h"

void run_cursor_init(struct run_cursor *c, const struct transfer_geometry *geometry, const struct transfer_span *spans,
                     uint32_t n_spans, uint32_t first_layer, uint32_t n_layers)
{
    *c = (struct run_cursor){
        .geometry = geometry, .spans = spans, .n_spans = n_spans, .first_layer = first_layer, .n_layers = n_layers
    };
}

/* The piece at the cursor ended: on to the next segment, layer and span. */
static void step(struct run_cursor *c, bool whole, struct run *run)
{
    c->within = 0;
    c->segment++;
    if (!whole && c->segment < c->geometry->n_segments)
        return;
    run->ends_layer = true;
    c->segment = 0;
    if (++c->layer < c->n_layers)
        return;
    run->ends_span = true;
    c->layer = 0;
    c->span++;
}

bool run_cursor_next(struct run_cursor *c, size_t max_bytes, struct run *out)
{
    if (c->span >= c->n_spans)
        return false;
    const struct transfer_geometry *g = c->geometry;
    const struct transfer_span *s = &c->spans[c->span];
    bool whole = s->n == g->block_tokens;
    size_t piece = whole ? transfer_layer_bytes(g) : (size_t)s->n * g->slot_bytes;
    size_t token = (size_t)c->segment * g->block_tokens + s->first;
    uint32_t layer = c->first_layer + c->layer;
    *out = (struct run){ .span = c->span,
                         .layer = layer,
                         .offset = layer * transfer_layer_bytes(g) + token * g->slot_bytes + c->within };
    out->bytes = piece - c->within < max_bytes ? piece - c->within : max_bytes;
    c->within += out->bytes;
    if (c->within == piece)
        step(c, whole, out);
    return true;
}

uint64_t runs_bytes(const struct transfer_geometry *geometry, const struct transfer_span *spans, uint32_t n_spans,
                    uint32_t n_layers)
{
    uint64_t slots = 0;
    for (uint32_t i = 0; i < n_spans; i++)
        slots += spans[i].n;
    return slots * geometry->n_segments * geometry->slot_bytes * n_layers;
}
