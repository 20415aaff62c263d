/* model_index.h - tensors found by name, whichever file they lie in.
 * Immutable once built: any thread may look up. */
#ifndef BATON_ENGINE_MODEL_INDEX_H
#define BATON_ENGINE_MODEL_INDEX_H

#include "common/status.h"
#include "engine/tensor.h"

#define MODEL_MAX_TENSORS (1u << 20)

struct model_index {
    const struct tensor **by_name; /* ascending; tensors borrowed */
    size_t n;
};

/* Takes n tensors in any order; ST_INVALID naming file and tensor when two have
 * one name. */
MUST_CHECK status model_index_build(const struct tensor *tensors, size_t n, const char *file, struct model_index *out,
                                    struct error *err);
/* As above, of all the tensors of several indices. */
MUST_CHECK status model_index_join(const struct model_index *parts, size_t n_parts, const char *folder,
                                   struct model_index *out, struct error *err);
void model_index_free(struct model_index *index);
/* Its place in by_name; n when absent. */
size_t model_index_place(const struct model_index *index, const char *name);
/* NULL when absent. */
const struct tensor *model_index_find(const struct model_index *index, const char *name);

/* ST_INVALID naming file and tensors when the data of two overlaps. */
MUST_CHECK status model_index_check_overlap(const struct model_index *index, const char *file, struct error *err);

#endif
