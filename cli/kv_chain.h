/* kv_chain.h - token ids as people write them. */
#ifndef BATON_CLI_KV_CHAIN_H
#define BATON_CLI_KV_CHAIN_H

#include <jansson.h>

/* "1,2,3" as an array, the caller's to json_decref; NULL: it is something else. */
json_t *kv_chain_tokens(const char *text);

#endif
