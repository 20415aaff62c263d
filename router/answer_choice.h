/* answer_choice.h - one choice of an answer: from token ids to text, without HTTP. Special
 * tokens give no text, stop strings cut it, and log-probabilities leave with the text they
 * belong to: those of tokens behind the cut are dropped. */
#ifndef BATON_ROUTER_ANSWER_CHOICE_H
#define BATON_ROUTER_ANSWER_CHOICE_H

#include "router/cached_tokens.h"
#include "router/flow.h"
#include "router/request.h"
#include "router/token_queue.h"

enum choice_finish { CHOICE_GOES_ON, CHOICE_STOP, CHOICE_LENGTH };

/* What the answer tells of times; microseconds, counted from the flow's submit where not said otherwise. */
struct choice_timing {
    bool from_worker;                                               /* the worker's part is known */
    uint64_t submitted_us, dispatched_us, first_token_us, ended_us; /* absolute; 0: never */
    uint32_t attempts;
    uint64_t queue_us, prefill_us, prefill_queue_us, handoff_us, decode_us, moved_bytes;
    uint32_t legs, computed_tokens, preempted;
    struct cached_tokens cached; /* of the first attempt that produced output: the later ones bring its tokens along */
    char transport[16], route[16], prefill_worker[64], decode_worker[64];
    char class[32]; /* "": no tokens came */
    bool class_changed;
};

struct answer;

struct choice {
    struct answer *answer;
    const struct request *request;
    const struct request_prompt *prompt;
    uint32_t index;
    struct flow *flow; /* NULL: not started, or over */
    bool flow_over;    /* flow_finish is known; held tokens may still have to become text */
    enum choice_finish flow_finish, finish;
    struct detokenizer detokenizer;
    struct stop_match stops;
    struct token_queue held;   /* came while the client took nothing */
    struct token_queue scored; /* their log-probabilities are not written yet */
    struct text_buffer text;   /* of the whole answer; empty when it streams */
    struct text_buffer hashes; /* JSON strings, commas between */
    size_t detokenised, shown; /* bytes of text: made of tokens, given out */
    uint32_t chars;            /* code points made of tokens; with echo the prompt's before */
    uint32_t n_generated;
    bool opened; /* its first event is written */
    struct choice_timing timing;
};

MUST_CHECK status choice_init(struct choice *c, struct answer *answer, const struct request *request, uint32_t index);
void choice_free(struct choice *c);
/* Appends to out the text that can be given out now; sets finish when a stop string is complete. */
MUST_CHECK status choice_take(struct choice *c, const struct token_view *token, struct text_buffer *out);
/* The flow has ended: what stop strings withheld is given out, finish is set. A character of which the answer has
 * only the first bytes gives no text, as in vLLM: it is cut off, not broken. */
void choice_end(struct choice *c, enum choice_finish finish, struct text_buffer *out);
/* How many of `scored` belong to text that is given out. */
uint32_t choice_scored_ready(const struct choice *c);
void choice_keep_worker_timing(struct choice *c, const Baton__Timing *timing);
/* The flow ends. With cut it is ended here: then the worker did not tell how long it decoded. */
void choice_keep_timing(struct choice *c, const struct flow_timing *timing, bool cut);

#endif
