/* The logits of a model for given tokens, for scripts that have an engine of their own: argv[1] is a folder or a GGUF
 * file. On stdin ids, of which each is forced; on stdout a line for each: the logits behind it. Float32 mathematics. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"
#include "engine/model.h"

#define MAX_TOKENS   512u
#define BLOCK_TOKENS 16u
#define BLOCKS       (MAX_TOKENS / BLOCK_TOKENS)

static uint32_t read_tokens(uint32_t tokens[MAX_TOKENS], uint32_t n_vocab)
{
    uint32_t n = 0;
    while (n < MAX_TOKENS && scanf("%u", &tokens[n]) == 1 && tokens[n] < n_vocab)
        n++;
    return n;
}

static void print_row(void *ctx, uint32_t row, const float *logits, uint32_t n_vocab)
{
    (void)ctx;
    (void)row;
    for (uint32_t i = 0; i < n_vocab; i++)
        printf("%.9g%c", (double)logits[i], i + 1 < n_vocab ? ' ' : '\n');
}

static void score(struct engine *engine, const uint32_t *tokens, uint32_t n)
{
    uint32_t blocks[BLOCKS];
    for (uint32_t i = 0; i < BLOCKS; i++)
        blocks[i] = i;
    struct step_seq seq = {
        .tokens = tokens, .n_rows = n, .blocks = blocks, .logits = STEP_ALL_LOGITS, .on_logits = print_row
    };
    engine_run(engine, &(struct step){ .seqs = &seq, .n_seqs = 1 });
}

static status run(const char *path, struct error *err)
{
    uint32_t tokens[MAX_TOKENS];
    struct model *model = NULL;
    struct engine *engine = NULL;
    struct engine_options options = {
        .f32_math = true, .n_threads = 2, .kv_blocks = BLOCKS, .max_rows = MAX_TOKENS, .max_seqs = 1
    };
    status st = model_open(path, MODEL_WEIGHTS, &model, err);
    if (st != ST_OK)
        return st;
    options.model = model;
    model_kv_layout(model_config(model), BLOCK_TOKENS, DTYPE_F32, &options.kv);
    options.kv_pool.host = aligned_alloc(64, BLOCKS * kv_block_bytes(&options.kv));
    uint32_t n = read_tokens(tokens, model_config(model)->n_vocab);
    if (options.kv_pool.host == NULL || n == 0)
        st = error_set(err, ST_INVALID, "no tokens of the vocabulary, or no memory");
    if (st == ST_OK)
        st = engine_create(&options, &engine, err);
    if (st == ST_OK)
        score(engine, tokens, n);
    engine_destroy(&engine);
    free(options.kv_pool.host);
    model_close(&model);
    return st;
}

int main(int argc, char **argv)
{
    struct error err = { "usage: score FOLDER|FILE.gguf < ids > logits" };
    if (argc == 2 && run(argv[1], &err) == ST_OK)
        return 0;
    fprintf(stderr, "%s\n", err.text);
    return 1;
}
