/* A choice of a request to the built-in model, fed with tokens by hand. */
#ifndef BATON_TESTS_ANSWER_SAMPLE_H
#define BATON_TESTS_ANSWER_SAMPLE_H

#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "router/answer_write.h"

#define SAMPLE_CHAT(more) "{\"model\":\"baton-tiny\",\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]" more "}"
#define SAMPLE_TEXT(more) "{\"model\":\"baton-tiny\",\"prompt\":\"say \\\"a\\\"\"" more "}"

struct answer_sample {
    struct models *models;
    struct request *request;
    struct choice choice;
    struct text_buffer out; /* what a test lets be written */
};

static inline void sample_open(struct answer_sample *s, enum request_kind kind, const char *body)
{
    struct error err;
    struct api_error refusal;
    *s = (struct answer_sample){ .models = NULL };
    log_init("test", LOG_OFF);
    if (models_open(BATON_SOURCE_DIR "/models/baton-tiny", false, &s->models, &err) != ST_OK)
        fail_msg("%s", err.text);
    const struct request_rules rules = { s->models, 16, true, NULL };
    if (request_read(&rules, kind, body, strlen(body), &s->request, &refusal) != ST_OK)
        fail_msg("%s", refusal.text);
    assert_int_equal(choice_init(&s->choice, NULL, s->request, 0), ST_OK);
    text_buffer_init(&s->out, 1 << 20);
}

static inline void sample_close(struct answer_sample *s)
{
    text_buffer_free(&s->out);
    choice_free(&s->choice);
    request_free(&s->request);
    models_close(&s->models);
}

static inline uint32_t sample_id(const struct answer_sample *s, const char *token)
{
    uint32_t id = tokenizer_id(s->request->model->tokenizer, token, strlen(token));
    assert_int_not_equal(id, TOKENIZER_NONE);
    return id;
}

/* The next token of the answer, with n_top alternatives. */
static inline void sample_take(struct answer_sample *s, const char *token, float logprob,
                               const struct token_logprob *tops, uint32_t n_top)
{
    struct token_view view = { .record = { .id = sample_id(s, token), .logprob = logprob, .n_top = n_top } };
    if (n_top)
        memcpy(view.top, tops, n_top * sizeof *tops);
    assert_int_equal(choice_take(&s->choice, &view, &s->choice.text), ST_OK);
}

static inline void expect_out(struct answer_sample *s, const char *wanted)
{
    assert_int_equal(s->out.state, ST_OK);
    assert_string_equal(text_buffer_text(&s->out), wanted);
    text_buffer_clear(&s->out);
}

#endif
