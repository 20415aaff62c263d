/* A request body from any bytes: refused with a complete error, or a request that keeps its
 * promises. The first byte says of which kind. */
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "router/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* From where tests and fuzzers are run, or BATON_MODEL. */
static const char *const places[] = { "models/baton-tiny", "../models/baton-tiny", "../../models/baton-tiny",
                                      "../../../models/baton-tiny", "../../../../models/baton-tiny" };

static struct models *open_model(void)
{
    struct models *models = NULL;
    struct error err;
    const char *given = getenv("BATON_MODEL");
    log_init("fuzz", LOG_OFF);
    if (given && models_open(given, true, &models, &err) == ST_OK)
        return models;
    for (size_t i = 0; !models && i < sizeof places / sizeof *places; i++)
        if (models_open(places[i], true, &models, &err) != ST_OK)
            models = NULL;
    ASSERT(models != NULL);
    return models;
}

static void check_error(const struct api_error *err)
{
    struct text_buffer body;
    text_buffer_init(&body, 65536);
    ASSERT(err->kind < API_ERROR_COUNT && err->text[0] && api_error_status(err) >= 400);
    api_error_write(err, &body);
    ASSERT(body.state == ST_OK);
    json_t *json = json_loadb(body.data, body.len, JSON_REJECT_DUPLICATES, NULL);
    ASSERT(json != NULL);
    json_decref(json);
    text_buffer_free(&body);
}

static void check_request(const struct request *r)
{
    struct api_error err;
    uint32_t most;
    ASSERT(r->n >= 1 && r->n_prompts >= 1 && r->n_prompts * r->n <= REQUEST_MAX_CHOICES);
    for (const char *c = r->ignored; *c; c++) /* goes into a header */
        ASSERT(*c >= 0x20 && *c < 0x7f);
    for (uint32_t i = 0; i < r->n_prompts; i++) {
        const struct request_prompt *p = &r->prompts[i];
        for (size_t k = 0; k < p->tokens.n; k++)
            ASSERT(p->tokens.ids[k] < r->model->n_vocab);
        if (r->kind > REQUEST_TEXT)
            continue;
        ASSERT(p->tokens.n > 0);
        if (request_fit(r, p, 4096, 0, &most, &err) == ST_OK) {
            struct sampling s = r->sampling;
            struct error why;
            s.max_tokens = most;
            ASSERT(p->tokens.n + most <= 4096);
            ASSERT(sampling_check(&s, r->model->n_vocab, &why) == ST_OK);
        } else {
            check_error(&err);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct models *models;
    if (!models)
        models = open_model();
    if (size == 0)
        return 0;
    const struct request_rules rules = { models, 16, (data[0] & 4) == 0, NULL };
    struct api_error err;
    struct request *r = NULL;
    enum request_kind kind = (enum request_kind)(1 << (data[0] & 3));
    if (request_read(&rules, kind, (const char *)data + 1, size - 1, &r, &err) == ST_OK)
        check_request(r);
    else
        check_error(&err);
    request_free(&r);
    return 0;
}
