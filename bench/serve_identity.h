/* serve_identity.h - what two runs must have in common before their figures may be compared. Pure. */
#ifndef BATON_BENCH_SERVE_IDENTITY_H
#define BATON_BENCH_SERVE_IDENTITY_H

#include <jansson.h>

#include "common/json_writer.h"
#include "common/text_buffer.h"

#define SERVE_FACTS(X)                                                                                                 \
    X(MODEL, "model")         /* name, context, classes of arithmetic with their KV    */                              \
    X(TOKENIZER, "tokenizer") /* a hash of what it makes of known words                */                              \
    X(HARDWARE, "hardware")   /* of the server                                         */                              \
    X(CLIENT, "client")       /* the machine of the load                               */                              \
    X(TRAFFIC, "traffic")                                                                                              \
    X(CACHE, "cache")         /* what the server may find of earlier requests          */                              \
    X(TRANSPORT, "transport") /* how KV moves                                          */                              \
    X(CLUSTER, "cluster")     /* how many of which processes, and how they are set     */                              \
    X(VERSIONS, "versions")   /* of client, server and kernel                          */

enum serve_fact {
#define X(name, text) SERVE_FACT_##name,
    SERVE_FACTS(X)
#undef X
        SERVE_FACT_COUNT
};

#define SERVE_FACT_BYTES 1024u

struct serve_identity {
    char facts[SERVE_FACT_COUNT][SERVE_FACT_BYTES]; /* "": not known */
};

const char *serve_fact_name(enum serve_fact fact);
/* SERVE_FACT_COUNT: there is none of this name. */
enum serve_fact serve_fact_find(const char *name, size_t len);
/* One object. */
void serve_identity_write(const struct serve_identity *identity, struct json_writer *w);
/* Appends a line for each fact that differs, or that one of the two does not know, and returns how many. then is an
 * object as written above; anything else knows nothing. */
uint32_t serve_identity_compare(const struct serve_identity *now, const json_t *then, struct text_buffer *out);

#endif
