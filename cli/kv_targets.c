#include "cli/kv_targets.h"

#include <stdio.h>
#include <string.h>

#include "cli/cluster_options.h"
#include "cli/http_client.h"
#include "kvbm/salt_key.h"

#define ANSWER_MAX_BYTES ((size_t)4 << 20)
#define KEY_TIMEOUT_MS   5000u

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

static unsigned who_is(enum role role)
{
    return role_is_worker(role) ? KV_WORKERS : role == ROLE_KVBM ? KV_MANAGERS : role == ROLE_ROUTER ? KV_ROUTERS : 0;
}

static status add_member(const json_t *member, struct kv_targets *t, struct error *err)
{
    char url[64];
    long long port = json_number(json_object_get(member, "ports"), "admin");
    if (!port) /* it is being started: nothing can be asked, and nobody should think that it was */
        return error_set(err, ST_AGAIN, "%s is %s; try again", json_text(member, "id"), json_text(member, "state"));
    snprintf(url, sizeof url, "http://127.0.0.1:%lld", port);
    return add(t, json_text(member, "id"), url, err);
}

static status add_members(const json_t *state, unsigned who, struct kv_targets *t, struct error *err)
{
    const json_t *member;
    size_t i;
    status st = ST_OK;
    json_array_foreach(json_object_get(state, "workers"), i, member)
    {
        if (st == ST_OK && who_is(role_parse(json_text(member, "role"))) == who)
            st = add_member(member, t, err);
    }
    return st;
}

static status add_local(const struct place *place, unsigned who, struct kv_targets *t, struct error *err)
{
    struct state_dir dir;
    json_t *state;
    status st = place_find(place, &dir, err);
    if (st == ST_OK)
        st = place_status(&dir, &state, err);
    if (st != ST_OK)
        return st;
    snprintf(t->router, sizeof t->router, "%.63s", json_text(state, "url"));
    if (who & KV_WORKERS)
        st = add_members(state, KV_WORKERS, t, err);
    if (st == ST_OK && who & KV_MANAGERS)
        st = add_members(state, KV_MANAGERS, t, err);
    if (st == ST_OK && t->n == 0)
        st = error_set(err, ST_NOT_FOUND, "the cluster has no KV block manager (baton scale kvbm=1 starts one)");
    if (st == ST_OK && who & KV_ROUTERS)
        st = add_members(state, KV_ROUTERS, t, err);
    json_decref(state);
    return st;
}

status kv_targets_find(const struct kv_place *place, unsigned who, struct kv_targets *out, struct error *err)
{
    *out = (struct kv_targets){ .n = 0 };
    return place->admin.n ? add_given(&place->admin, out, err) : add_local(&place->place, who, out, err);
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

/* ---- the key of salts ----------------------------------------------------------------- */

struct key_holder {
    char id[64], fingerprint[SALT_KEY_FINGERPRINT_BYTES];
};

static status differ(const struct key_holder *first, const struct key_holder *other, struct error *err)
{
    return error_set(
        err, ST_INVALID,
        "%s has the salt key %s and %s has %s, so that a salt means other blocks to each: give all routers, "
        "workers and managers the same --salt-key-file",
        first->id, first->fingerprint, other->id, other->fingerprint);
}

static status look_at_key(const struct kv_target *target, struct key_holder *out, bool *router, struct error *err)
{
    json_t *answer = NULL;
    status st = kv_target_ask(target, "/kv/salt-key", NULL, KEY_TIMEOUT_MS, &answer, err);
    if (st != ST_OK)
        return st;
    snprintf(out->id, sizeof out->id, "%s", target->id);
    snprintf(out->fingerprint, sizeof out->fingerprint, "%.16s", json_text(answer, "salt_key"));
    *router = role_parse(json_text(answer, "role")) == ROLE_ROUTER;
    json_decref(answer);
    return ST_OK;
}

status kv_targets_agree(struct kv_targets *targets, struct error *err)
{
    struct key_holder first = { .id = "" }, other = first;
    size_t holders = 0;
    bool router = false;
    for (size_t i = 0; i < targets->n; i++) {
        status st = look_at_key(&targets->items[i], &other, &router, err);
        if (st != ST_OK)
            return st;
        if (i == 0)
            first = other;
        else if (strcmp(first.fingerprint, other.fingerprint) != 0)
            return differ(&first, &other, err);
        if (!router)
            targets->items[holders++] = targets->items[i];
    }
    if (holders == targets->n)
        fputs("no router was asked (--admin names none), so that its salt key may be another one\n", stderr);
    targets->n = holders;
    return holders ? ST_OK : error_set(err, ST_NOT_FOUND, "--admin names routers only, which hold no blocks");
}
