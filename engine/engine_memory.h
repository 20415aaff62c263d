/* engine_memory.h - what an engine takes, before there is one. */
#ifndef BATON_ENGINE_ENGINE_MEMORY_H
#define BATON_ENGINE_ENGINE_MEMORY_H

#include "engine/engine.h"

struct engine_memory {
    const char *isa;
    uint64_t weight_bytes;  /* packed matrices, and vectors as float32 */
    uint64_t scratch_bytes; /* of a step of max_rows rows */
    uint64_t read_bytes;    /* of the weights, for one token of one sequence: all but other experts', and a row of the
                             * embeddings */
};

/* options: isa, f32_math, n_threads, max_rows and max_seqs are looked at. The model's weights are not touched.
 * The isa is one that engine_isa_check() allows. */
void engine_memory(const struct model *model, const struct engine_options *options, struct engine_memory *out);

#endif
