#include "bench/serve_traffic.h"

#include <math.h>
#include <xxhash.h>

#include "common/draw.h"

/* What a number is drawn for. */
enum purpose { ARRIVALS = 1, TURNS, PAUSES, OUTPUTS, INPUTS, PREFIX_CHOICE, PREFIX_TEXT, QUESTION_TEXT, BLOCK_TEXT };

static uint64_t stream_of(enum purpose purpose, uint64_t which)
{
    return (uint64_t)purpose << 56 ^ which;
}

static uint64_t place_of(uint64_t i, uint32_t turn)
{
    return i * SERVE_MAX_TURNS + turn;
}

uint64_t serve_traffic_conversations(const struct serve_traffic *t)
{
    return t->trace ? t->trace->n_requests : UINT64_MAX;
}

double serve_traffic_arrival_us(const struct serve_traffic *t, uint64_t i, double before_us)
{
    ASSERT(t->arrivals != ARRIVE_CLOSED);
    if (t->arrivals == ARRIVE_REPLAY)
        return (double)t->trace->requests[i].arrival_us / t->speed;
    double step_us = 1e6 / t->rate;
    if (t->arrivals == ARRIVE_FIXED)
        return (double)i * step_us;
    return (i > 0 ? before_us : 0) + step_us * draw_exponential(t->seed, stream_of(ARRIVALS, 0), i);
}

uint32_t serve_traffic_turns(const struct serve_traffic *t, uint64_t i)
{
    return t->trace ? 1 : (uint32_t)distribution_draw(&t->turns, t->seed, stream_of(TURNS, 0), i, 1, SERVE_MAX_TURNS);
}

uint64_t serve_traffic_pause_us(const struct serve_traffic *t, uint64_t i, uint32_t turn)
{
    return 1000 * distribution_draw(&t->pause_ms, t->seed, stream_of(PAUSES, 0), place_of(i, turn), 0,
                                    SERVE_MAX_PAUSE_S * UINT64_C(1000));
}

static uint64_t scaled(const struct serve_traffic *t, uint64_t tokens)
{
    double n = round((double)tokens * t->length_scale);
    return n < 1 ? 1 : n < SERVE_MAX_TOKENS ? (uint64_t)n : SERVE_MAX_TOKENS;
}

uint32_t serve_traffic_output(const struct serve_traffic *t, uint64_t i, uint32_t turn)
{
    if (t->trace)
        return (uint32_t)scaled(t, t->trace->requests[i].output_tokens);
    return (uint32_t)distribution_draw(&t->output, t->seed, stream_of(OUTPUTS, 0), place_of(i, turn), 1,
                                       SERVE_MAX_TOKENS);
}

uint64_t serve_traffic_prefix(const struct serve_traffic *t, const struct prompt_words *words, uint64_t i,
                              struct text_buffer *out)
{
    if (t->trace || t->prefixes == 0 || t->prefix_tokens == 0)
        return 0;
    uint64_t which = draw_bits(t->seed, stream_of(PREFIX_CHOICE, 0), i) % t->prefixes;
    prompt_words_write(words, t->seed, stream_of(PREFIX_TEXT, which), t->prefix_tokens, out);
    return t->prefix_tokens;
}

/* Block by block, so that prompts of equal blocks are equal as far as these go. */
static uint64_t write_traced(const struct serve_traffic *t, const struct prompt_words *words, uint64_t i,
                             struct text_buffer *out)
{
    size_t n;
    const uint32_t *blocks = trace_blocks(t->trace, i, &n);
    uint64_t total = scaled(t, t->trace->requests[i].input_tokens), block = scaled(t, TRACE_BLOCK_TOKENS), done = 0;
    for (size_t k = 0; k < n && done < total; k++) {
        uint64_t tokens = block < total - done ? block : total - done;
        prompt_words_write(words, t->seed, stream_of(BLOCK_TEXT, blocks[k]), tokens, out);
        done += tokens;
    }
    prompt_words_write(words, t->seed, stream_of(QUESTION_TEXT, place_of(i, 0)), total - done, out);
    return total;
}

uint64_t serve_traffic_question(const struct serve_traffic *t, const struct prompt_words *words, uint64_t i,
                                uint32_t turn, struct text_buffer *out)
{
    const uint64_t place = place_of(i, turn);
    if (t->trace)
        return write_traced(t, words, i, out);
    uint64_t n = distribution_draw(&t->input, t->seed, stream_of(INPUTS, 0), place, 1, SERVE_MAX_TOKENS);
    prompt_words_write(words, t->seed, stream_of(QUESTION_TEXT, place), n, out);
    return n;
}

/* ---- in words -------------------------------------------------------------------------- */

static void describe_distribution(const char *what, const struct distribution *d, struct text_buffer *out)
{
    static const char *const names[] = { "", "uniform:", "normal:", "lognormal:", "exponential:" };
    text_buffer_printf(out, ", %s %s%g", what, names[d->kind], d->a);
    if (d->kind != DIST_FIXED && d->kind != DIST_EXPONENTIAL)
        text_buffer_printf(out, ",%g", d->b);
}

static void describe_trace(const struct serve_traffic *t, struct text_buffer *out)
{
    uint64_t hash = XXH3_64bits(t->trace->requests, t->trace->n_requests * sizeof *t->trace->requests);
    hash ^= XXH3_64bits_withSeed(t->trace->blocks, t->trace->n_blocks * sizeof *t->trace->blocks, hash);
    text_buffer_printf(out, ", lengths of a trace of %zu requests (%016llx) times %g", t->trace->n_requests,
                       (unsigned long long)hash, t->length_scale);
}

void serve_traffic_describe(const struct serve_traffic *t, struct text_buffer *out)
{
    switch (t->arrivals) {
    case ARRIVE_CLOSED:
        text_buffer_printf(out, "closed loop of %u", t->users);
        break;
    case ARRIVE_POISSON:
        text_buffer_printf(out, "Poisson, %g/s", t->rate);
        break;
    case ARRIVE_FIXED:
        text_buffer_printf(out, "fixed, %g/s", t->rate);
        break;
    case ARRIVE_REPLAY:
        text_buffer_printf(out, "replay at %g times the speed", t->speed);
        break;
    }
    if (t->trace) {
        describe_trace(t, out);
    } else {
        describe_distribution("input", &t->input, out);
        describe_distribution("output", &t->output, out);
        describe_distribution("turns", &t->turns, out);
        if (t->prefixes > 0)
            text_buffer_printf(out, ", %u prefixes of %u", t->prefixes, t->prefix_tokens);
    }
    describe_distribution("pause", &t->pause_ms, out);
    text_buffer_printf(out, ", seed %llu", (unsigned long long)t->seed);
}
