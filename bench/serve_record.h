/* serve_record.h - what is kept of each request of a load. */
#ifndef BATON_BENCH_SERVE_RECORD_H
#define BATON_BENCH_SERVE_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#define SERVE_OUTCOMES(X)                                                                                              \
    X(DONE, "done")                                                                                                    \
    X(NOT_CONNECTED, "not connected") /* refused or unreachable                        */                              \
    X(CLOSED, "closed")               /* by the server, before the answer was complete */                              \
    X(TIMED_OUT, "timed out")         /* --timeout                                     */                              \
    X(NOT_HTTP, "no HTTP")            /* what came is no HTTP or no event stream       */                              \
    X(REFUSED, "refused")             /* another status than 200                       */                              \
    X(BROKE_OFF, "broke off")         /* an error inside the stream, or no [DONE]      */                              \
    X(NO_TEXT, "no text")             /* and no token that the server counts           */                              \
    X(NOT_SENT, "not sent")           /* the run ended before a connection was free    */

enum serve_outcome {
#define X(name, text) SERVE_##name,
    SERVE_OUTCOMES(X)
#undef X
        SERVE_OUTCOME_COUNT
};

/* Times are microseconds after the start; first and last are those of events with text, or the end where there are
 * none. */
struct serve_record {
    uint64_t due_us;  /* when it should have been sent */
    uint64_t sent_us; /* when it was */
    uint64_t first_us, last_us, done_us;
    uint64_t conversation;
    uint32_t turn;
    uint32_t wanted_input, wanted_output; /* tokens: of the text that was sent, without the template's */
    uint32_t prompt_tokens, cached_tokens, output_tokens; /* as the server counts; 0: it did not say */
    uint32_t n_events;                                    /* with text */
    uint32_t max_gap_us;                                  /* between two of these */
    uint16_t http;                                        /* status */
    uint8_t outcome;                                      /* enum serve_outcome */
};

/* Tokens of the answer, or its events where the server does not say. */
static inline uint32_t serve_record_tokens(const struct serve_record *r)
{
    return r->output_tokens ? r->output_tokens : r->n_events;
}

/* Mean time of a token behind the first; 0 where there is none. */
static inline double serve_record_tpot_us(const struct serve_record *r)
{
    uint32_t n = serve_record_tokens(r);
    return n > 1 ? (double)(r->last_us - r->first_us) / (n - 1) : 0;
}

#endif
