#include "cli/kv_targets.h"

#include <stdio.h>
#include <string.h>

#include "cli/cluster_options.h"
#include "cli/http_client.h"

#define ANSWER_MAX_BYTES ((size_t)4 << 20)

static status add(struct kv_targets *t, const char *id, const char *url, struct error *err)
{
    struct kv_target *one = &t->items[t->n];
    if (t->n == ROSTER_MAX || strlen(url) >= sizeof one->url)
        return error_set(err, ST_LIMIT, "--admin: too many addresses, or \"%.80s\" is too long", url);
    snprintf(one->id, sizeof one->id, "%.63s", id);
    snprintf(one->url, sizeof one->url, "%s", url);
    t->n++;
    return ST_OK;
}

static status add_given(const struct option_list *given, struct kv_targets *t, struct error *err)
{
    status st = ST_OK;
    for (size_t i = 0; st == ST_OK && i < given->n; i++)
        st = strncmp(given->items[i], "http://", 7) == 0
                 ? add(t, given->items[i], given->items[i], err)
                 : error_set(err, ST_INVALID, "--admin: \"%.80s\" does not begin with http://", given->items[i]);
    return st;
}

static status add_member(const json_t *member, bool workers, struct kv_targets *t, struct error *err)
{
    char url[64];
    enum role role = role_parse(json_text(member, "role"));
    long long port = json_number(json_object_get(member, "ports"), "admin");
    if (workers ? !role_is_worker(role) : role != ROLE_KVBM)
        return ST_OK;
    if (!port) /* it is being started: nothing can be asked, and nobody should think that it was */
        return error_set(err, ST_AGAIN, "%s is %s; try again", json_text(member, "id"), json_text(member, "state"));
    snprintf(url, sizeof url, "http://127.0.0.1:%lld", port);
    return add(t, json_text(member, "id"), url, err);
}

static status add_members(const json_t *state, bool workers, struct kv_targets *t, struct error *err)
{
    const json_t *member;
    size_t i;
    status st = ST_OK;
    json_array_foreach(json_object_get(state, "workers"), i, member)
    {
        if (st == ST_OK)
            st = add_member(member, workers, t, err);
    }
    return st;
}

static status add_local(const struct place *place, bool with_workers, struct kv_targets *t, struct error *err)
{
    struct state_dir dir;
    json_t *state;
    status st = place_find(place, &dir, err);
    if (st == ST_OK)
        st = place_status(&dir, &state, err);
    if (st != ST_OK)
        return st;
    snprintf(t->router, sizeof t->router, "%.63s", json_text(state, "url"));
    if (with_workers)
        st = add_members(state, true, t, err);
    if (st == ST_OK)
        st = add_members(state, false, t, err);
    json_decref(state);
    return st;
}

status kv_targets_find(const struct kv_place *place, bool with_workers, struct kv_targets *out, struct error *err)
{
    *out = (struct kv_targets){ .n = 0 };
    status st = place->admin.n ? add_given(&place->admin, out, err) : add_local(&place->place, with_workers, out, err);
    if (st == ST_OK && out->n == 0)
        return error_set(err, ST_NOT_FOUND, "the cluster has no KV block manager (baton scale kvbm=1 starts one)");
    return st;
}

/* "error" of an answer, or its first line. */
static status refused(const struct kv_target *target, long code, const json_t *root, const struct text_buffer *page,
                      struct error *err)
{
    const char *why = json_text(root, "error"), *text = why[0] ? why : text_buffer_text(page);
    return error_set(err, ST_INVALID, "%s answers %ld: %.*s", target->id, code, (int)strcspn(text, "\n"), text);
}

status kv_target_ask(const struct kv_target *target, const char *path, const char *body, uint64_t timeout_ms,
                     json_t **out, struct error *err)
{
    char url[320];
    long code = 0;
    struct text_buffer page;
    struct error why;
    text_buffer_init(&page, ANSWER_MAX_BYTES);
    snprintf(url, sizeof url, "%s%s", target->url, path);
    status st = http_fetch(url, body, timeout_ms, &code, &page, &why);
    if (st != ST_OK) {
        text_buffer_free(&page);
        return error_set(err, st, "%s: %s", target->id, why.text);
    }
    json_t *root = json_loadb(text_buffer_text(&page), page.len, 0, NULL);
    if (code != 200 || !json_is_object(root)) {
        st = refused(target, code, root, &page, err);
        json_decref(root);
    } else {
        *out = root;
    }
    text_buffer_free(&page);
    return st;
}
