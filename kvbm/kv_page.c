#include "kvbm/kv_page.h"

#include <string.h>

#define JSON_TYPE        "application/json"
#define ANSWER_MAX_BYTES ((size_t)64 << 10)

void kv_page_begin(struct text_buffer *body, struct json_writer *w)
{
    text_buffer_init(body, ANSWER_MAX_BYTES);
    json_writer_init(w, body);
    json_write_object(w);
}

void kv_page_answer(struct http_exchange *x, int code, struct text_buffer *body)
{
    text_buffer_char(body, '\n');
    http_respond(x, code, JSON_TYPE, text_buffer_text(body), body->len);
    text_buffer_free(body);
}

void kv_page_refuse(struct http_exchange *x, int code, const char *why)
{
    struct text_buffer body;
    struct json_writer w;
    kv_page_begin(&body, &w);
    json_field_string(&w, "error", why);
    json_write_end(&w);
    kv_page_answer(x, code, &body);
}

void kv_page_answer_salt_key(struct http_exchange *x, const char *id, const char *role, const struct salt_key *key)
{
    char fingerprint[SALT_KEY_FINGERPRINT_BYTES];
    struct text_buffer body;
    struct json_writer w;
    kv_page_begin(&body, &w);
    json_field_string(&w, "id", id);
    json_field_string(&w, "role", role);
    json_field_string(&w, "salt_key", salt_key_fingerprint(key, fingerprint));
    json_write_end(&w);
    kv_page_answer(x, 200, &body);
}

/* A page in a browser can send text or a form to this port without asking, but not JSON. */
static bool says_json(const struct http_exchange *x)
{
    const char *type = http_header(x, "Content-Type");
    return type && !strncmp(type, JSON_TYPE, strlen(JSON_TYPE)) && strchr(";", type[strlen(JSON_TYPE)]);
}

bool kv_page_read(struct http_exchange *x, unsigned allowed, unsigned needed, const struct salt_key *key,
                  struct kv_request *out)
{
    struct error err;
    size_t len;
    const char *body = http_body(x, &len);
    if (!says_json(x)) {
        kv_page_refuse(x, 415, "Content-Type must be application/json");
        return false;
    }
    if (kv_request_read(body, len, allowed, needed, key, out, &err) != ST_OK) {
        kv_page_refuse(x, 400, err.text);
        return false;
    }
    return true;
}

bool kv_page_read_wipe(struct http_exchange *x, const struct salt_key *key, bool *all, struct kv_request *out)
{
    const unsigned salt_bit = 1u << KV_REQUEST_SALT, all_bit = 1u << KV_REQUEST_ALL;
    if (!kv_page_read(x, salt_bit | all_bit, 0, key, out))
        return false;
    *all = out->given == all_bit;
    if (*all || out->given == salt_bit)
        return true;
    kv_request_free(out);
    kv_page_refuse(x, 400, "it takes \"salt\" or \"all\", one of the two");
    return false;
}
