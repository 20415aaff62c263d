/* baton model inspect - what is inside a model, and what a worker needs to serve it. */
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>

#include "cli/command.h"
#include "cli/model_store.h"
#include "common/json_writer.h"
#include "engine/engine_memory.h"
#include "engine/model.h"
#include "engine/model_config.h"
#include "engine/tokenizer.h"

#define OUTPUT_MAX_BYTES ((size_t)64 << 20)
/* A worker's defaults (worker/config.def). */
#define STEP_TOKENS      512
#define MAX_SEQS         32
#define BLOCK_TOKENS     16
#define KV_TOKENS        1000u

struct inspection {
    const struct model *model;
    const char *path;
    bool list_tensors;
    struct engine_options worker;
    struct engine_memory memory;
    uint64_t values, bytes; /* of all tensors */
    struct {
        uint64_t n, values, bytes;
    } types[DTYPE_COUNT];
};

static const struct {
    const char *name;
    enum dtype type;
} kv_types[] = { { "f32", DTYPE_F32 }, { "bf16", DTYPE_BF16 }, { "f16", DTYPE_F16 }, { "int8", DTYPE_INT8 } };

static uint64_t kv_bytes(const struct inspection *in, size_t i)
{
    struct kv_layout kv;
    model_kv_layout(model_config(in->model), BLOCK_TOKENS, kv_types[i].type, &kv);
    return KV_TOKENS * kv_token_bytes(&kv);
}

static uint64_t tensor_values(const struct tensor *t)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->n_dims; i++)
        n *= t->shape[i];
    return n;
}

static void count_tensors(struct inspection *in)
{
    for (uint64_t i = 0; i < model_tensor_count(in->model); i++) {
        const struct tensor *t = model_tensor_at(in->model, i);
        in->types[t->type].n++;
        in->types[t->type].values += tensor_values(t);
        in->types[t->type].bytes += t->bytes;
        in->values += tensor_values(t);
        in->bytes += t->bytes;
    }
}

/* --- JSON --- */

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
    json_field_uint(w, "experts", c->n_experts);
    json_field_uint(w, "experts_used", c->n_experts_used);
    json_field_uint(w, "expert_ffn", c->n_expert_ffn);
    json_field_uint(w, "vocab", c->n_vocab);
    json_field_uint(w, "max_positions", c->max_positions);
    json_field_real(w, "rope_theta", (double)c->rope.theta);
    json_field_real(w, "rms_eps", (double)c->rms_eps);
    json_field_bool(w, "qk_norm", c->qk_norm);
    json_field_bool(w, "tied_embeddings", c->tied_embeddings);
    json_field_bool(w, "chat_template", model_chat_template(m) != NULL);
    json_field_uint(w, "tokens", tokenizer_vocab_size(model_tokenizer(m)));
}

static void write_types(const struct inspection *in, struct json_writer *w)
{
    json_write_key(w, "types");
    json_write_array(w);
    for (uint32_t t = 0; t < DTYPE_COUNT; t++) {
        if (in->types[t].n == 0)
            continue;
        json_write_object(w);
        json_field_string(w, "type", dtype_name((enum dtype)t));
        json_field_uint(w, "tensors", in->types[t].n);
        json_field_uint(w, "values", in->types[t].values);
        json_field_uint(w, "bytes", in->types[t].bytes);
        json_write_end(w);
    }
    json_write_end(w);
}

static void write_worker(const struct inspection *in, struct json_writer *w)
{
    json_write_key(w, "worker");
    json_write_object(w);
    json_field_string(w, "isa", in->memory.isa);
    json_field_uint(w, "threads", in->worker.n_threads);
    json_field_uint(w, "step_tokens", in->worker.max_rows);
    json_field_uint(w, "max_seqs", in->worker.max_seqs);
    json_field_uint(w, "weight_bytes", in->memory.weight_bytes);
    json_field_uint(w, "scratch_bytes", in->memory.scratch_bytes);
    json_field_uint(w, "read_bytes_per_token", in->memory.read_bytes);
    json_write_key(w, "kv_bytes_per_1000_tokens");
    json_write_object(w);
    for (size_t i = 0; i < COUNT_OF(kv_types); i++)
        json_field_uint(w, kv_types[i].name, kv_bytes(in, i));
    json_write_end(w);
    json_write_end(w);
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

static void write_json(const struct inspection *in, struct text_buffer *page)
{
    struct json_writer w;
    char fingerprint[17];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, model_fingerprint(in->model));
    json_writer_init(&w, page);
    json_write_object(&w);
    json_field_string(&w, "name", model_name(in->model));
    json_field_string(&w, "path", in->path);
    json_field_string(&w, "fingerprint", fingerprint);
    json_field_uint(&w, "parameters", in->values);
    json_field_uint(&w, "tensor_bytes", in->bytes);
    write_numbers(in->model, &w);
    write_types(in, &w);
    write_worker(in, &w);
    if (in->list_tensors)
        write_tensors(in->model, &w);
    json_write_end(&w);
    text_buffer_char(page, '\n');
}

/* --- for people --- */

static double megabytes(uint64_t bytes)
{
    return (double)bytes / 1e6;
}

static void write_model(const struct inspection *in, struct text_buffer *page)
{
    const struct model *m = in->model;
    const struct model_config *c = model_config(m);
    text_buffer_printf(page, "%s\n  file        %s\n  fingerprint %016" PRIx64 "\n", model_name(m), in->path,
                       model_fingerprint(m));
    text_buffer_printf(page, "  network     %s, %u layers, %u wide, %u heads (%u KV) of %u, FFN %u\n",
                       model_arch_name(c->arch), c->n_layers, c->n_embd, c->n_heads, c->n_kv_heads, c->head_dim,
                       c->n_ffn);
    if (c->n_experts > 0)
        text_buffer_printf(page, "  experts     %u of FFN %u, a token goes through %u\n", c->n_experts, c->n_expert_ffn,
                           c->n_experts_used);
    text_buffer_printf(page, "  parameters  %.1f M in %.1f MB, embeddings %s\n", (double)in->values / 1e6,
                       megabytes(in->bytes), c->tied_embeddings ? "tied" : "not tied");
    text_buffer_printf(page, "  context     %u tokens\n  vocabulary  %u tokens\n  template    %s\n\n", c->max_positions,
                       tokenizer_vocab_size(model_tokenizer(m)), model_chat_template(m) ? "yes" : "none");
    for (uint32_t t = 0; t < DTYPE_COUNT; t++)
        if (in->types[t].n > 0)
            text_buffer_printf(page, "  %-5s %6" PRIu64 " tensors %10.1f M values %10.1f MB\n",
                               dtype_name((enum dtype)t), in->types[t].n, (double)in->types[t].values / 1e6,
                               megabytes(in->types[t].bytes));
}

static void write_needs(const struct inspection *in, struct text_buffer *page)
{
    text_buffer_printf(page,
                       "\n  a worker with these kernels and defaults (%s, %u threads, steps of %u tokens) needs\n",
                       in->memory.isa, in->worker.n_threads, in->worker.max_rows);
    text_buffer_printf(page, "  %10.1f MB  weights, of which a token of one sequence reads %.1f\n",
                       megabytes(in->memory.weight_bytes), megabytes(in->memory.read_bytes));
    text_buffer_printf(page, "  %10.1f MB  scratch\n", megabytes(in->memory.scratch_bytes));
    for (size_t i = 0; i < COUNT_OF(kv_types); i++)
        text_buffer_printf(page, "  %10.1f MB  %u tokens of KV in %s\n", megabytes(kv_bytes(in, i)), KV_TOKENS,
                           kv_types[i].name);
}

static void write_list(const struct model *m, struct text_buffer *page)
{
    text_buffer_char(page, '\n');
    for (uint64_t i = 0; i < model_tensor_count(m); i++) {
        const struct tensor *t = model_tensor_at(m, i);
        text_buffer_printf(page, "  %-44s %-5s", t->name, dtype_name(t->type));
        for (uint32_t d = 0; d < t->n_dims; d++)
            text_buffer_printf(page, "%s%" PRIu64, d ? " x " : " ", t->shape[d]);
        text_buffer_char(page, '\n');
    }
}

static int inspect(const struct command *self, struct inspection *in, bool as_json)
{
    struct model *m = NULL;
    struct error err;
    struct text_buffer page;
    if (model_open(in->path, MODEL_WEIGHTS, &m, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    in->model = m;
    count_tensors(in);
    engine_memory(m, &in->worker, &in->memory);
    text_buffer_init(&page, OUTPUT_MAX_BYTES);
    if (as_json) {
        write_json(in, &page);
    } else {
        write_model(in, &page);
        write_needs(in, &page);
        if (in->list_tensors)
            write_list(m, &page);
    }
    model_close(&m);
    return command_print(&page);
}

static uint32_t usable_cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

static int run(const struct command *self, int argc, char **argv)
{
    struct arguments arguments;
    struct error err;
    char path[PATH_MAX];
    bool as_json = false, known;
    int64_t threads = 0, step_tokens = STEP_TOKENS, max_seqs = MAX_SEQS;
    struct inspection in = { .path = path };
    int code;
    const struct option_row rows[] = {
        { "json", 0, OPTION_FLAG, &as_json, "", "One JSON object", 0, 0 },
        { "tensors", 0, OPTION_FLAG, &in.list_tensors, "", "Name, type and shape of every tensor, too", 0, 0 },
        { "threads", 0, OPTION_INT, &threads, "N", "A worker's threads; 0: one for each core (0)", 0, 256 },
        { "step-tokens", 0, OPTION_INT, &step_tokens, "N", "A worker's step_tokens (512)", 1, 65536 },
        { "max-seqs", 0, OPTION_INT, &max_seqs, "N", "A worker's max_seqs (32)", 1, 4096 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), &arguments, &code))
        return code;
    if (arguments.n != 1)
        return command_misuse(self, "it takes one file, folder or known name");
    if (model_store_resolve(arguments.items[0], path, sizeof path, &known, &err) != ST_OK ||
        engine_isa_check(ENGINE_AUTO, CLASS_PORTABLE, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    in.worker.n_threads = threads ? (uint32_t)threads : usable_cores();
    in.worker.max_rows = (uint32_t)step_tokens;
    in.worker.max_seqs = (uint32_t)max_seqs;
    return inspect(self, &in, as_json);
}

const struct command command_model_inspect = { "model inspect", "PATH|NAME",
                                               "What is inside a model, and what serving it takes", run };
