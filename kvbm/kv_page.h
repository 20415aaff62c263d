/* kv_page.h - pages that `baton kv` asks for on an admin port: JSON in (kv_request.h), JSON out. Loop thread only. */
#ifndef BATON_KVBM_KV_PAGE_H
#define BATON_KVBM_KV_PAGE_H

#include "common/http_server.h"
#include "common/json_writer.h"
#include "kvbm/kv_request.h"

/* Begins the object that an answer is; the caller writes its members and json_write_end(). */
void kv_page_begin(struct text_buffer *body, struct json_writer *w);
/* Sends it, and frees the body. */
void kv_page_answer(struct http_exchange *x, int code, struct text_buffer *body);
/* {"error": why} */
void kv_page_refuse(struct http_exchange *x, int code, const char *why);

/* {"id": ..., "role": ..., "salt_key": fingerprint}: GET /kv/salt-key, of routers, too. */
void kv_page_answer_salt_key(struct http_exchange *x, const char *id, const char *role, const struct salt_key *key);

/* Reads the exchange's body as kv_request_read does. False: it has been answered. */
bool kv_page_read(struct http_exchange *x, unsigned allowed, unsigned needed, const struct salt_key *key,
                  struct kv_request *out);
/* Of a wipe: "salt" or "all", one of the two. */
bool kv_page_read_wipe(struct http_exchange *x, const struct salt_key *key, bool *all, struct kv_request *out);

#endif
