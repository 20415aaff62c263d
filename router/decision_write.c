#include <stdio.h>

#include "common/json_writer.h"
#include "router/decision.h"
#include "router/decision_members.h"

#define LARGEST INT64_MAX /* of a whole number that any reader of JSON takes */

/* Of a long list: how many are kept beside those that the policy chose. */
#define MOST_KEPT 128u

const char *decision_part_name(enum decision_part part)
{
    static const char *const names[] = {
#define X(name, text) text,
        DECISION_PARTS(X)
#undef X
    };
    return (unsigned)part < DECISION_PART_COUNT ? names[part] : "?";
}

double decision_error(uint64_t predicted_us, uint64_t us)
{
    uint64_t far = predicted_us > us ? predicted_us - us : us - predicted_us;
    return (double)far / (double)(us > DECISION_LEAST_US ? us : DECISION_LEAST_US);
}

static void write_count(struct json_writer *w, const char *key, uint64_t n)
{
    json_field_uint(w, key, n < LARGEST ? n : LARGEST);
}

static void write_float(struct json_writer *w, float v)
{
    json_write_float(w, v);
}

static void write_line(struct json_writer *w, const struct pick_line *line)
{
    json_write_array(w);
    write_float(w, line->base);
    write_float(w, line->byte);
    json_write_end(w);
}

static void write_lines(struct json_writer *w, const char *key, const struct pick_line *lines, int n)
{
    json_write_key(w, key);
    json_write_array(w);
    for (int i = 0; i < n; i++)
        write_line(w, &lines[i]);
    json_write_end(w);
}

static void write_rates(struct json_writer *w, const struct pick_rates *r)
{
    json_write_key(w, "prefill_us");
    json_write_array(w);
    write_float(w, r->prefill_base);
    write_float(w, r->prefill_token);
    write_float(w, r->prefill_pair);
    json_write_end(w);
    json_write_key(w, "queue_us");
    write_float(w, r->queue);
    json_write_key(w, "step_us");
    write_float(w, r->step);
    write_lines(w, "handoff_us", r->handoff, 2);
    write_lines(w, "pull_us", r->pull, KV_TIER_COUNT);
}

static void write_tiers(struct json_writer *w, const char *key, const uint32_t tokens[KV_TIER_COUNT])
{
    json_write_key(w, key);
    json_write_array(w);
    for (int tier = 0; tier < KV_TIER_COUNT; tier++)
        json_write_uint(w, tokens[tier]);
    json_write_end(w);
}

static void write_candidate(struct json_writer *w, const char *id, const struct pick_candidate *c)
{
    json_write_object(w);
    json_field_string(w, "id", id);
    json_field_bool(w, "usable", c->usable);
#define X(name) write_count(w, #name, c->name);
    CANDIDATE_NARROW(X)
    CANDIDATE_WIDE(X)
#undef X
    write_tiers(w, "cached", c->cached);
    json_write_key(w, "token_bytes");
    write_float(w, c->token_bytes);
    write_rates(w, &c->rates);
    json_write_end(w);
}

/* ---- which candidates -------------------------------------------------------------------- */

struct kept {
    uint32_t at[MOST_KEPT + PICK_MAX_RANKED];
    uint32_t n;
};

static void keep(struct kept *kept, uint32_t index)
{
    for (uint32_t i = 0; i < kept->n; i++)
        if (kept->at[i] == index)
            return;
    kept->at[kept->n++] = index;
}

static void keep_chosen(const struct decision *d, bool decodes, struct kept *kept)
{
    kept->n = pick_finalists(d->input, decodes, kept->at, MOST_KEPT);
    if (decodes && d->choice->decode != PICK_NONE)
        keep(kept, d->choice->decode);
    for (uint32_t i = 0; !decodes && i < d->choice->n_prefills; i++)
        keep(kept, d->choice->prefills[i]);
}

static bool is_whole(const struct pick_input *in)
{
    return in->n_decodes <= DECISION_WHOLE && in->n_prefills <= DECISION_WHOLE;
}

static void write_side(struct json_writer *w, const struct decision *d, bool decodes)
{
    const struct pick_candidate *at = decodes ? d->input->decodes : d->input->prefills;
    uint32_t n = decodes ? d->input->n_decodes : d->input->n_prefills;
    struct kept kept;
    json_write_key(w, decodes ? "decodes" : "prefills");
    json_write_array(w);
    if (is_whole(d->input)) {
        for (uint32_t i = 0; i < n; i++)
            write_candidate(w, d->id(d->ctx, decodes, i), &at[i]);
    } else {
        keep_chosen(d, decodes, &kept);
        for (uint32_t i = 0; i < kept.n; i++)
            write_candidate(w, d->id(d->ctx, decodes, kept.at[i]), &at[kept.at[i]]);
    }
    json_write_end(w);
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void write_key(struct json_writer *w, uint64_t time_us, struct request_key key, uint32_t attempt)
{
    char request[DECISION_REQUEST_BYTES];
    snprintf(request, sizeof request, "%llx.%llx", (unsigned long long)key.router, (unsigned long long)key.seq);
    json_field_uint(w, "time_us", time_us);
    json_field_string(w, "request", request);
    json_field_uint(w, "attempt", attempt);
}

static void write_request(struct json_writer *w, const struct pick_request *r)
{
    json_field_string(w, "asked", pick_route_name(r->asked));
#define X(name) write_count(w, #name, r->name);
    REQUEST_NARROW(X)
    REQUEST_WIDE(X)
#undef X
}

static void write_predicted(struct json_writer *w, const struct pick_parts *p)
{
    json_write_key(w, "predicted");
    json_write_object(w);
#define X(name) write_count(w, #name, p->name);
    PARTS_WIDE(X)
    PARTS_NARROW(X)
#undef X
    json_field_string(w, "source", kv_tier_medium(p->source));
    json_write_end(w);
}

static void write_choice(struct json_writer *w, const struct decision *d)
{
    const struct pick_choice *c = d->choice;
    json_write_key(w, "choice");
    json_write_object(w);
    json_write_key(w, "decode");
    if (c->decode == PICK_NONE)
        json_write_null(w);
    else
        json_write_string(w, d->id(d->ctx, true, c->decode));
    json_field_string(w, "route", pick_route_name(c->route));
    json_write_key(w, "prefills");
    json_write_array(w);
    for (uint32_t i = 0; i < c->n_prefills; i++)
        json_write_string(w, d->id(d->ctx, false, c->prefills[i]));
    json_write_end(w);
    json_write_end(w);
    write_predicted(w, &c->predicted);
}

void decision_write(const struct decision *d, struct text_buffer *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_write_object(&w);
    json_field_int(&w, "decision", DECISION_VERSION);
    write_key(&w, d->time_us, d->key, d->attempt);
    json_field_string(&w, "policy", pick_policy_name(d->input->policy));
    write_request(&w, &d->input->request);
    write_choice(&w, d);
    json_field_bool(&w, "whole", is_whole(d->input));
    json_field_uint(&w, "decode_places", d->input->decode_places);
    json_field_uint(&w, "prefill_places", d->input->prefill_places);
    write_side(&w, d, true);
    write_side(&w, d, false);
    json_write_end(&w);
}

static void write_parts(struct json_writer *w, const struct decision_outcome *o)
{
    for (int i = 0; i < DECISION_PART_COUNT; i++) {
        if (!o->has[i])
            continue;
        json_write_key(w, decision_part_name((enum decision_part)i));
        json_write_object(w);
        write_count(w, "predicted_us", o->predicted_us[i]);
        write_count(w, "us", o->us[i]);
        json_field_real(w, "error", o->error[i]);
        json_write_end(w);
    }
}

void decision_write_outcome(const struct decision_outcome *o, struct text_buffer *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_write_object(&w);
    json_field_int(&w, "outcome", DECISION_VERSION);
    write_key(&w, o->time_us, o->key, o->attempt);
    json_field_string(&w, "route", o->route);
    json_field_string(&w, "prefill_worker", o->prefill_worker);
    json_field_string(&w, "decode_worker", o->decode_worker);
    json_field_uint(&w, "computed", o->computed);
    write_tiers(&w, "cached", o->cached);
    json_write_key(&w, "parts");
    json_write_object(&w);
    write_parts(&w, o);
    json_write_end(&w);
    json_write_end(&w);
}
