#include "router/owner_sets.h"

#include <stdlib.h>
#include <string.h>

/* Of a set's first chunk. Those that follow have the number of the next one and seven owners. */
enum { HEAD_USERS, HEAD_HASH_LOW, HEAD_HASH_HIGH, HEAD_SAME_BUCKET, HEAD_COUNT, HEAD_NEXT, HEAD_OWNERS };
enum { TAIL_NEXT, TAIL_OWNERS };

#define OWNERS_IN_HEAD (OWNER_CHUNK_WORDS - HEAD_OWNERS)
#define OWNERS_IN_TAIL (OWNER_CHUNK_WORDS - TAIL_OWNERS)

_Static_assert(sizeof(struct owner_chunk) == 32, "two chunks a cache line");
_Static_assert(OWNERS_ARE_SET >= 1u << (OWNER_SLOT_BITS + OWNER_TIER_BITS), "one owner and a set are told apart");
_Static_assert((OWNERS_ARE_SET << 1) == 1u << OWNERS_BITS, "what is above a ref is the user's");

static uint32_t get(const struct owner_sets *s, uint32_t chunk, unsigned word)
{
    /* Acquire: a reader checks afterwards that nothing was written in between, and that check must not come first. */
    return atomic_load_explicit(&s->chunks[chunk].words[word], memory_order_acquire);
}

static void put(struct owner_sets *s, uint32_t chunk, unsigned word, uint32_t value)
{
    /* Release: whoever sees it also sees that the block's bucket had changed before. */
    atomic_store_explicit(&s->chunks[chunk].words[word], value, memory_order_release);
}

static uint32_t chunk_of(owners_ref ref)
{
    return ref & (OWNERS_ARE_SET - 1);
}

status owner_sets_init(struct owner_sets *s, size_t max_bytes, uint32_t max_owners)
{
    *s = (struct owner_sets){ .max_owners = max_owners, .fresh = 1 };
    size_t fixed = max_owners * sizeof(owner_entry);
    size_t each = sizeof(struct owner_chunk) + sizeof(uint32_t) / 2;
    size_t n = max_bytes > fixed ? (max_bytes - fixed) / each : 0;
    if (n < 4)
        return ST_LIMIT;
    s->n_chunks = n < OWNER_MAX_CHUNKS ? (uint32_t)n : OWNER_MAX_CHUNKS;
    s->n_buckets = s->n_chunks / 2;
    s->bytes = fixed + s->n_chunks * sizeof(struct owner_chunk) + s->n_buckets * sizeof(uint32_t);
    s->chunks = calloc(s->n_chunks, sizeof *s->chunks);
    s->buckets = calloc(s->n_buckets, sizeof *s->buckets);
    s->scratch = calloc(max_owners, sizeof *s->scratch);
    if (s->chunks && s->buckets && s->scratch)
        return ST_OK;
    owner_sets_free(s);
    return ST_NO_MEMORY;
}

void owner_sets_free(struct owner_sets *s)
{
    free(s->chunks);
    free(s->buckets);
    free(s->scratch);
    *s = (struct owner_sets){ 0 };
}

/* --- chunks --- */

static uint32_t chunks_for(uint32_t count)
{
    return count <= OWNERS_IN_HEAD ? 1 : 1 + (count - OWNERS_IN_HEAD + OWNERS_IN_TAIL - 1) / OWNERS_IN_TAIL;
}

static uint32_t take_chunk(struct owner_sets *s)
{
    uint32_t chunk = s->free_list;
    if (chunk)
        s->free_list = get(s, chunk, TAIL_NEXT);
    else
        chunk = s->fresh++;
    s->in_use++;
    return chunk;
}

static void give_chunk(struct owner_sets *s, uint32_t chunk)
{
    put(s, chunk, TAIL_NEXT, s->free_list);
    s->free_list = chunk;
    s->in_use--;
}

/* --- sets by their hash --- */

static uint64_t mix(owner_entry e)
{
    uint64_t v = (e + UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xbf58476d1ce4e5b9);
    v = (v ^ v >> 29) * UINT64_C(0x94d049bb133111eb);
    return v ^ v >> 32;
}

static uint64_t set_hash(const struct owner_sets *s, uint32_t head)
{
    return get(s, head, HEAD_HASH_LOW) | (uint64_t)get(s, head, HEAD_HASH_HIGH) << 32;
}

static uint32_t *bucket_of(struct owner_sets *s, uint64_t hash)
{
    return &s->buckets[(hash >> 32) * s->n_buckets >> 32];
}

/* By hash and count alone: the hash is the sum of 64 well mixed bits an owner, and owners are not a stranger's to
 * choose. So a change of owner costs no walk over a set that exists already. */
static uint32_t find_set(struct owner_sets *s, uint64_t hash, uint32_t count)
{
    uint32_t head = *bucket_of(s, hash);
    while (head && (set_hash(s, head) != hash || get(s, head, HEAD_COUNT) != count))
        head = get(s, head, HEAD_SAME_BUCKET);
    return head;
}

static void fill_set(struct owner_sets *s, uint32_t head, const owner_entry entries[], uint32_t count)
{
    uint32_t i = 0, chunk = head;
    for (unsigned w = HEAD_OWNERS; w < OWNER_CHUNK_WORDS && i < count; w++)
        put(s, head, w, entries[i++]);
    unsigned link = HEAD_NEXT;
    while (i < count) {
        uint32_t next = take_chunk(s);
        put(s, chunk, link, next);
        chunk = next;
        link = TAIL_NEXT;
        for (unsigned w = TAIL_OWNERS; w < OWNER_CHUNK_WORDS && i < count; w++)
            put(s, chunk, w, entries[i++]);
    }
    put(s, chunk, link, 0);
}

/* scratch[0..count), ascending. */
static bool make_set(struct owner_sets *s, uint64_t hash, uint32_t count, owners_ref *out)
{
    if (chunks_for(count) > s->n_chunks - 1 - s->in_use)
        return false;
    uint32_t head = take_chunk(s);
    uint32_t *bucket = bucket_of(s, hash);
    put(s, head, HEAD_USERS, 0);
    put(s, head, HEAD_HASH_LOW, (uint32_t)hash);
    put(s, head, HEAD_HASH_HIGH, (uint32_t)(hash >> 32));
    put(s, head, HEAD_SAME_BUCKET, *bucket);
    put(s, head, HEAD_COUNT, count);
    fill_set(s, head, s->scratch, count);
    *bucket = head;
    s->n_sets++;
    *out = head | OWNERS_ARE_SET;
    return true;
}

static void destroy_set(struct owner_sets *s, uint32_t head)
{
    uint32_t *bucket = bucket_of(s, set_hash(s, head));
    if (*bucket == head)
        *bucket = get(s, head, HEAD_SAME_BUCKET);
    else {
        uint32_t before = *bucket;
        while (get(s, before, HEAD_SAME_BUCKET) != head)
            before = get(s, before, HEAD_SAME_BUCKET);
        put(s, before, HEAD_SAME_BUCKET, get(s, head, HEAD_SAME_BUCKET));
    }
    uint32_t chunk = get(s, head, HEAD_NEXT);
    give_chunk(s, head);
    while (chunk) {
        uint32_t next = get(s, chunk, TAIL_NEXT);
        give_chunk(s, chunk);
        chunk = next;
    }
    s->n_sets--;
}

void owner_sets_hold(struct owner_sets *s, owners_ref ref)
{
    if (ref & OWNERS_ARE_SET)
        put(s, chunk_of(ref), HEAD_USERS, get(s, chunk_of(ref), HEAD_USERS) + 1);
}

void owner_sets_release(struct owner_sets *s, owners_ref ref)
{
    if (!(ref & OWNERS_ARE_SET))
        return;
    uint32_t users = get(s, chunk_of(ref), HEAD_USERS) - 1;
    put(s, chunk_of(ref), HEAD_USERS, users);
    if (!users)
        destroy_set(s, chunk_of(ref));
}

/* --- reading --- */

uint32_t owner_sets_read(const struct owner_sets *s, owners_ref ref, owner_entry out[], uint32_t max)
{
    if (!(ref & OWNERS_ARE_SET)) {
        if (ref && max)
            out[0] = ref;
        return ref && max;
    }
    /* A reader may find the chunks of a set that is just being taken apart: numbers are checked, and the count bounds
     * the walk. */
    uint32_t chunk = chunk_of(ref), n = 0;
    uint32_t count = get(s, chunk, HEAD_COUNT);
    if (count > max)
        count = max;
    for (unsigned w = HEAD_OWNERS; w < OWNER_CHUNK_WORDS && n < count; w++)
        out[n++] = get(s, chunk, w);
    chunk = get(s, chunk, HEAD_NEXT);
    while (n < count && chunk && chunk < s->n_chunks) {
        for (unsigned w = TAIL_OWNERS; w < OWNER_CHUNK_WORDS && n < count; w++)
            out[n++] = get(s, chunk, w);
        chunk = get(s, chunk, TAIL_NEXT);
    }
    return n;
}

/* --- changes --- */

/* The owner's entry in ref; 0: none. */
static owner_entry entry_of(const struct owner_sets *s, owners_ref ref, uint32_t slot)
{
    if (!(ref & OWNERS_ARE_SET))
        return ref && owner_slot(ref) == slot ? ref : 0;
    uint32_t chunk = chunk_of(ref), left = get(s, chunk, HEAD_COUNT), next = get(s, chunk, HEAD_NEXT);
    unsigned w = HEAD_OWNERS;
    for (; left; left--) {
        owner_entry e = get(s, chunk, w);
        if (owner_slot(e) >= slot)
            return owner_slot(e) == slot ? e : 0;
        if (++w < OWNER_CHUNK_WORDS || left == 1)
            continue;
        chunk = next;
        next = get(s, chunk, TAIL_NEXT);
        w = TAIL_OWNERS;
    }
    return 0;
}

static uint64_t hash_of(const struct owner_sets *s, owners_ref ref, uint32_t *count)
{
    if (!(ref & OWNERS_ARE_SET)) {
        *count = 1;
        return mix(ref);
    }
    *count = get(s, chunk_of(ref), HEAD_COUNT);
    return set_hash(s, chunk_of(ref));
}

/* scratch[0..n) as a ref: nobody, one owner, or a set that is found or made. */
static bool ref_of_scratch(struct owner_sets *s, uint32_t n, uint64_t hash, owners_ref *out)
{
    if (n < 2) {
        *out = n ? s->scratch[0] : OWNERS_NOBODY;
        return true;
    }
    uint32_t found = find_set(s, hash, n);
    if (!found)
        return make_set(s, hash, n, out);
    *out = found | OWNERS_ARE_SET;
    return true;
}

/* ref with `before` (0: none) turned into `after` (0: none). */
static bool replace(struct owner_sets *s, owners_ref ref, owner_entry before, owner_entry after, owners_ref *out)
{
    uint32_t count;
    uint64_t hash = hash_of(s, ref, &count);
    hash = hash - (before ? mix(before) : 0) + (after ? mix(after) : 0);
    uint32_t changed = count - !!before + !!after;
    if (changed > s->max_owners)
        return false;
    uint32_t found = changed > 1 ? find_set(s, hash, changed) : 0;
    if (found) {
        *out = found | OWNERS_ARE_SET;
        return true;
    }
    uint32_t n = owner_sets_read(s, ref, s->scratch, s->max_owners), at = 0;
    uint32_t slot = owner_slot(before ? before : after);
    while (at < n && owner_slot(s->scratch[at]) < slot)
        at++;
    if (!before)
        memmove(&s->scratch[at + 1], &s->scratch[at], (n - at) * sizeof s->scratch[0]);
    else if (!after)
        memmove(&s->scratch[at], &s->scratch[at + 1], (n - at - 1) * sizeof s->scratch[0]);
    if (after)
        s->scratch[at] = after;
    return ref_of_scratch(s, changed, hash, out);
}

bool owner_sets_add(struct owner_sets *s, owners_ref ref, uint32_t slot, uint32_t tier, owners_ref *out)
{
    owner_entry before = entry_of(s, ref, slot);
    owner_entry after = before | slot << OWNER_TIER_BITS | 1u << tier;
    *out = ref ? ref : after;
    return before == after || !ref || replace(s, ref, before, after, out);
}

bool owner_sets_remove(struct owner_sets *s, owners_ref ref, uint32_t slot, uint32_t tier, owners_ref *out)
{
    owner_entry before = entry_of(s, ref, slot);
    owner_entry after = before & ~(1u << tier);
    *out = ref;
    return before == after || replace(s, ref, before, owner_tiers(after) ? after : 0, out);
}

bool owner_sets_strip(struct owner_sets *s, owners_ref ref, const uint8_t gone[], owners_ref *out)
{
    uint32_t n = owner_sets_read(s, ref, s->scratch, s->max_owners), kept = 0;
    uint64_t hash = 0;
    for (uint32_t i = 0; i < n; i++) {
        owner_entry e = s->scratch[i];
        if (gone[owner_slot(e)])
            continue;
        s->scratch[kept++] = e;
        hash += mix(e);
    }
    *out = ref;
    return kept == n || ref_of_scratch(s, kept, hash, out);
}
