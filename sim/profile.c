#include "sim/profile.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/json_writer.h"
#include "sim/profile_forms.h"

/* ---- what it says ---------------------------------------------------------------------------------------- */

const struct profile_decode *profile_decode_of(const struct profile *p, uint32_t sequences)
{
    uint32_t i = 0;
    while (i + 1 < p->n_decode && sequences > p->decode[i].max_batch)
        i++;
    return &p->decode[i];
}

/* n tokens behind f others add (f + n)^2 - f^2 = 2 * attended - n to the sum of squares. */
double profile_step_us(const struct profile *p, uint64_t rows, uint64_t attended, uint32_t sequences, uint64_t context)
{
    double base = 0, us = 0;
    if (rows) {
        base = p->prefill_base_us;
        us += p->prefill_token_us * (double)rows;
        us += p->prefill_square_us * (2 * (double)attended - (double)rows);
    }
    if (sequences) {
        const struct profile_decode *d = profile_decode_of(p, sequences);
        base = fmax(base, d->base_us);
        us += d->context_us * (double)context + d->sequence_us * sequences;
    }
    return base + us;
}

static bool is_cost(double x)
{
    return isfinite(x) && x >= 0;
}

static bool decodes(const struct profile *p)
{
    for (uint32_t i = 0; i < p->n_decode; i++) {
        const struct profile_decode *d = &p->decode[i];
        if (!is_cost(d->base_us) || !is_cost(d->context_us) || !is_cost(d->sequence_us) ||
            d->base_us + d->sequence_us <= 0 || (i && d->max_batch <= p->decode[i - 1].max_batch))
            return false;
    }
    return p->n_decode > 0;
}

status profile_check(const struct profile *p, struct error *err)
{
    if (!is_cost(p->prefill_base_us) || !is_cost(p->prefill_token_us) || !is_cost(p->prefill_square_us) ||
        p->prefill_token_us + p->prefill_square_us <= 0)
        return error_set(err, ST_INVALID, "profile %s: prefill takes no time, or less than none", p->name);
    if (!decodes(p))
        return error_set(err, ST_INVALID,
                         "profile %s: a step that decodes takes no time, or the pieces are not in order of max_batch",
                         p->name);
    if (!(p->kv_token_bytes >= 1) || !isfinite(p->kv_token_bytes) || p->kv_tokens == 0 || p->kv_tokens > UINT32_MAX)
        return error_set(err, ST_INVALID, "profile %s: kv token_bytes and tokens must be known, tokens below 2^32",
                         p->name);
    if (!(p->link_bytes_per_s >= 1) || !isfinite(p->link_bytes_per_s) || !is_cost(p->link_latency_us) ||
        p->n_layers == 0)
        return error_set(err, ST_INVALID, "profile %s: link bytes_per_s, latency_us and layers must be known", p->name);
    return ST_OK;
}

/* ---- reading ----------------------------------------------------------------------------------------------- */

status profile_read(const char *text, size_t len, const char *name, const struct profile_choice *choice,
                    struct profile *out, struct error *err)
{
    struct profile p = { .n_layers = PROFILE_DEFAULT_LAYERS,
                         .link_bytes_per_s = PROFILE_DEFAULT_BYTES_PER_S,
                         .link_latency_us = PROFILE_DEFAULT_LATENCY_US };
    status st = len && text[0] == 'm' ? profile_read_splitwise(text, len, name, choice, &p, err)
                                      : profile_read_json(text, len, name, choice, &p, err);
    if (st == ST_OK)
        *out = p;
    return st;
}

static status read_file(const char *path, char **text, size_t *len, struct error *err)
{
    FILE *file = fopen(path, "r");
    if (!file)
        return error_set(err, ST_IO, "%s: %s", path, strerror(errno));
    *text = malloc(PROFILE_MAX_BYTES);
    *len = *text ? fread(*text, 1, PROFILE_MAX_BYTES, file) : 0;
    status st = !*text                      ? error_set(err, ST_NO_MEMORY, "%s: out of memory", path)
                : ferror(file)              ? error_set(err, ST_IO, "%s: %s", path, strerror(errno))
                : *len == PROFILE_MAX_BYTES ? error_set(err, ST_LIMIT, "%s: longer than %zu bytes, the longest profile",
                                                        path, PROFILE_MAX_BYTES)
                                            : ST_OK;
    (void)fclose(file);
    return st;
}

status profile_load(const char *path, const struct profile_choice *choice, struct profile *out, struct error *err)
{
    char *text = NULL;
    size_t len = 0;
    status st = read_file(path, &text, &len, err);
    if (st == ST_OK)
        st = profile_read(text, len, path, choice, out, err);
    free(text);
    return st;
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

static void write_decode(const struct profile *p, struct json_writer *w)
{
    json_write_key(w, "decode");
    json_write_array(w);
    for (uint32_t i = 0; i < p->n_decode; i++) {
        json_write_object(w);
        json_field_uint(w, "max_batch", p->decode[i].max_batch);
        json_field_real(w, "base_us", p->decode[i].base_us);
        json_field_real(w, "context_us", p->decode[i].context_us);
        json_field_real(w, "sequence_us", p->decode[i].sequence_us);
        json_write_end(w);
    }
    json_write_end(w);
}

void profile_write(const struct profile *p, struct text_buffer *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_write_object(&w);
    json_field_uint(&w, "baton_profile", PROFILE_VERSION);
    json_field_string(&w, "name", p->name);
    json_write_key(&w, "prefill");
    json_write_object(&w);
    json_field_real(&w, "base_us", p->prefill_base_us);
    json_field_real(&w, "token_us", p->prefill_token_us);
    json_field_real(&w, "square_us", p->prefill_square_us);
    json_write_end(&w);
    write_decode(p, &w);
    json_write_key(&w, "error");
    json_write_object(&w);
    json_field_real(&w, "prefill", p->prefill_error);
    json_field_real(&w, "decode", p->decode_error);
    json_write_end(&w);
    json_field_uint(&w, "layers", p->n_layers);
    json_write_key(&w, "kv");
    json_write_object(&w);
    json_field_real(&w, "token_bytes", p->kv_token_bytes);
    json_field_uint(&w, "tokens", p->kv_tokens);
    json_write_end(&w);
    json_write_key(&w, "link");
    json_write_object(&w);
    json_field_real(&w, "bytes_per_s", p->link_bytes_per_s);
    json_field_real(&w, "latency_us", p->link_latency_us);
    json_write_end(&w);
    json_write_end(&w);
}
