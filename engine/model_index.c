#include "engine/model_index.h"

#include <stdlib.h>
#include <string.h>

static int compare_names(const void *a, const void *b)
{
    const struct tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int compare_places(const void *a, const void *b)
{
    const struct tensor *const *x = a, *const *y = b;
    uintptr_t p = (uintptr_t)(*x)->data, q = (uintptr_t)(*y)->data;
    if (p != q)
        return p < q ? -1 : 1;
    return ((*x)->bytes > (*y)->bytes) - ((*x)->bytes < (*y)->bytes);
}

static status allocate(size_t n, const char *file, const struct tensor ***out, struct error *err)
{
    if (n > MODEL_MAX_TENSORS)
        return error_set(err, ST_LIMIT, "%s: %zu tensors, more than %u", file, n, MODEL_MAX_TENSORS);
    *out = malloc((n + 1) * sizeof **out);
    return *out ? ST_OK : error_set(err, ST_NO_MEMORY, "%s: out of memory for %zu tensor names", file, n);
}

static status sort_by_name(struct model_index *index, const char *file, struct error *err)
{
    qsort(index->by_name, index->n, sizeof *index->by_name, compare_names);
    for (size_t i = 1; i < index->n; i++)
        if (strcmp(index->by_name[i - 1]->name, index->by_name[i]->name) == 0)
            return error_set(err, ST_INVALID, "%s: tensor %s is there twice", file, index->by_name[i]->name);
    return ST_OK;
}

status model_index_build(const struct tensor *tensors, size_t n, const char *file, struct model_index *out,
                         struct error *err)
{
    struct model_index index = { NULL, n };
    status st = allocate(n, file, &index.by_name, err);
    if (st != ST_OK)
        return st;
    ASSERT(index.by_name);
    for (size_t i = 0; i < n; i++)
        index.by_name[i] = &tensors[i];
    st = sort_by_name(&index, file, err);
    if (st == ST_OK)
        *out = index;
    else
        model_index_free(&index);
    return st;
}

status model_index_join(const struct model_index *parts, size_t n_parts, const char *folder, struct model_index *out,
                        struct error *err)
{
    struct model_index index = { NULL, 0 };
    size_t total = 0;
    for (size_t i = 0; i < n_parts; i++)
        total += parts[i].n;
    status st = allocate(total, folder, &index.by_name, err);
    if (st != ST_OK)
        return st;
    ASSERT(index.by_name);
    for (size_t i = 0; i < n_parts; i++)
        for (size_t j = 0; j < parts[i].n; j++)
            index.by_name[index.n++] = parts[i].by_name[j];
    st = sort_by_name(&index, folder, err);
    if (st == ST_OK)
        *out = index;
    else
        model_index_free(&index);
    return st;
}

void model_index_free(struct model_index *index)
{
    free(index->by_name);
    *index = (struct model_index){ NULL, 0 };
}

size_t model_index_place(const struct model_index *index, const char *name)
{
    if (index->n == 0)
        return 0;
    const struct tensor key = { .name = name }, *wanted = &key;
    const struct tensor **found = bsearch(&wanted, index->by_name, index->n, sizeof *index->by_name, compare_names);
    return found ? (size_t)(found - index->by_name) : index->n;
}

const struct tensor *model_index_find(const struct model_index *index, const char *name)
{
    size_t place = model_index_place(index, name);
    return place < index->n ? index->by_name[place] : NULL;
}

status model_index_check_overlap(const struct model_index *index, const char *file, struct error *err)
{
    const struct tensor **by_place = NULL;
    status st = allocate(index->n, file, &by_place, err);
    if (st != ST_OK)
        return st;
    ASSERT(by_place);
    for (size_t i = 0; i < index->n; i++)
        by_place[i] = index->by_name[i];
    qsort(by_place, index->n, sizeof *by_place, compare_places);
    for (size_t i = 1; i < index->n && st == ST_OK; i++)
        if ((uintptr_t)by_place[i]->data - (uintptr_t)by_place[i - 1]->data < by_place[i - 1]->bytes)
            st = error_set(err, ST_INVALID, "%s: the data of tensors %s and %s overlaps", file, by_place[i - 1]->name,
                           by_place[i]->name);
    free(by_place);
    return st;
}
