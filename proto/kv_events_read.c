/* Reading: what a stranger may have written. */
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "proto/kv_events.h"

/* Fields in the order of an array; the name of an event's kind stands before them. */
enum field {
    FIELD_HASHES,
    FIELD_PARENT,
    FIELD_TOKENS,
    FIELD_BLOCK_SIZE,
    FIELD_LORA_ID,
    FIELD_MEDIUM,
    FIELD_LORA_NAME,
    FIELD_EXTRA_KEYS,
    FIELD_GROUP,
    FIELD_UNKNOWN
};

static const char *const field_names[FIELD_UNKNOWN] = {
    [FIELD_HASHES] = "block_hashes",   [FIELD_PARENT] = "parent_block_hash", [FIELD_TOKENS] = "token_ids",
    [FIELD_BLOCK_SIZE] = "block_size", [FIELD_LORA_ID] = "lora_id",          [FIELD_MEDIUM] = "medium",
    [FIELD_LORA_NAME] = "lora_name",   [FIELD_EXTRA_KEYS] = "extra_keys",    [FIELD_GROUP] = "group_idx",
};

static const enum field stored_fields[] = { FIELD_HASHES,     FIELD_PARENT,     FIELD_TOKENS,
                                            FIELD_BLOCK_SIZE, FIELD_LORA_ID,    FIELD_MEDIUM,
                                            FIELD_LORA_NAME,  FIELD_EXTRA_KEYS, FIELD_GROUP };
static const enum field removed_fields[] = { FIELD_HASHES, FIELD_MEDIUM, FIELD_GROUP };

static const struct kind {
    const char *name;
    const enum field *fields;
    uint32_t n_fields, n_required;
} kinds[] = {
    [KV_BLOCK_STORED] = { "BlockStored", stored_fields, sizeof stored_fields / sizeof stored_fields[0], 4 },
    [KV_BLOCK_REMOVED] = { "BlockRemoved", removed_fields, sizeof removed_fields / sizeof removed_fields[0], 1 },
    [KV_ALL_CLEARED] = { "AllBlocksCleared", NULL, 0, 0 },
};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

static bool is_text(const struct packed_item *item, const char *text)
{
    return item->type == PACKED_TEXT && item->count == strlen(text) && !memcmp(item->bytes, text, item->count);
}

void kv_batch_reader_init(struct kv_batch_reader *r)
{
    *r = (struct kv_batch_reader){ .rank = -1 };
}

void kv_batch_reader_free(struct kv_batch_reader *r)
{
    free(r->hashes);
    free(r->tokens);
    kv_batch_reader_init(r);
}

/* --- one event --- */

static status corrupt(struct error *err, const char *what)
{
    return error_set(err, ST_CORRUPT, "KV event: %s", what);
}

/* Room for n items; what was there is not kept. */
static status reserve(void *array, uint32_t *capacity, size_t item, uint32_t n)
{
    void **memory = array;
    if (n <= *capacity)
        return ST_OK;
    uint32_t larger = n < 256 ? 256 : n;
    free(*memory);
    *memory = malloc(larger * item);
    *capacity = *memory ? larger : 0;
    return *memory ? ST_OK : ST_NO_MEMORY;
}

static uint64_t big_endian(const uint8_t *p)
{
    return kv_sequence_read(p);
}

static bool hash_of(const struct packed_item *item, struct kv_event_hash *out)
{
    if (item->type == PACKED_UINT) {
        *out = (struct kv_event_hash){ item->uint, 0 };
        return true;
    }
    if (item->type == PACKED_INT) {
        *out = (struct kv_event_hash){ (uint64_t)item->sint, UINT64_MAX };
        return true;
    }
    if (item->type != PACKED_BYTES || !item->count || item->count > KV_HASH_LONGEST)
        return false;
    if (item->count == KV_HASH_BYTES) {
        *out = (struct kv_event_hash){ big_endian(item->bytes + 8), big_endian(item->bytes) };
        return true;
    }
    XXH128_hash_t h = XXH3_128bits(item->bytes, item->count);
    *out = (struct kv_event_hash){ h.low64, h.high64 };
    return true;
}

static status read_hashes(struct kv_batch_reader *r, uint32_t count, struct kv_event *out, struct error *err)
{
    if (count > KV_EVENT_MAX_HASHES)
        return error_set(err, ST_LIMIT, "KV event: %u block hashes, at most %u are read", count, KV_EVENT_MAX_HASHES);
    status st = reserve(&r->hashes, &r->hashes_capacity, sizeof *r->hashes, count);
    if (st != ST_OK)
        return st;
    for (uint32_t i = 0; i < count; i++) {
        struct packed_item item;
        if (!msgpack_reader_next(&r->events, &item) || !hash_of(&item, &r->hashes[i]))
            return corrupt(err, "a block hash is neither an integer nor a string of 1 to 64 bytes");
    }
    out->hashes = r->hashes;
    out->n_hashes = count;
    return ST_OK;
}

/* SGLang writes pairs where a drafter guesses: then there are no tokens that we could hash. */
static status read_tokens(struct kv_batch_reader *r, uint32_t count, struct kv_event *out, struct error *err)
{
    if (count > KV_EVENT_MAX_TOKENS)
        return error_set(err, ST_LIMIT, "KV event: %u token ids, at most %u are read", count, KV_EVENT_MAX_TOKENS);
    status st = reserve(&r->tokens, &r->tokens_capacity, sizeof *r->tokens, count);
    if (st != ST_OK)
        return st;
    bool plain = true;
    for (uint32_t i = 0; i < count; i++) {
        struct msgpack_reader before = r->events;
        struct packed_item item;
        if (!msgpack_reader_next(&r->events, &item))
            return corrupt(err, "the token ids are cut off");
        if (item.type == PACKED_UINT && item.uint <= UINT32_MAX) {
            r->tokens[i] = (uint32_t)item.uint;
            continue;
        }
        plain = false;
        r->events = before;
        if (!msgpack_reader_skip(&r->events))
            return corrupt(err, "the token ids are cut off");
    }
    out->tokens = r->tokens;
    out->n_tokens = plain ? count : 0;
    return ST_OK;
}

static enum kv_tier tier_of(const struct packed_item *item)
{
    static const struct {
        const char *medium;
        enum kv_tier tier;
    } known[] = {
#define X(name, medium) { medium, KV_TIER_##name },
        KV_TIERS(X)
#undef X
            { "CPU_TIER1", KV_TIER_HOST },
        { "CPU_TIER2", KV_TIER_DISK },
        { "SSD", KV_TIER_DISK },
        { "NVME", KV_TIER_DISK },
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (is_text(item, known[i].medium))
            return known[i].tier;
    return KV_TIER_COUNT;
}

/* Passes over an array of one entry a block; true where one says something. */
static bool read_extra_keys(struct msgpack_reader *events, uint32_t count, bool *any)
{
    for (uint32_t i = 0; i < count; i++) {
        struct msgpack_reader before = *events;
        struct packed_item item;
        if (!msgpack_reader_next(events, &item))
            return false;
        if (item.type == PACKED_NIL)
            continue;
        *any |= item.type != PACKED_ARRAY || item.count > 0;
        *events = before;
        if (!msgpack_reader_skip(events))
            return false;
    }
    return true;
}

static status read_array(struct kv_batch_reader *r, enum field field, uint32_t count, struct kv_event *out,
                         struct error *err)
{
    if (field == FIELD_HASHES)
        return read_hashes(r, count, out, err);
    if (field == FIELD_TOKENS)
        return read_tokens(r, count, out, err);
    if (!read_extra_keys(&r->events, count, &out->has_extra_keys))
        return corrupt(err, "the extra keys are cut off");
    return ST_OK;
}

static bool read_scalar(const struct packed_item *item, enum field field, struct kv_event *out)
{
    switch (field) {
    case FIELD_PARENT:
        out->has_parent = true;
        return hash_of(item, &out->parent);
    case FIELD_BLOCK_SIZE:
        out->block_size = (uint32_t)item->uint;
        return item->type == PACKED_UINT && item->uint && item->uint <= KV_EVENT_MAX_TOKENS;
    case FIELD_LORA_ID:
        out->has_adapter = true;
        return item->type == PACKED_UINT || item->type == PACKED_INT;
    case FIELD_MEDIUM:
        out->tier = tier_of(item);
        return item->type == PACKED_TEXT;
    case FIELD_LORA_NAME:
        out->has_adapter = true;
        out->adapter = (const char *)item->bytes;
        out->adapter_len = item->count;
        return item->type == PACKED_TEXT;
    default:
        out->has_group = true;
        out->group = item->uint;
        return item->type == PACKED_UINT;
    }
}

static bool is_array(enum field field)
{
    return field == FIELD_HASHES || field == FIELD_TOKENS || field == FIELD_EXTRA_KEYS;
}

static status read_field(struct kv_batch_reader *r, enum field field, struct kv_event *out, struct error *err)
{
    struct packed_item item;
    if (field == FIELD_UNKNOWN)
        return msgpack_reader_skip(&r->events) ? ST_OK : corrupt(err, "it is cut off");
    if (!msgpack_reader_next(&r->events, &item))
        return corrupt(err, "it is cut off");
    if (item.type == PACKED_NIL && field != FIELD_HASHES && field != FIELD_BLOCK_SIZE)
        return ST_OK;
    if (is_array(field) && item.type == PACKED_ARRAY)
        return read_array(r, field, item.count, out, err);
    if (!is_array(field) && read_scalar(&item, field, out))
        return ST_OK;
    return error_set(err, ST_CORRUPT, "KV event: %s has the wrong type", field_names[field]);
}

static bool kind_of(const struct packed_item *name, enum kv_event_kind *out)
{
    for (size_t i = 0; i < N_KINDS; i++)
        if (is_text(name, kinds[i].name)) {
            *out = (enum kv_event_kind)i;
            return true;
        }
    return false;
}

static status read_fields_in_order(struct kv_batch_reader *r, const struct kind *kind, uint32_t count,
                                   struct kv_event *out, struct error *err)
{
    if (count < kind->n_required)
        return error_set(err, ST_CORRUPT, "KV event: %s with %u fields", kind->name, count);
    for (uint32_t i = 0; i < count; i++) {
        status st = read_field(r, i < kind->n_fields ? kind->fields[i] : FIELD_UNKNOWN, out, err);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

static enum field field_named(const struct kind *kind, const struct packed_item *key)
{
    for (uint32_t i = 0; i < kind->n_fields; i++)
        if (is_text(key, field_names[kind->fields[i]]))
            return kind->fields[i];
    return FIELD_UNKNOWN;
}

static status read_fields_by_name(struct kv_batch_reader *r, const struct kind *kind, uint32_t count,
                                  struct kv_event *out, struct error *err)
{
    uint32_t seen = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct packed_item key;
        if (!msgpack_reader_next(&r->events, &key) || key.type != PACKED_TEXT)
            return corrupt(err, "the name of a field is no text");
        enum field field = field_named(kind, &key);
        status st = read_field(r, field, out, err);
        if (st != ST_OK)
            return st;
        seen |= 1u << field;
    }
    for (uint32_t i = 0; i < kind->n_required; i++)
        if (!(seen & 1u << kind->fields[i]))
            return error_set(err, ST_CORRUPT, "KV event: %s without %s", kind->name, field_names[kind->fields[i]]);
    return ST_OK;
}

/* The name of an event whose head was read; of a map without moving on. */
static bool read_name(struct msgpack_reader *events, const struct packed_item *head, struct packed_item *name)
{
    if (head->type == PACKED_ARRAY)
        return head->count && msgpack_reader_next(events, name);
    struct msgpack_reader at = *events;
    for (uint32_t i = 0; head->type == PACKED_MAP && i < head->count; i++) {
        struct packed_item key;
        if (!msgpack_reader_next(&at, &key) || key.type != PACKED_TEXT)
            return false;
        if (is_text(&key, "type"))
            return msgpack_reader_next(&at, name);
        if (!msgpack_reader_skip(&at))
            return false;
    }
    return false;
}

static status check_event(const struct kv_event *event, struct error *err)
{
    if (event->kind != KV_BLOCK_STORED || !event->n_tokens)
        return ST_OK;
    if ((uint64_t)event->n_hashes * event->block_size != event->n_tokens)
        return error_set(err, ST_CORRUPT, "KV event: %u token ids for %u blocks of %u", event->n_tokens,
                         event->n_hashes, event->block_size);
    return ST_OK;
}

status kv_batch_next(struct kv_batch_reader *r, struct kv_event *out, struct error *err)
{
    while (r->left) {
        struct msgpack_reader before = r->events;
        struct packed_item head, name;
        r->left--;
        if (!msgpack_reader_next(&r->events, &head) || !read_name(&r->events, &head, &name))
            return corrupt(err, "it has no name");
        *out = (struct kv_event){ .tier = KV_TIER_DEVICE };
        if (!kind_of(&name, &out->kind)) {
            r->n_unknown++;
            r->events = before;
            if (!msgpack_reader_skip(&r->events))
                return corrupt(err, "it is cut off");
            continue;
        }
        const struct kind *kind = &kinds[out->kind];
        status st = head.type == PACKED_ARRAY ? read_fields_in_order(r, kind, head.count - 1, out, err)
                                              : read_fields_by_name(r, kind, head.count, out, err);
        return st == ST_OK ? check_event(out, err) : st;
    }
    return ST_NOT_FOUND;
}

/* --- the batch around them --- */

enum batch_field { BATCH_TS, BATCH_EVENTS, BATCH_RANK, BATCH_UNKNOWN };

static enum batch_field batch_field_named(const struct packed_item *key)
{
    static const char *const names[] = {
        [BATCH_TS] = "ts", [BATCH_EVENTS] = "events", [BATCH_RANK] = "data_parallel_rank"
    };
    for (unsigned i = 0; i < BATCH_UNKNOWN; i++)
        if (is_text(key, names[i]))
            return (enum batch_field)i;
    return BATCH_UNKNOWN;
}

static bool read_events_head(struct kv_batch_reader *r, struct msgpack_reader *all)
{
    struct msgpack_reader before = *all;
    struct packed_item head;
    if (!msgpack_reader_next(all, &head) || head.type != PACKED_ARRAY)
        return false;
    r->events = *all;
    r->left = r->n_events = head.count;
    *all = before;
    return msgpack_reader_skip(all);
}

static bool read_batch_field(struct kv_batch_reader *r, enum batch_field field, struct msgpack_reader *all)
{
    struct packed_item item;
    if (field == BATCH_EVENTS)
        return read_events_head(r, all);
    if (field == BATCH_UNKNOWN)
        return msgpack_reader_skip(all);
    if (!msgpack_reader_next(all, &item))
        return false;
    if (field == BATCH_RANK) {
        r->rank = item.type == PACKED_UINT && item.uint <= INT64_MAX ? item.sint : -1;
        return item.type == PACKED_UINT || item.type == PACKED_NIL;
    }
    r->ts = item.type == PACKED_REAL ? item.real : (double)item.uint;
    return item.type == PACKED_REAL || item.type == PACKED_UINT;
}

static bool read_batch(struct kv_batch_reader *r, struct msgpack_reader *all)
{
    struct packed_item head;
    unsigned seen = 0;
    if (!msgpack_reader_next(all, &head) || (head.type != PACKED_ARRAY && head.type != PACKED_MAP))
        return false;
    for (uint32_t i = 0; i < head.count; i++) {
        enum batch_field field = i < BATCH_UNKNOWN ? (enum batch_field)i : BATCH_UNKNOWN;
        struct packed_item key;
        if (head.type == PACKED_MAP) {
            if (!msgpack_reader_next(all, &key) || key.type != PACKED_TEXT)
                return false;
            field = batch_field_named(&key);
        }
        if (!read_batch_field(r, field, all))
            return false;
        seen |= 1u << field;
    }
    return (seen & (1u << BATCH_TS | 1u << BATCH_EVENTS)) == (1u << BATCH_TS | 1u << BATCH_EVENTS) &&
           msgpack_reader_at_end(all);
}

static bool begins_with_clear(const struct kv_batch_reader *r)
{
    struct msgpack_reader events = r->events;
    struct packed_item head, name;
    enum kv_event_kind kind;
    return r->left && msgpack_reader_next(&events, &head) && read_name(&events, &head, &name) &&
           kind_of(&name, &kind) && kind == KV_ALL_CLEARED;
}

status kv_batch_open(struct kv_batch_reader *r, const uint8_t *data, size_t len, struct error *err)
{
    struct msgpack_reader all;
    if (len > KV_EVENTS_MAX_BATCH)
        return error_set(err, ST_LIMIT, "KV events: a batch of %zu bytes, at most %u are read", len,
                         KV_EVENTS_MAX_BATCH);
    msgpack_reader_init(&all, data, len);
    r->ts = 0;
    r->rank = -1;
    r->n_events = r->n_unknown = r->left = 0;
    if (!read_batch(r, &all)) {
        r->left = 0;
        return error_set(err, ST_CORRUPT, "KV events: a batch of %zu bytes is not [ts, [events], rank]", len);
    }
    r->clears = begins_with_clear(r);
    return ST_OK;
}

uint64_t kv_sequence_read(const uint8_t in[KV_SEQUENCE_BYTES])
{
    uint64_t v = 0;
    for (size_t i = 0; i < KV_SEQUENCE_BYTES; i++)
        v = v << 8 | in[i];
    return v;
}
