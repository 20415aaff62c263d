/* serve_server.h - what a server that speaks OpenAI's API tells of itself, before a load begins. Blocking; one thread.
 */
#ifndef BATON_BENCH_SERVE_SERVER_H
#define BATON_BENCH_SERVE_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/http_call.h"
#include "bench/prompt_words.h"

#define SERVE_URL_BYTES 256u

/* "http://HOST[:PORT][/BASE]" */
struct serve_address {
    char host[64]; /* numeric; a name is looked up */
    uint16_t port;
    char base[SERVE_URL_BYTES]; /* "" or "/BASE", without a slash or /v1 at its end */
    char url[SERVE_URL_BYTES];  /* of host, port and base */
    bool is_here;               /* of this machine: 127.0.0.0/8 or ::1 */
};

struct serve_server {
    char model[128];
    char about[512];    /* of the model, as /v1/models has it: context and classes; "": it does not say */
    char version[64];   /* "" where /metrics does not say */
    char tokenizer[32]; /* a hash; "" without /tokenize */
};

MUST_CHECK status serve_address_parse(const char *url, struct serve_address *out, struct error *err);
/* model NULL: the first one that is served. Where there is /tokenize, words learns what each of its words has of
 * tokens. */
MUST_CHECK status serve_server_ask(const char *url, const char *model, uint64_t timeout_us, struct serve_server *out,
                                   struct prompt_words *words, struct error *err);

#endif
