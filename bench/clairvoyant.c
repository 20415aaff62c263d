#include <stdbool.h>
#include <stdlib.h>

#include "bench/bench_evict.h"

#define NEVER SIZE_MAX

/* A block and the place of its next use; the latest next use is on top of the heap. */
struct candidate {
    size_t next;
    uint32_t id;
};

struct seer {
    size_t *next_use;       /* [n_blocks]: where the same id comes again */
    size_t *next_of;        /* [n_ids]: as of now; 0: not here */
    struct candidate *heap; /* holds stale ones, whose next is not next_of[id] */
    size_t n_heap;
};

static void seer_free(struct seer *s)
{
    free(s->next_use);
    free(s->next_of);
    free(s->heap);
}

static status seer_open(struct seer *s, const struct trace *t)
{
    *s = (struct seer){ .next_use = malloc(t->n_blocks * sizeof *s->next_use),
                        .next_of = calloc(t->n_ids, sizeof *s->next_of),
                        .heap = calloc(t->n_blocks, sizeof *s->heap) };
    if (!s->next_use || !s->next_of || !s->heap) {
        seer_free(s);
        return ST_NO_MEMORY;
    }
    for (size_t i = t->n_blocks; i-- > 0;) {
        size_t *next = &s->next_of[t->blocks[i]];
        s->next_use[i] = *next ? *next : NEVER;
        *next = i;
    }
    for (size_t id = 0; id < t->n_ids; id++)
        s->next_of[id] = 0;
    return ST_OK;
}

static void swap(struct candidate *a, struct candidate *b)
{
    struct candidate c = *a;
    *a = *b;
    *b = c;
}

static void push(struct seer *s, struct candidate c)
{
    size_t at = s->n_heap++;
    s->heap[at] = c;
    for (; at > 0 && s->heap[(at - 1) / 2].next < s->heap[at].next; at = (at - 1) / 2)
        swap(&s->heap[at], &s->heap[(at - 1) / 2]);
}

static struct candidate pop(struct seer *s)
{
    struct candidate top = s->heap[0];
    s->heap[0] = s->heap[--s->n_heap];
    for (size_t at = 0;;) {
        size_t child = 2 * at + 1;
        if (child + 1 < s->n_heap && s->heap[child + 1].next > s->heap[child].next)
            child++;
        if (child >= s->n_heap || s->heap[child].next <= s->heap[at].next)
            return top;
        swap(&s->heap[at], &s->heap[child]);
        at = child;
    }
}

static void forget_one(struct seer *s)
{
    struct candidate c;
    do
        c = pop(s);
    while (s->next_of[c.id] != c.next);
    s->next_of[c.id] = 0;
}

status bench_evict_clairvoyant(const struct trace *t, uint32_t capacity, struct bench_evict_result *out)
{
    struct seer s;
    struct bench_evict_result result = { .blocks = t->n_blocks };
    size_t first = 0, held = 0;
    status st = seer_open(&s, t);
    if (st != ST_OK)
        return st;
    for (size_t r = 0; r < t->n_requests; first = t->ends[r++]) {
        for (size_t i = first; i < t->ends[r] && s.next_of[t->blocks[i]]; i++)
            result.hits++;
        for (size_t i = first; i < t->ends[r]; i++) {
            held += s.next_of[t->blocks[i]] == 0;
            s.next_of[t->blocks[i]] = s.next_use[i];
            push(&s, (struct candidate){ s.next_use[i], t->blocks[i] });
        }
        for (; held > capacity; held--)
            forget_one(&s);
    }
    seer_free(&s);
    *out = result;
    return ST_OK;
}
