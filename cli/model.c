/* baton model - the models that are known by name, and what is inside a file. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/model_store.h"
#include "common/json_writer.h"
#include "engine/model.h"
#include "engine/model_config.h"
#include "engine/tokenizer.h"

#define OUTPUT_MAX_BYTES ((size_t)16 << 20)

static int print_page(struct text_buffer *page)
{
    bool ok = page->state == ST_OK && fwrite(page->data, 1, page->len, stdout) == page->len && fflush(stdout) == 0;
    text_buffer_free(page);
    return ok ? EXIT_DONE : EXIT_FAILED;
}

/* ---- list ------------------------------------------------------------------------ */

static void list_one(const struct known_model *model, struct json_writer *w, struct text_buffer *page)
{
    char path[PATH_MAX];
    enum model_condition condition = known_model_condition(model);
    if (known_model_path(model, path, sizeof path, NULL) != ST_OK)
        path[0] = '\0';
    if (!w) {
        text_buffer_printf(page, "%-12s %-8s %s\n%21s %s\n", model->name, model_condition_name(condition), model->about,
                           "", path);
        return;
    }
    json_write_object(w);
    json_field_string(w, "name", model->name);
    json_field_bool(w, "present", condition == MODEL_WHOLE);
    json_field_string(w, "condition", model_condition_name(condition));
    json_field_bool(w, "built_in", model->folder != NULL);
    json_field_string(w, "path", path);
    json_field_string(w, "about", model->about);
    json_write_end(w);
}

static int run_list(const struct command *self, int argc, char **argv)
{
    struct text_buffer page;
    struct json_writer w;
    bool as_json = false;
    int code;
    const struct option_row rows[] = { { "json", 0, OPTION_FLAG, &as_json, "", "One JSON object", 0, 0 } };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    text_buffer_init(&page, OUTPUT_MAX_BYTES);
    json_writer_init(&w, &page);
    if (as_json) {
        json_write_object(&w);
        json_write_key(&w, "models");
        json_write_array(&w);
    }
    for (size_t i = 0; i < n_known_models; i++)
        list_one(&known_models[i], as_json ? &w : NULL, &page);
    if (as_json) {
        json_write_end(&w);
        json_write_end(&w);
        text_buffer_char(&page, '\n');
    }
    return print_page(&page);
}

const struct command command_model_list = { "model list", "", "The models known by name, and where they are",
                                            run_list };

/* ---- inspect ------------------------------------------------------------------------ */

static void write_numbers(const struct model *m, struct json_writer *w)
{
    const struct model_config *c = model_config(m);
    json_field_string(w, "arch", model_arch_name(c->arch));
    json_field_uint(w, "layers", c->n_layers);
    json_field_uint(w, "width", c->n_embd);
    json_field_uint(w, "heads", c->n_heads);
    json_field_uint(w, "kv_heads", c->n_kv_heads);
    json_field_uint(w, "head_dim", c->head_dim);
    json_field_uint(w, "ffn", c->n_ffn);
    json_field_uint(w, "vocab", c->n_vocab);
    json_field_uint(w, "max_positions", c->max_positions);
    json_field_real(w, "rope_theta", (double)c->rope.theta);
    json_field_real(w, "rms_eps", (double)c->rms_eps);
    json_field_bool(w, "qk_norm", c->qk_norm);
    json_field_bool(w, "tied_embeddings", c->tied_embeddings);
    json_field_bool(w, "chat_template", model_chat_template(m) != NULL);
    json_field_uint(w, "tokens", tokenizer_vocab_size(model_tokenizer(m)));
}

static uint64_t tensor_values(const struct tensor *t)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->n_dims; i++)
        n *= t->shape[i];
    return n;
}

static void write_tensors(const struct model *m, struct json_writer *w)
{
    json_write_key(w, "tensors");
    json_write_array(w);
    for (uint64_t i = 0; i < model_tensor_count(m); i++) {
        const struct tensor *t = model_tensor_at(m, i);
        json_write_object(w);
        json_field_string(w, "name", t->name);
        json_field_string(w, "type", dtype_name(t->type));
        json_write_key(w, "shape");
        json_write_array(w);
        for (uint32_t d = 0; d < t->n_dims; d++)
            json_write_uint(w, t->shape[d]);
        json_write_end(w);
        json_field_uint(w, "bytes", t->bytes);
        json_write_end(w);
    }
    json_write_end(w);
}

static void write_json(const struct model *m, const char *path, uint64_t parameters, uint64_t bytes,
                       struct text_buffer *page)
{
    struct json_writer w;
    char fingerprint[17];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, model_fingerprint(m));
    json_writer_init(&w, page);
    json_write_object(&w);
    json_field_string(&w, "name", model_name(m));
    json_field_string(&w, "path", path);
    json_field_string(&w, "fingerprint", fingerprint);
    json_field_uint(&w, "parameters", parameters);
    json_field_uint(&w, "tensor_bytes", bytes);
    write_numbers(m, &w);
    write_tensors(m, &w);
    json_write_end(&w);
    text_buffer_char(page, '\n');
}

static void write_page(const struct model *m, const char *path, uint64_t parameters, uint64_t bytes,
                       struct text_buffer *page)
{
    const struct model_config *c = model_config(m);
    text_buffer_printf(page, "%s\n  file        %s\n  fingerprint %016" PRIx64 "\n", model_name(m), path,
                       model_fingerprint(m));
    text_buffer_printf(page, "  network     %s, %u layers, %u wide, %u heads (%u KV) of %u, FFN %u\n",
                       model_arch_name(c->arch), c->n_layers, c->n_embd, c->n_heads, c->n_kv_heads, c->head_dim,
                       c->n_ffn);
    text_buffer_printf(page, "  parameters  %.1f M in %.1f MB, embeddings %s\n", (double)parameters / 1e6,
                       (double)bytes / 1e6, c->tied_embeddings ? "tied" : "not tied");
    text_buffer_printf(page, "  context     %u tokens\n  vocabulary  %u tokens\n  template    %s\n\n", c->max_positions,
                       tokenizer_vocab_size(model_tokenizer(m)), model_chat_template(m) ? "yes" : "none");
    for (uint64_t i = 0; i < model_tensor_count(m); i++) {
        const struct tensor *t = model_tensor_at(m, i);
        text_buffer_printf(page, "  %-44s %-5s", t->name, dtype_name(t->type));
        for (uint32_t d = 0; d < t->n_dims; d++)
            text_buffer_printf(page, "%s%" PRIu64, d ? " x " : " ", t->shape[d]);
        text_buffer_char(page, '\n');
    }
}

static int inspect(const struct command *self, const char *path, bool as_json)
{
    struct model *m = NULL;
    struct error err;
    struct text_buffer page;
    uint64_t parameters = 0, bytes = 0;
    if (model_open(path, MODEL_WEIGHTS, &m, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    for (uint64_t i = 0; i < model_tensor_count(m); i++) {
        parameters += tensor_values(model_tensor_at(m, i));
        bytes += model_tensor_at(m, i)->bytes;
    }
    text_buffer_init(&page, OUTPUT_MAX_BYTES);
    if (as_json)
        write_json(m, path, parameters, bytes, &page);
    else
        write_page(m, path, parameters, bytes, &page);
    model_close(&m);
    return print_page(&page);
}

static int run_inspect(const struct command *self, int argc, char **argv)
{
    struct arguments arguments;
    struct error err;
    char path[PATH_MAX];
    bool as_json = false, known;
    int code;
    const struct option_row rows[] = { { "json", 0, OPTION_FLAG, &as_json, "", "One JSON object", 0, 0 } };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), &arguments, &code))
        return code;
    if (arguments.n != 1)
        return command_misuse(self, "it takes one file, folder or known name");
    if (model_store_resolve(arguments.items[0], path, sizeof path, &known, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    return inspect(self, path, as_json);
}

const struct command command_model_inspect = { "model inspect", "PATH|NAME", "What is inside a model file",
                                               run_inspect };

/* ---- the group ---------------------------------------------------------------------------- */

static int run(const struct command *self, int argc, char **argv)
{
    static const struct command *const commands[] = { &command_model_list,    &command_model_fetch,
                                                      &command_model_inspect, &command_model_quantize,
                                                      &command_model_score,   &command_model_gc,
                                                      NULL };
    (void)self;
    return command_dispatch("baton model", commands, argc, argv);
}

const struct command command_model = { "model", "list|fetch|inspect|quantize|score|gc",
                                       "Models: list, fetch, inspect, quantize, score; free what is held of them", run };
