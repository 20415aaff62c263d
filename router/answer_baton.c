#include "common/json_writer.h"
#include "router/answer_write.h"

/* null: it was not heard. */
static void write_ms(struct json_writer *w, const char *key, bool known, uint64_t us)
{
    json_write_key(w, key);
    if (known)
        json_write_real(w, (double)us / 1000.0);
    else
        json_write_null(w);
}

static void write_count(struct json_writer *w, const char *key, bool known, uint64_t n)
{
    json_write_key(w, key);
    if (known)
        json_write_uint(w, n);
    else
        json_write_null(w);
}

static void write_name(struct json_writer *w, const char *key, const char *text)
{
    json_write_key(w, key);
    if (text[0])
        json_write_string(w, text);
    else
        json_write_null(w);
}

static void write_cached(struct json_writer *w, bool known, const struct cached_tokens *cached)
{
    json_write_key(w, "cached_tokens");
    if (!known) {
        json_write_null(w);
        return;
    }
    json_write_object(w);
    for (int i = 0; i < KV_TIER_COUNT; i++)
        write_count(w, cached_tokens_tier((enum kv_tier)i), true, cached->by_tier[i]);
    json_write_end(w);
}

static uint64_t since(uint64_t end_us, uint64_t start_us)
{
    return end_us > start_us ? end_us - start_us : 0;
}

static void write_timing(struct json_writer *w, const struct choice_timing *t, uint64_t started_us)
{
    bool known = t->from_worker, begun = t->first_token_us != 0;
    json_write_key(w, "timing");
    json_write_object(w);
    write_ms(w, "route_ms", t->dispatched_us != 0, since(t->dispatched_us, started_us));
    write_ms(w, "queue_ms", known, t->queue_us);
    write_ms(w, "prefill_queue_ms", known, t->prefill_queue_us);
    write_ms(w, "prefill_ms", known, t->prefill_us);
    write_ms(w, "handoff_ms", known, t->handoff_us);
    write_ms(w, "first_token_ms", begun, since(t->first_token_us, started_us));
    write_ms(w, "decode_ms", begun, t->decode_us);
    write_ms(w, "total_ms", t->ended_us != 0, since(t->ended_us, started_us));
    write_count(w, "moved_bytes", known, t->moved_bytes);
    write_name(w, "transport", t->transport);
    write_name(w, "prefill_worker", t->prefill_worker);
    write_name(w, "decode_worker", t->decode_worker);
    write_count(w, "attempts", t->attempts != 0, t->attempts);
    write_count(w, "legs", known, t->legs);
    write_count(w, "computed_tokens", known, t->computed_tokens);
    write_cached(w, known, &t->cached);
    write_count(w, "preempted", known, t->preempted);
    json_write_end(w);
}

void answer_write_baton(const struct choice *c, uint64_t started_us, struct text_buffer *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_write_object(&w);
    write_name(&w, "route", c->timing.route);
    write_name(&w, "class", c->timing.class);
    if (c->request->want_timing)
        write_timing(&w, &c->timing, started_us);
    if (c->request->sampling.want_hash) {
        json_write_key(&w, "logits_hash");
        json_write_array(&w);
        if (c->hashes.len)
            json_write_raw(&w, c->hashes.data, c->hashes.len);
        json_write_end(&w);
    }
    json_write_end(&w);
}
