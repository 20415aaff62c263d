#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "router/decision.h"
#include "router/decision_members.h"

/* The first thing that is wrong; once one is, the rest reads zeros. */
struct reader {
    struct error *err;
    bool failed;
};

static void fail(struct reader *r, const char *key, const char *wanted)
{
    if (!r->failed)
        (void)error_set(r->err, ST_INVALID, "member \"%s\" is missing, or is no %s", key, wanted);
    r->failed = true;
}

static uint64_t read_count(struct reader *r, const json_t *object, const char *key, uint64_t most)
{
    const json_t *v = json_object_get(object, key);
    if (json_is_integer(v) && json_integer_value(v) >= 0 && (uint64_t)json_integer_value(v) <= most)
        return (uint64_t)json_integer_value(v);
    fail(r, key, most == UINT32_MAX ? "whole number below 2^32" : "whole number");
    return 0;
}

static uint32_t read_narrow(struct reader *r, const json_t *object, const char *key)
{
    return (uint32_t)read_count(r, object, key, UINT32_MAX);
}

static const char *read_text(struct reader *r, const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    if (!text)
        fail(r, key, "string");
    return text ? text : "";
}

static bool read_bool(struct reader *r, const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    if (!json_is_boolean(v))
        fail(r, key, "true or false");
    return json_is_true(v);
}

/* Times and sizes: finite and not negative. */
static float float_of(struct reader *r, const json_t *v, const char *key)
{
    double value = json_number_value(v);
    if (json_is_number(v) && value >= 0 && value <= 1e30)
        return (float)value;
    fail(r, key, "number that is finite and not negative");
    return 0;
}

static const json_t *read_array(struct reader *r, const json_t *object, const char *key, size_t n)
{
    const json_t *v = json_object_get(object, key);
    char wanted[64];
    if (json_is_array(v) && json_array_size(v) == n)
        return v;
    snprintf(wanted, sizeof wanted, "array of %zu", n);
    fail(r, key, wanted);
    return NULL;
}

static void read_line(struct reader *r, const json_t *pair, const char *key, struct pick_line *out)
{
    if (!json_is_array(pair) || json_array_size(pair) != 2) {
        fail(r, key, "list of pairs");
        return;
    }
    out->base = float_of(r, json_array_get(pair, 0), key);
    out->byte = float_of(r, json_array_get(pair, 1), key);
}

static void read_lines(struct reader *r, const json_t *object, const char *key, struct pick_line *out, size_t n)
{
    const json_t *array = read_array(r, object, key, n);
    for (size_t i = 0; array && i < n; i++)
        read_line(r, json_array_get(array, i), key, &out[i]);
}

static void read_rates(struct reader *r, const json_t *object, struct pick_rates *out)
{
    const json_t *prefill = read_array(r, object, "prefill_us", 3);
    float *const terms[] = { &out->prefill_base, &out->prefill_token, &out->prefill_pair };
    for (size_t i = 0; prefill && i < 3; i++)
        *terms[i] = float_of(r, json_array_get(prefill, i), "prefill_us");
    out->queue = float_of(r, json_object_get(object, "queue_us"), "queue_us");
    out->step = float_of(r, json_object_get(object, "step_us"), "step_us");
    read_lines(r, object, "handoff_us", out->handoff, 2);
    read_lines(r, object, "pull_us", out->pull, KV_TIER_COUNT);
}

static void read_tiers(struct reader *r, const json_t *object, uint32_t out[KV_TIER_COUNT])
{
    const json_t *array = read_array(r, object, "cached", KV_TIER_COUNT);
    for (size_t i = 0; array && i < KV_TIER_COUNT; i++) {
        const json_t *v = json_array_get(array, i);
        if (json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) <= (json_int_t)UINT32_MAX)
            out[i] = (uint32_t)json_integer_value(v);
        else
            fail(r, "cached", "list of whole numbers");
    }
}

static void read_candidate(struct reader *r, const json_t *object, struct pick_candidate *out,
                           char id[DECISION_ID_BYTES])
{
    const char *text = read_text(r, object, "id");
    if (strlen(text) >= DECISION_ID_BYTES)
        fail(r, "id", "string of less than 64 bytes");
    snprintf(id, DECISION_ID_BYTES, "%s", text);
    out->usable = read_bool(r, object, "usable");
#define X(name) out->name = read_narrow(r, object, #name);
    CANDIDATE_NARROW(X)
#undef X
#define X(name) out->name = read_count(r, object, #name, INT64_MAX);
    CANDIDATE_WIDE(X)
#undef X
    read_tiers(r, object, out->cached);
    out->token_bytes = float_of(r, json_object_get(object, "token_bytes"), "token_bytes");
    read_rates(r, object, &out->rates);
}

struct side {
    struct pick_candidate *at;
    char (*ids)[DECISION_ID_BYTES];
    uint32_t n;
};

static status read_side(struct reader *r, const json_t *root, const char *key, uint32_t places, struct side *out)
{
    const json_t *array = json_object_get(root, key);
    size_t n = json_array_size(array);
    if (!json_is_array(array) || n > DECISION_MAX_CANDIDATES)
        fail(r, key, "array of at most 4096 workers");
    if (r->failed)
        return ST_INVALID;
    out->at = calloc(n ? n : 1, sizeof *out->at);
    out->ids = calloc(n ? n : 1, sizeof *out->ids);
    if (!out->at || !out->ids)
        return error_set(r->err, ST_NO_MEMORY, "no memory for %zu workers", n);
    for (size_t i = 0; i < n; i++) {
        read_candidate(r, json_array_get(array, i), &out->at[i], out->ids[i]);
        if (!r->failed && out->at[i].place >= places)
            fail(r, "place", "place in the list");
    }
    out->n = (uint32_t)n;
    return r->failed ? ST_INVALID : ST_OK;
}

static uint32_t index_of(const char *id, char (*const ids)[DECISION_ID_BYTES], uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(ids[i], id))
            return i;
    return PICK_NONE;
}

static void read_predicted(struct reader *r, const json_t *root, struct pick_parts *out)
{
    const json_t *object = json_object_get(root, "predicted");
#define X(name) out->name = read_count(r, object, #name, INT64_MAX);
    PARTS_WIDE(X)
#undef X
#define X(name) out->name = read_narrow(r, object, #name);
    PARTS_NARROW(X)
#undef X
}

static void read_choice(struct reader *r, const json_t *root, struct decision_line *line)
{
    const json_t *choice = json_object_get(root, "choice"), *prefills = json_object_get(choice, "prefills");
    struct pick_choice *c = &line->choice;
    size_t n = json_array_size(prefills);
    c->decode = PICK_NONE;
    if (!json_is_null(json_object_get(choice, "decode"))) {
        c->decode = index_of(read_text(r, choice, "decode"), line->decode_ids, line->input.n_decodes);
        if (c->decode == PICK_NONE)
            fail(r, "decode", "id of one of decodes");
    }
    if (!pick_route_find(read_text(r, choice, "route"), &c->route))
        fail(r, "route", "auto, local or remote");
    if (!json_is_array(prefills) || n > PICK_MAX_RANKED)
        fail(r, "prefills", "array of at most 8 ids");
    for (size_t i = 0; !r->failed && i < n; i++) {
        const char *id = json_string_value(json_array_get(prefills, i));
        c->prefills[i] = id ? index_of(id, line->prefill_ids, line->input.n_prefills) : PICK_NONE;
        if (c->prefills[i] == PICK_NONE)
            fail(r, "prefills", "array of ids of prefills");
    }
    c->n_prefills = (uint32_t)n;
    read_predicted(r, root, &c->predicted);
}

static status read_decision(struct reader *r, const json_t *root, struct decision_line *line)
{
    struct pick_input *in = &line->input;
    struct side decodes = { 0 }, prefills = { 0 };
    if (!pick_policy_find(read_text(r, root, "policy"), &in->policy))
        fail(r, "policy", "policy's name");
    if (!pick_route_find(read_text(r, root, "asked"), &in->request.asked))
        fail(r, "asked", "auto, local or remote");
#define X(name) in->request.name = read_narrow(r, root, #name);
    REQUEST_NARROW(X)
#undef X
#define X(name) in->request.name = read_count(r, root, #name, INT64_MAX);
    REQUEST_WIDE(X)
#undef X
    line->is_whole = read_bool(r, root, "whole");
    in->decode_places = read_narrow(r, root, "decode_places");
    in->prefill_places = read_narrow(r, root, "prefill_places");
    status st = read_side(r, root, "decodes", in->decode_places, &decodes);
    if (st == ST_OK)
        st = read_side(r, root, "prefills", in->prefill_places, &prefills);
    line->decodes = decodes.at;
    line->prefills = prefills.at;
    line->decode_ids = decodes.ids;
    line->prefill_ids = prefills.ids;
    in->decodes = decodes.at;
    in->prefills = prefills.at;
    in->n_decodes = decodes.n;
    in->n_prefills = prefills.n;
    if (st == ST_OK)
        read_choice(r, root, line);
    return st;
}

static void read_outcome(struct reader *r, const json_t *root, struct decision_line *line)
{
    const json_t *parts = json_object_get(root, "parts");
    if (!json_is_object(parts))
        fail(r, "parts", "object");
    for (int i = 0; i < DECISION_PART_COUNT; i++) {
        const json_t *part = json_object_get(parts, decision_part_name((enum decision_part)i));
        line->has[i] = part != NULL;
        if (part)
            line->error[i] = (double)float_of(r, json_object_get(part, "error"), "error");
    }
}

static status read_root(const json_t *root, struct decision_line *line, struct error *err)
{
    struct reader r = { err, false };
    status st = ST_OK;
    line->is_outcome = json_object_get(root, "outcome") != NULL;
    const char *kind = line->is_outcome ? "outcome" : "decision";
    if (read_count(&r, root, kind, INT64_MAX) != DECISION_VERSION)
        fail(&r, kind, "version that is known (1)");
    snprintf(line->request, sizeof line->request, "%s", read_text(&r, root, "request"));
    line->attempt = read_narrow(&r, root, "attempt");
    if (line->is_outcome)
        read_outcome(&r, root, line);
    else
        st = read_decision(&r, root, line);
    return r.failed ? ST_INVALID : st;
}

status decision_read(const char *text, size_t len, struct decision_line **out, struct error *err)
{
    json_error_t why;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return error_set(err, ST_INVALID, "the line is no JSON: %s", why.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(err, ST_INVALID, "the line is no JSON object");
    }
    struct decision_line *line = calloc(1, sizeof *line);
    status st = line ? read_root(root, line, err) : error_set(err, ST_NO_MEMORY, "no memory");
    json_decref(root);
    if (st == ST_OK)
        *out = line;
    else
        decision_line_free(&line);
    return st;
}

void decision_line_free(struct decision_line **line)
{
    if (!*line)
        return;
    free((*line)->decodes);
    free((*line)->prefills);
    free((*line)->decode_ids);
    free((*line)->prefill_ids);
    free(*line);
    *line = NULL;
}
