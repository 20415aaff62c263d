#include <math.h>
#include <string.h>

#include "common/json_writer.h"
#include "common/utf8.h"
#include "router/answer_write.h"

/* What OpenAI writes for "very unlikely": JSON has no infinity. */
#define NO_LOGPROB (-9999.0f)

static float writable(float logprob)
{
    return isfinite(logprob) ? logprob : NO_LOGPROB;
}

/* ---- chat ------------------------------------------------------------------------ */

static void write_entry(struct json_writer *w, const struct tokenizer *tok, uint32_t id, float logprob)
{
    size_t len;
    const char *bytes = tokenizer_bytes(tok, id, &len);
    json_write_key(w, "token");
    json_write_bytes(w, bytes, len);
    json_write_key(w, "logprob");
    json_write_float(w, writable(logprob));
    json_write_key(w, "bytes");
    json_write_array(w);
    for (size_t i = 0; i < len; i++)
        json_write_uint(w, (unsigned char)bytes[i]);
    json_write_end(w);
}

static void write_chat(const struct choice *c, uint32_t n, struct json_writer *w)
{
    const struct tokenizer *tok = c->request->model->tokenizer;
    json_write_key(w, "content");
    json_write_array(w);
    for (uint32_t i = 0; i < n; i++) {
        const struct token_logprob *tops;
        const struct token_record *t = token_queue_at(&c->scored, i, &tops);
        json_write_object(w);
        write_entry(w, tok, t->id, t->logprob);
        json_write_key(w, "top_logprobs");
        json_write_array(w);
        for (uint32_t k = 0; k < t->n_top; k++) {
            json_write_object(w);
            write_entry(w, tok, tops[k].id, tops[k].logprob);
            json_write_end(w);
        }
        json_write_end(w);
        json_write_end(w);
    }
    json_write_end(w);
    json_write_key(w, "refusal");
    json_write_null(w);
}

/* ---- completions ------------------------------------------------------------------- */

/* A token's name: its text, or "bytes:\xe2\x80" where it is a part of characters. Tokens are
 * keys here, so different ones must not look alike. */
static void name_token(const struct tokenizer *tok, uint32_t id, struct text_buffer *out)
{
    size_t len;
    const char *bytes = tokenizer_bytes(tok, id, &len);
    text_buffer_clear(out);
    if (utf8_valid_prefix(bytes, len) == len) {
        text_buffer_append(out, bytes, len);
        return;
    }
    text_buffer_add(out, "bytes:");
    for (size_t i = 0; i < len; i++)
        text_buffer_printf(out, "\\x%02x", (unsigned char)bytes[i]);
}

static bool same_bytes(const struct tokenizer *tok, uint32_t a, uint32_t b)
{
    size_t a_len, b_len;
    const char *a_bytes = tokenizer_bytes(tok, a, &a_len), *b_bytes = tokenizer_bytes(tok, b, &b_len);
    return a_len == b_len && !memcmp(a_bytes, b_bytes, a_len);
}

/* The likeliest, and the chosen one where it is not among them. */
static void write_tops(const struct tokenizer *tok, const struct token_record *t, const struct token_logprob *tops,
                       struct text_buffer *name, struct json_writer *w)
{
    bool chosen = false;
    json_write_object(w);
    for (uint32_t k = 0; k < t->n_top; k++) {
        bool twice = false;
        for (uint32_t j = 0; j < k && !twice; j++)
            twice = same_bytes(tok, tops[j].id, tops[k].id);
        if (twice)
            continue;
        chosen = chosen || same_bytes(tok, tops[k].id, t->id);
        name_token(tok, tops[k].id, name);
        json_write_key(w, text_buffer_text(name));
        json_write_float(w, writable(tops[k].logprob));
    }
    if (!chosen) {
        name_token(tok, t->id, name);
        json_write_key(w, text_buffer_text(name));
        json_write_float(w, writable(t->logprob));
    }
    json_write_end(w);
}

static void write_text(const struct choice *c, uint32_t n, struct json_writer *w)
{
    const struct tokenizer *tok = c->request->model->tokenizer;
    const struct token_logprob *tops;
    struct text_buffer name;
    text_buffer_init(&name, 8 * TOKENIZER_MAX_TOKEN_BYTES);
    json_write_key(w, "tokens");
    json_write_array(w);
    for (uint32_t i = 0; i < n; i++) {
        name_token(tok, token_queue_at(&c->scored, i, &tops)->id, &name);
        json_write_bytes(w, text_buffer_text(&name), name.len);
    }
    json_write_end(w);
    json_write_key(w, "token_logprobs");
    json_write_array(w);
    for (uint32_t i = 0; i < n; i++)
        json_write_float(w, writable(token_queue_at(&c->scored, i, &tops)->logprob));
    json_write_end(w);
    json_write_key(w, "top_logprobs");
    json_write_array(w);
    for (uint32_t i = 0; i < n; i++) {
        const struct token_record *t = token_queue_at(&c->scored, i, &tops);
        write_tops(tok, t, tops, &name, w);
    }
    json_write_end(w);
    json_write_key(w, "text_offset");
    json_write_array(w);
    for (uint32_t i = 0; i < n; i++)
        json_write_uint(w, token_queue_at(&c->scored, i, &tops)->chars);
    json_write_end(w);
    text_buffer_free(&name);
}

void answer_write_logprobs(const struct choice *c, uint32_t n, struct text_buffer *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_write_object(&w);
    if (c->request->kind == REQUEST_CHAT)
        write_chat(c, n, &w);
    else
        write_text(c, n, &w);
    json_write_end(&w);
}
