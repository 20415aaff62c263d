#include "cli/kv_members.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/http_client.h"
#include "common/etcd_json.h"

#define ETCD_TIMEOUT_MS  5000u
#define ANSWER_MAX_BYTES ((size_t)64 << 20)
#define ETCD_URL_MAX     256u

static status ask(const char *url, const char *body, json_t **out, struct error *err)
{
    struct text_buffer page;
    long code = 0;
    text_buffer_init(&page, ANSWER_MAX_BYTES);
    status st = http_fetch(url, body, ETCD_TIMEOUT_MS, &code, &page, err);
    json_t *root = st == ST_OK ? json_loadb(text_buffer_text(&page), page.len, 0, NULL) : NULL;
    if (st == ST_OK && (code != 200 || !json_is_object(root)))
        st = error_set(err, ST_IO, "%s answers %ld, and is no etcd that could be asked", url, code);
    if (st == ST_OK) {
        json_t *found = json_object_get(root, "kvs");
        *out = found ? json_incref(found) : json_array();
    }
    json_decref(root);
    text_buffer_free(&page);
    return st;
}

static status ask_in_turn(const char *urls, const char *body, json_t **out, struct error *err)
{
    status st = error_set(err, ST_INVALID, "--etcd: \"%.80s\" names no URL", urls);
    while (*urls && st != ST_OK) {
        char url[ETCD_URL_MAX + 16];
        const size_t len = strcspn(urls, ",");
        if (len > ETCD_URL_MAX)
            return error_set(err, ST_LIMIT, "--etcd: a URL is longer than %u bytes", ETCD_URL_MAX);
        snprintf(url, sizeof url, "%.*s/v3/kv/range", (int)len, urls);
        if (len)
            st = ask(url, body, out, err);
        urls += len + (urls[len] == ',');
    }
    return st;
}

status kv_members_fetch(const char *urls, const char *cluster, json_t **out, struct error *err)
{
    char prefix[INSTANCE_MAX_KEY];
    json_t *range = etcd_json_prefix(instance_prefix(prefix, sizeof prefix, cluster));
    char *body = range ? json_dumps(range, JSON_COMPACT) : NULL;
    status st = body ? ask_in_turn(urls, body, out, err) : error_set(err, ST_NO_MEMORY, "out of memory");
    free(body);
    json_decref(range);
    return st;
}

status kv_members_read(const json_t *key_value, struct instance *out, struct error *err)
{
    size_t len;
    char *text = etcd_json_text(key_value, "value", &len);
    status st = text ? instance_read(text, len, out, err) : error_set(err, ST_INVALID, "a value of etcd is not base64");
    free(text);
    return st;
}

static bool is_loopback(const char *url)
{
    return !strncmp(url, "http://127.", 11) || !strncmp(url, "http://[::1]", 12) ||
           !strncmp(url, "http://localhost", 16);
}

const char *kv_members_deaf(const struct instance *member, char *why, size_t size)
{
    if (!member->admin[0])
        snprintf(why, size, "its record says nothing of an admin port");
    else if (is_loopback(member->admin) && process_life(member->process) == PROCESS_ELSEWHERE)
        snprintf(why, size, "its admin port listens to its own host only, %s: --admin-listen", member->host);
    else
        return NULL;
    return why;
}
