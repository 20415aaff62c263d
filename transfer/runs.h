/* runs.h - the contiguous pieces of memory that a take covers, in the one order
 * that both ends use: span, layer, segment, token. A whole layer of a block is
 * one piece when all its slots are taken, else there is one piece a segment. */
#ifndef BATON_TRANSFER_RUNS_H
#define BATON_TRANSFER_RUNS_H

#include "transfer/transfer.h"

struct run_cursor {
    const struct transfer_geometry *geometry; /* borrowed */
    const struct transfer_span *spans;        /* borrowed */
    uint32_t n_spans, first_layer, n_layers;
    uint32_t span, layer, segment; /* where the next piece begins; layer counts from first_layer */
    size_t within;                 /* bytes of that piece already given out */
};

struct run {
    uint32_t span, layer; /* layer of the model */
    size_t offset;        /* in the block */
    size_t bytes;
    bool ends_layer, ends_span;
};

void run_cursor_init(struct run_cursor *c, const struct transfer_geometry *geometry, const struct transfer_span *spans,
                     uint32_t n_spans, uint32_t first_layer, uint32_t n_layers);
/* The next piece, cut to at most max_bytes (> 0); false at the end. */
bool run_cursor_next(struct run_cursor *c, size_t max_bytes, struct run *out);
/* Of all pieces together. */
uint64_t runs_bytes(const struct transfer_geometry *geometry, const struct transfer_span *spans, uint32_t n_spans,
                    uint32_t n_layers);

#endif
