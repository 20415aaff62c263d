#include "cli/kv_targets.h"

#include <stdio.h>
#include <string.h>

#include "cli/cluster_options.h"
#include "cli/http_client.h"
#include "cli/kv_members.h"
#include "kvbm/salt_key.h"

#define ANSWER_MAX_BYTES ((size_t)4 << 20)
#define KEY_TIMEOUT_MS   5000u

static status add(struct kv_targets *t, const struct kv_target *one, struct error *err)
{
    if (t->n == KV_TARGETS_MAX)
        return error_set(err, ST_LIMIT, "these are more than %u processes", KV_TARGETS_MAX);
    t->items[t->n++] = *one;
    return ST_OK;
}

static status add_url(struct kv_targets *t, const char *url, struct error *err)
{
    struct kv_target one = { .role = ROLE_COUNT };
    if (strncmp(url, "http://", 7) != 0)
        return error_set(err, ST_INVALID, "--admin: \"%.80s\" does not begin with http://", url);
    if (strlen(url) >= sizeof one.url)
        return error_set(err, ST_LIMIT, "--admin: \"%.80s\" is too long", url);
    snprintf(one.id, sizeof one.id, "%.63s", url);
    snprintf(one.url, sizeof one.url, "%s", url);
    return add(t, &one, err);
}

static status add_given(const struct option_list *given, struct kv_targets *t, struct error *err)
{
    status st = ST_OK;
    for (size_t i = 0; st == ST_OK && i < given->n; i++)
        st = add_url(t, given->items[i], err);
    return st;
}

static unsigned who_is(enum role role)
{
    return role_is_worker(role) ? KV_WORKERS : role == ROLE_KVBM ? KV_MANAGERS : role == ROLE_ROUTER ? KV_ROUTERS : 0;
}

/* ---- of the local cluster ---------------------------------------------------------------- */

static status add_member(const json_t *member, struct kv_targets *t, struct error *err)
{
    struct kv_target one = { .role = role_parse(json_text(member, "role")) };
    long long port = json_number(json_object_get(member, "ports"), "admin");
    if (!port) /* it is being started: nothing can be asked, and nobody should think that it was */
        return error_set(err, ST_AGAIN, "%s is %s; try again", json_text(member, "id"), json_text(member, "state"));
    snprintf(one.id, sizeof one.id, "%.63s", json_text(member, "id"));
    snprintf(one.url, sizeof one.url, "http://127.0.0.1:%lld", port);
    return add(t, &one, err);
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

/* ---- of etcd ------------------------------------------------------------------------------ */

static bool is_there(const struct kv_targets *t, const struct instance *member)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->items[i].role == role_parse(member->role) && !strcmp(t->items[i].id, member->id))
            return true;
    return false;
}

/* What a process held that has ended here is gone, although its record stays for a while. */
static status add_record(const struct instance *member, struct kv_targets *t, struct error *err)
{
    struct kv_target one = { .role = role_parse(member->role) };
    if (is_there(t, member) || process_life(member->process) == PROCESS_ENDED)
        return ST_OK;
    snprintf(one.id, sizeof one.id, "%s", member->id);
    snprintf(one.url, sizeof one.url, "%s", member->admin);
    (void)kv_members_deaf(member, one.deaf, sizeof one.deaf);
    if (one.role == ROLE_ROUTER && !t->router[0])
        snprintf(t->router, sizeof t->router, "%.63s", member->api);
    return add(t, &one, err);
}

static status add_records(const json_t *records, unsigned who, struct kv_targets *t, struct error *err)
{
    const json_t *key_value;
    size_t i;
    status st = ST_OK;
    json_array_foreach(records, i, key_value)
    {
        struct instance member;
        if (st == ST_OK)
            st = kv_members_read(key_value, &member, err);
        if (st == ST_OK && who_is(role_parse(member.role)) == who)
            st = add_record(&member, t, err);
    }
    return st;
}

/* ---- all ------------------------------------------------------------------------------------ */

/* state and records may be NULL. */
static status add_all(const json_t *state, const json_t *records, unsigned who, struct kv_targets *t, struct error *err)
{
    status st = ST_OK;
    for (unsigned kind = KV_WORKERS; st == ST_OK && kind <= KV_ROUTERS; kind <<= 1) {
        if (who & kind)
            st = add_members(state, kind, t, err);
        if (st == ST_OK && who & kind)
            st = add_records(records, kind, t, err);
        if (st == ST_OK && kind == KV_MANAGERS && t->n == 0)
            st = error_set(err, ST_NOT_FOUND, "the cluster has no KV block manager (baton scale kvbm=1 starts one)");
    }
    return st;
}

static void miss(struct kv_targets *t, const char *what, const struct error *why)
{
    fprintf(stderr, "%s: %s\n", what, why->text);
    t->missed++;
}

static status add_local(const struct place *place, unsigned who, struct kv_targets *t, struct error *err)
{
    struct state_dir dir;
    struct error why;
    json_t *state, *records = NULL;
    status st = place_find(place, &dir, err);
    if (st == ST_OK)
        st = place_status(&dir, &state, err);
    if (st != ST_OK)
        return st;
    snprintf(t->router, sizeof t->router, "%.63s", json_text(state, "url"));
    if (who & KV_EVERYWHERE &&
        kv_members_fetch(json_text(state, "etcd_url"), json_text(state, "cluster"), &records, &why) != ST_OK)
        miss(t, "members on other hosts are not known", &why);
    st = add_all(state, records, who, t, err);
    json_decref(records);
    json_decref(state);
    return st;
}

static status add_registered(const struct kv_place *place, unsigned who, struct kv_targets *t, struct error *err)
{
    json_t *records;
    status st = kv_members_fetch(place->etcd, place->cluster ? place->cluster : "default", &records, err);
    if (st != ST_OK)
        return st;
    st = add_all(NULL, records, who, t, err);
    json_decref(records);
    return st;
}

status kv_targets_find(const struct kv_place *place, unsigned who, struct kv_targets *out, struct error *err)
{
    *out = (struct kv_targets){ .n = 0 };
    if (place->cluster && !place->etcd)
        return error_set(err, ST_INVALID,
                         "--cluster is the name of a cluster in the etcd of --etcd, which is not given");
    if (place->admin.n && place->etcd)
        return error_set(err, ST_INVALID, "--etcd and --admin both say who is asked: give one of the two");
    return place->admin.n ? add_given(&place->admin, out, err)
           : place->etcd  ? add_registered(place, who, out, err)
                          : add_local(&place->place, who, out, err);
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
    status st = target->deaf[0] ? error_set(&why, ST_IO, "%s", target->deaf)
                                : http_fetch(url, body, timeout_ms, &code, &page, &why);
    if (st != ST_OK) {
        text_buffer_free(&page);
        return strcmp(target->id, target->url) == 0 ? error_set(err, st, "%s", why.text) /* which names it */
                                                    : error_set(err, st, "%s: %s", target->id, why.text);
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

/* Those that are left, of n, are compared and hold blocks. */
static status last_word(struct kv_targets *targets, size_t holders, size_t routers, struct error *err)
{
    const bool only_routers = routers == targets->n;
    targets->n = holders;
    if (holders && !routers)
        fputs("no router was asked, so that its salt key may be another one\n", stderr);
    if (holders)
        return ST_OK;
    return error_set(err, ST_NOT_FOUND,
                     only_routers ? "--admin names routers only, which hold no blocks"
                                  : "nobody who holds blocks could be reached");
}

status kv_targets_agree(struct kv_targets *targets, struct error *err)
{
    struct key_holder first = { .id = "" }, other = first;
    size_t holders = 0, routers = 0;
    for (size_t i = 0; i < targets->n; i++) {
        bool router = false;
        status st = look_at_key(&targets->items[i], &other, &router, err);
        if (st == ST_IO || st == ST_TIMEOUT) {
            miss(targets, "not reached", err);
            continue;
        }
        if (st != ST_OK)
            return st;
        if (!first.id[0])
            first = other;
        else if (strcmp(first.fingerprint, other.fingerprint) != 0)
            return differ(&first, &other, err);
        routers += router;
        if (!router)
            targets->items[holders++] = targets->items[i];
    }
    return last_word(targets, holders, routers, err);
}
