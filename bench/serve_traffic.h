/* serve_traffic.h - what a load asks, and when: conversations of one or more requests, by how they come, how long they
 * are and what they share. All of it follows from the seed and from a conversation's number, and nothing from the
 * server's answers, but for when a conversation goes on. Pure. */
#ifndef BATON_BENCH_SERVE_TRAFFIC_H
#define BATON_BENCH_SERVE_TRAFFIC_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/prompt_words.h"
#include "bench/trace.h"
#include "common/distribution.h"

#define SERVE_MAX_USERS   16384u
#define SERVE_MAX_RATE    1e6 /* conversations a second */
#define SERVE_MAX_TURNS   1024u
#define SERVE_MAX_TOKENS  (1u << 20) /* of one request's own text, and of an answer */
#define SERVE_MAX_PAUSE_S 86400u

enum serve_arrivals {
    ARRIVE_CLOSED,  /* each of `users` has one conversation after the other */
    ARRIVE_POISSON, /* rate a second, at random */
    ARRIVE_FIXED,   /* rate a second, in equal steps */
    ARRIVE_REPLAY,  /* when the trace says */
};

struct serve_traffic {
    enum serve_arrivals arrivals;
    uint32_t users;
    double rate;
    /* Each request is a conversation, as long as the trace says and of its blocks; NULL: what follows below. */
    const struct trace *trace;         /* borrowed */
    double speed;                      /* of a replay: so many times as fast */
    double length_scale;               /* of the trace's tokens */
    struct distribution input, output; /* tokens of each question, and of each answer */
    struct distribution turns;         /* requests of a conversation */
    struct distribution pause_ms;     /* from an answer to the next question, also of the next conversation of a user */
    uint32_t prefixes, prefix_tokens; /* a conversation begins with one of so many texts; 0: with none */
    uint64_t seed;
};

/* How many there can be. */
uint64_t serve_traffic_conversations(const struct serve_traffic *t);
/* When conversation i comes, in microseconds after the start; before_us is when the one before it came (i > 0). Not of
 * ARRIVE_CLOSED. */
double serve_traffic_arrival_us(const struct serve_traffic *t, uint64_t i, double before_us);
uint32_t serve_traffic_turns(const struct serve_traffic *t, uint64_t i);
uint64_t serve_traffic_pause_us(const struct serve_traffic *t, uint64_t i, uint32_t turn);
uint32_t serve_traffic_output(const struct serve_traffic *t, uint64_t i, uint32_t turn);
/* Appends the text that others may share, and the question's own. Return the tokens. */
uint64_t serve_traffic_prefix(const struct serve_traffic *t, const struct prompt_words *words, uint64_t i,
                              struct text_buffer *out);
uint64_t serve_traffic_question(const struct serve_traffic *t, const struct prompt_words *words, uint64_t i,
                                uint32_t turn, struct text_buffer *out);
/* All of it in one line, the same for the same traffic; a trace by its content. */
void serve_traffic_describe(const struct serve_traffic *t, struct text_buffer *out);

#endif
