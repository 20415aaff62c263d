#include "sim/event_heap.h"

#include <stdlib.h>

#define CHILDREN 4u /* of a node: half the levels of a binary heap, and two cache lines each */
#define NOWHERE  UINT32_MAX

struct node {
    uint64_t at, order;
    uint32_t source;
};

struct event_heap {
    struct node *nodes; /* [n_sources] */
    uint32_t *places;   /* [n_sources]: of a source's node */
    uint32_t n, n_sources;
    uint64_t order;
};

status event_heap_create(uint32_t n_sources, struct event_heap **out)
{
    struct event_heap *heap = calloc(1, sizeof *heap);
    if (!heap)
        return ST_NO_MEMORY;
    heap->n_sources = n_sources;
    heap->nodes = calloc(n_sources, sizeof *heap->nodes);
    heap->places = malloc(n_sources * sizeof *heap->places);
    if (!heap->nodes || !heap->places) {
        event_heap_destroy(&heap);
        return ST_NO_MEMORY;
    }
    for (uint32_t i = 0; i < n_sources; i++)
        heap->places[i] = NOWHERE;
    *out = heap;
    return ST_OK;
}

void event_heap_destroy(struct event_heap **heap)
{
    if (!*heap)
        return;
    free((*heap)->nodes);
    free((*heap)->places);
    free(*heap);
    *heap = NULL;
}

static bool goes_before(const struct node *a, const struct node *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void put(struct event_heap *heap, uint32_t place, struct node node)
{
    heap->nodes[place] = node;
    heap->places[node.source] = place;
}

static void rise(struct event_heap *heap, uint32_t place, struct node node)
{
    while (place > 0) {
        uint32_t parent = (place - 1) / CHILDREN;
        if (!goes_before(&node, &heap->nodes[parent]))
            break;
        put(heap, place, heap->nodes[parent]);
        place = parent;
    }
    put(heap, place, node);
}

static uint32_t first_child(const struct event_heap *heap, uint32_t place)
{
    uint32_t first = CHILDREN * place + 1, best = first;
    for (uint32_t i = first + 1; i < first + CHILDREN && i < heap->n; i++)
        if (goes_before(&heap->nodes[i], &heap->nodes[best]))
            best = i;
    return best;
}

static void sink(struct event_heap *heap, uint32_t place, struct node node)
{
    while (CHILDREN * place + 1 < heap->n) {
        uint32_t child = first_child(heap, place);
        if (!goes_before(&heap->nodes[child], &node))
            break;
        put(heap, place, heap->nodes[child]);
        place = child;
    }
    put(heap, place, node);
}

static void take_out(struct event_heap *heap, uint32_t place)
{
    heap->places[heap->nodes[place].source] = NOWHERE;
    struct node last = heap->nodes[--heap->n];
    if (place == heap->n)
        return;
    if (place > 0 && goes_before(&last, &heap->nodes[(place - 1) / CHILDREN]))
        rise(heap, place, last);
    else
        sink(heap, place, last);
}

void event_heap_clear(struct event_heap *heap, uint32_t source)
{
    ASSERT(source < heap->n_sources);
    if (heap->places[source] != NOWHERE)
        take_out(heap, heap->places[source]);
}

void event_heap_set(struct event_heap *heap, uint32_t source, uint64_t at)
{
    event_heap_clear(heap, source);
    rise(heap, heap->n++, (struct node){ at, heap->order++, source });
}

uint64_t event_heap_at(const struct event_heap *heap, uint32_t source)
{
    uint32_t place = heap->places[source];
    return place == NOWHERE ? EVENT_NEVER : heap->nodes[place].at;
}

bool event_heap_next(struct event_heap *heap, uint32_t *source, uint64_t *at)
{
    if (heap->n == 0)
        return false;
    *source = heap->nodes[0].source;
    *at = heap->nodes[0].at;
    take_out(heap, 0);
    return true;
}
