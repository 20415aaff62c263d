/* profile.h - how fast a worker of some model on some hardware is. docs/SIMULATOR.md has the formula and the form in
 * JSON; two published forms are read as well:
 *   DistServe (OSDI'24)   JSON: {MODEL: {TENSOR_PARALLEL: {"prefill": [a, b, c], "decoding_smallbs": [...], ...}}}
 *   Splitwise (ISCA'24)   CSV of single measurements, to which the formula is fitted */
#ifndef BATON_SIM_PROFILE_H
#define BATON_SIM_PROFILE_H

#include <stdint.h>

#include "common/status.h"
#include "common/text_buffer.h"

#define PROFILE_VERSION    1
#define PROFILE_NAME_BYTES 96u
#define PROFILE_MAX_PIECES 8u
#define PROFILE_MAX_BYTES  ((size_t)16 << 20)

/* A step that decodes n sequences, where n is at most max_batch; the last piece is for all larger ones, too. */
struct profile_decode {
    uint32_t max_batch;
    double base_us, context_us, sequence_us; /* each step, each token of context, each sequence */
};

struct profile {
    char name[PROFILE_NAME_BYTES];
    double prefill_base_us, prefill_token_us, prefill_square_us; /* of prompts of L tokens: a + b sum L + c sum L^2 */
    struct profile_decode decode[PROFILE_MAX_PIECES];
    uint32_t n_decode;
    double prefill_error, decode_error; /* mean relative ones of the fit; 0: not known */
    uint32_t n_layers;
    double kv_token_bytes;
    uint64_t kv_tokens;      /* that a worker has room for */
    double link_bytes_per_s; /* of a worker, each way */
    double link_latency_us;  /* of a message, and of the first byte */
};

/* Which of the models, of its hardware and of its degrees of tensor parallelism a file with several is asked for. */
struct profile_choice {
    const char *model, *hardware; /* NULL: the only one */
    uint32_t tensor_parallel;     /* 0: the only one */
};

/* ST_INVALID names the member or the line, or what the choices are. */
MUST_CHECK status profile_load(const char *path, const struct profile_choice *choice, struct profile *out,
                               struct error *err);
MUST_CHECK status profile_read(const char *text, size_t len, const char *name, const struct profile_choice *choice,
                               struct profile *out, struct error *err);
/* In the own form. */
void profile_write(const struct profile *profile, struct text_buffer *out);
/* ST_INVALID names what no worker can be. */
MUST_CHECK status profile_check(const struct profile *profile, struct error *err);

/* Microseconds of a step in which prompts compute `rows` tokens that attend to `attended` positions, and `sequences`
 * decode, which hold `context` tokens. Every step reads the weights once: of both bases only the larger one counts. */
double profile_step_us(const struct profile *p, uint64_t rows, uint64_t attended, uint32_t sequences, uint64_t context);
const struct profile_decode *profile_decode_of(const struct profile *p, uint32_t sequences);

#endif
