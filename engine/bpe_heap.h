/* bpe_heap.h - how bpe.c merges long pieces: symbols in a linked list, the
 * pairs that may merge in a heap ordered by rank, then position. */
#ifndef BATON_ENGINE_BPE_HEAP_H
#define BATON_ENGINE_BPE_HEAP_H

#include "engine/bpe.h"

struct bpe_symbol {
    uint32_t id; /* BPE_NO_ID once it was merged into its left neighbour */
    uint32_t prev, next;
};

struct bpe_candidate {
    uint64_t key; /* rank << 32 | position of the left symbol */
    uint32_t left, right;
};

/* Room for n symbols in scratch->symbols and scratch->ids. */
MUST_CHECK status bpe_heap_reserve(struct bpe_scratch *scratch, size_t n);
/* Merges scratch->ids[0 .. n), n >= 1. Afterwards scratch->symbols[0] is the
 * first of the list that next links, ended by BPE_NO_ID. */
MUST_CHECK status bpe_heap_merge(const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t n);

#endif
