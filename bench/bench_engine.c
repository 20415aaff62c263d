#include "bench/bench_engine.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"

/* xorshift32: the same prompt in every run. */
static void fill_prompt(uint32_t *tokens, uint32_t n, uint32_t n_vocab)
{
    uint32_t x = 2463534242u;
    for (uint32_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        tokens[i] = x % n_vocab;
    }
}

static double rate(uint32_t tokens, uint64_t us)
{
    return us ? (double)tokens * 1e6 / (double)us : 0;
}

/* What one run gave. */
struct figures {
    struct bench_engine_phase prefill, decode;
    double product_ops, attention_ops;
};

/* The matrices that a token meets: of experts those that it uses, which are of one size. */
struct load {
    double values, bytes;
};

static void add_matrix(struct load *load, const struct tensor *t)
{
    if (t == NULL)
        return;
    load->values += (double)(t->shape[0] * t->shape[1]);
    load->bytes += (double)t->bytes;
}

static struct load matrices_of(const struct model *model)
{
    const struct model_weights *w = model_weights(model);
    const struct model_config *c = model_config(model);
    struct load load = { 0, 0 };
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const struct model_layer *in = &w->layers[l];
        const struct tensor *layer[] = { in->wq, in->wk, in->wv, in->wo, in->gate, in->up, in->down, in->router };
        for (size_t i = 0; i < sizeof layer / sizeof *layer; i++)
            add_matrix(&load, layer[i]);
        for (uint32_t e = 0; in->experts != NULL && e < c->n_experts_used; e++) {
            add_matrix(&load, in->experts[e].gate);
            add_matrix(&load, in->experts[e].up);
            add_matrix(&load, in->experts[e].down);
        }
    }
    add_matrix(&load, w->head);
    return load;
}

static void prefill(struct solo *solo, const struct bench_engine_options *o, uint32_t seq, const uint32_t *prompt,
                    uint32_t *token)
{
    for (uint32_t done = 0; done < o->prompt; done += o->chunk) {
        uint32_t n = o->prompt - done < o->chunk ? o->prompt - done : o->chunk;
        *token = solo_step_of(solo, seq, prompt + done, n, done);
    }
}

/* Scores and weighted values of one prompt, two operations each. */
static double attention_work(const struct model_config *c, uint32_t prompt)
{
    double seen = 0;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        double window = c->windowed[l] && c->window < prompt ? c->window : prompt;
        seen += window * (window + 1) / 2 + (prompt - window) * window;
    }
    return 4.0 * c->n_heads * c->head_dim * seen;
}

/* A span of steps: when it began, and what the engine had done by then. */
struct stamp {
    uint64_t us;
    struct engine_times times;
};

static struct stamp stamp_now(const struct solo *solo)
{
    return (struct stamp){ clock_now_us(), solo_times(solo) };
}

static struct bench_engine_phase phase_between(const struct stamp *a, const struct stamp *b, uint32_t tokens)
{
    double steps = (double)(b->times.steps_ns - a->times.steps_ns);
    return (struct bench_engine_phase){
        .tps = rate(tokens, b->us - a->us),
        .product_share = (double)(b->times.products_ns - a->times.products_ns) / steps,
        .attention_share = (double)(b->times.attention_ns - a->times.attention_ns) / steps,
    };
}

static void run_once(struct solo *solo, const struct bench_engine_options *o, const uint32_t *prompt, uint32_t *tokens,
                     struct figures *out)
{
    const struct model *model = solo_model(solo);
    const struct tensor *head = model_weights(model)->head;
    double head_values = (double)(head->shape[0] * head->shape[1]); /* of a prompt only its last row meets it */
    double values = matrices_of(model).values - head_values;
    struct stamp begin = stamp_now(solo);
    for (uint32_t s = 0; s < o->sequences; s++)
        prefill(solo, o, s, prompt + (size_t)s * o->prompt, &tokens[s]);
    struct stamp middle = stamp_now(solo);
    for (uint32_t i = 0; i < o->generate; i++)
        solo_decode(solo, tokens, o->prompt + i);
    struct stamp end = stamp_now(solo);
    out->prefill = phase_between(&begin, &middle, o->sequences * o->prompt);
    out->decode = phase_between(&middle, &end, o->sequences * o->generate);
    double seconds = (double)(middle.times.steps_ns - begin.times.steps_ns) / 1e9 / o->sequences; /* of one prompt */
    out->product_ops = 2 * (values * o->prompt + head_values) / (seconds * out->prefill.product_share);
    out->attention_ops = attention_work(model_config(model), o->prompt) / (seconds * out->prefill.attention_share);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of the figure that lies at this place of each run. */
static double median(const struct figures *runs, uint32_t n, size_t place)
{
    double values[BENCH_ENGINE_MAX_REPEATS];
    for (uint32_t i = 0; i < n; i++)
        values[i] = *(const double *)(const void *)((const char *)&runs[i] + place);
    qsort(values, n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static struct bench_engine_phase median_phase(const struct figures *runs, uint32_t n, size_t place)
{
    return (struct bench_engine_phase){
        .tps = median(runs, n, place + offsetof(struct bench_engine_phase, tps)),
        .product_share = median(runs, n, place + offsetof(struct bench_engine_phase, product_share)),
        .attention_share = median(runs, n, place + offsetof(struct bench_engine_phase, attention_share)),
    };
}

/* In the middle of the answer. */
static double kv_bytes(const struct model *model, const struct bench_engine_options *o)
{
    struct kv_layout kv;
    model_kv_layout(model_config(model), SOLO_BLOCK_TOKENS, DTYPE_BF16, &kv);
    return (double)kv_block_bytes(&kv) / SOLO_BLOCK_TOKENS * o->sequences * (o->prompt + o->generate / 2.0);
}

static void summarise(const struct solo *solo, const struct bench_engine_options *o, const struct figures *runs,
                      struct bench_engine_result *out)
{
    const struct model *model = solo_model(solo);
    out->prefill = median_phase(runs, o->repeats, offsetof(struct figures, prefill));
    out->decode = median_phase(runs, o->repeats, offsetof(struct figures, decode));
    out->product_ops = median(runs, o->repeats, offsetof(struct figures, product_ops));
    out->attention_ops = median(runs, o->repeats, offsetof(struct figures, attention_ops));
    out->step_bytes = matrices_of(model).bytes + kv_bytes(model, o);
    const struct model_layer *first = &model_weights(model)->layers[0];
    out->layers = (first->experts ? first->experts[0].up : first->up)->type;
    out->read_bytes_per_s = out->step_bytes * out->decode.tps / o->sequences;
    out->n_threads = solo_threads(solo);
    snprintf(out->model, sizeof out->model, "%.127s", model_name(model));
    snprintf(out->isa, sizeof out->isa, "%.15s", solo_isa(solo));
    snprintf(out->class, sizeof out->class, "%.15s", engine_class_name(o->class));
}

static status measure(struct solo *solo, const struct bench_engine_options *o, struct bench_engine_result *out)
{
    struct figures runs[BENCH_ENGINE_MAX_REPEATS];
    uint32_t n = o->sequences * o->prompt;
    uint32_t *prompt = calloc(n, sizeof *prompt);
    uint32_t *tokens = calloc(o->sequences, sizeof *tokens);
    status st = prompt && tokens ? ST_OK : ST_NO_MEMORY;
    if (st == ST_OK) {
        fill_prompt(prompt, n, model_config(solo_model(solo))->n_vocab);
        run_once(solo, o, prompt, tokens, &runs[0]); /* caches, page tables, clock frequency */
        for (uint32_t i = 0; i < o->repeats; i++)
            run_once(solo, o, prompt, tokens, &runs[i]);
        summarise(solo, o, runs, out);
    }
    free(prompt);
    free(tokens);
    return st;
}

status bench_engine(const struct bench_engine_options *options, struct bench_engine_result *out, struct error *err)
{
    ASSERT(options->repeats > 0 && options->repeats <= BENCH_ENGINE_MAX_REPEATS && options->chunk > 0);
    ASSERT(options->sequences > 0 && options->sequences <= BENCH_ENGINE_MAX_SEQUENCES);
    struct solo *solo = NULL;
    struct solo_options o = {
        .path = options->path,
        .isa = options->isa,
        .class = options->class,
        .kv_type = DTYPE_BF16,
        .n_threads = options->n_threads,
        .max_tokens = options->prompt + options->generate,
        .max_rows = options->chunk > options->sequences ? options->chunk : options->sequences,
        .n_seqs = options->sequences,
    };
    status st = solo_create(&o, &solo, err);
    if (st == ST_OK && measure(solo, options, out) != ST_OK)
        st = error_set(err, ST_NO_MEMORY, "out of memory");
    solo_destroy(&solo);
    return st;
}
