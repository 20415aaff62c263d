/* drafter.h - guesses of a small model with the vocabulary of the one that is
 * served. It samples with the request's own settings and random numbers, so that
 * it guesses the same token wherever the two models agree.
 * Runs on the engine thread, just before the step that checks the guesses. What it
 * keeps of a sequence it finds again by its id, and drops when it needs the room:
 * nobody tells it that a sequence has ended. */
#ifndef BATON_WORKER_DRAFTER_H
#define BATON_WORKER_DRAFTER_H

#include "engine/engine.h"
#include "engine/speculation.h"

struct drafter;

struct drafter_options {
    const struct model *model; /* borrowed; opened with MODEL_WEIGHTS */
    enum engine_isa isa;
    bool f32_math;
    uint32_t n_threads;
    bool pin_threads;
    struct kv_layout kv;
    uint32_t n_blocks; /* of the drafter's own KV, which is only touched as it is used */
    uint32_t max_seqs; /* asks of one run at most */
    uint32_t max_len;  /* tokens of one sequence at most */
};

/* ST_INVALID when the served model has another vocabulary. */
MUST_CHECK status drafter_create(const struct drafter_options *options, const struct model *served,
                                 struct drafter **out, struct error *err);
void drafter_destroy(struct drafter **drafter);

/* One sequence that wants guesses. */
struct draft_ask {
    uint64_t id;      /* of the sequence, never 0; its tokens are only ever appended to */
    uint32_t seq;     /* in the step: n_rows, n_history and logits are settled by how many guesses there are */
    uint32_t *tokens; /* borrowed: [n_tokens + wanted]; guesses are written behind n_tokens */
    uint32_t n_tokens, wanted;
    uint32_t made; /* out */
};

struct drafts {
    struct draft_ask *asks;
    uint32_t n;
    uint64_t us; /* out: how long it took */
};

/* A sequence that is new to the drafter, or of which it has fallen behind, gets its guesses when it has caught up:
 * DRAFTER_CATCH_UP rows a run. */
#define DRAFTER_CATCH_UP 128u
void drafter_run(struct drafter *drafter, struct step *step, struct drafts *drafts);

/* Forgets every sequence, and zeroes and reads back what their blocks held: at most `bytes`, or one block.
 * ST_AGAIN: there is more, and until it is gone no run may guess (wanted 0); ST_CORRUPT: a block does not take zeros.
 * From any thread, while no run is on. */
MUST_CHECK status drafter_erase(struct drafter *drafter, size_t bytes);

#endif
