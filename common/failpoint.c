#include "common/failpoint.h"

#ifdef BATON_FAILPOINTS

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/json_writer.h"

/* name, has an argument in milliseconds */
#define ACTIONS(X)                                                                                                     \
    X(OFF, "off", 0)                                                                                                   \
    X(PAUSE, "pause", 1)                                                                                               \
    X(SLEEP, "sleep", 1)                                                                                               \
    X(FREEZE, "freeze", 0)                                                                                             \
    X(KILL, "kill", 0)                                                                                                 \
    X(DROP, "drop", 0)                                                                                                 \
    X(FLIP, "flip", 0)                                                                                                 \
    X(OBSERVE, "observe", 0)

enum action {
#define X(id, text, has_ms) ACTION_##id,
    ACTIONS(X)
#undef X
        ACTION_COUNT
};

static const struct {
    const char *text;
    bool has_ms;
} actions[] = {
#define X(id, text, has_ms) { text, has_ms },
    ACTIONS(X)
#undef X
};

#define FAILPOINT_MAX_MS 3600000u

struct plan {
    enum action action;
    uint32_t ms;
    uint64_t after, times; /* acts at hits after .. after + times - 1, counted from the arming; times 0: for ever */
};

struct failpoint {
    char name[FAILPOINT_NAME_BYTES];
    struct plan plan;
    uint64_t hits, hits_when_armed, acted;
};

atomic_bool failpoint_any;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static struct failpoint points[FAILPOINT_MAX];
static size_t n_points;
static uint64_t armings; /* raised by each change, which ends pauses whose failpoint is no longer armed */

/* Under the lock, as all that touches the table. */
static struct failpoint *find(const char *name)
{
    for (size_t i = 0; i < n_points; i++)
        if (!strcmp(points[i].name, name))
            return &points[i];
    return NULL;
}

/* NULL when the table is full. */
static struct failpoint *find_or_add(const char *name)
{
    struct failpoint *point = find(name);
    if (point || n_points == FAILPOINT_MAX)
        return point;
    ASSERT(strlen(name) < FAILPOINT_NAME_BYTES);
    point = &points[n_points++];
    *point = (struct failpoint){ 0 };
    snprintf(point->name, sizeof point->name, "%s", name);
    return point;
}

static void sleep_ms(uint32_t ms)
{
    struct timespec left = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };
    while (nanosleep(&left, &left) < 0 && errno == EINTR) {
    }
}

/* Gives the lock up while it waits. The name is looked up again
 * because a reset empties the table. */
static void pause_ms(const char *name, uint32_t ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    for (;;) {
        uint64_t seen = armings;
        while (seen == armings)
            if (pthread_cond_timedwait(&released, &lock, &until) == ETIMEDOUT)
                return;
        const struct failpoint *point = find(name);
        if (!point || point->plan.action != ACTION_PAUSE)
            return;
    }
}

/* Under the lock. */
static bool acts_now(const struct failpoint *point)
{
    uint64_t hit = point->hits - point->hits_when_armed;
    if (point->plan.action == ACTION_OFF || hit < point->plan.after)
        return false;
    return point->plan.times == 0 || hit - point->plan.after < point->plan.times;
}

static enum failpoint_action act(const char *name, struct plan plan)
{
    switch (plan.action) {
    case ACTION_PAUSE:
        pthread_mutex_lock(&lock);
        pause_ms(name, plan.ms);
        pthread_mutex_unlock(&lock);
        return FAILPOINT_NONE;
    case ACTION_SLEEP:
        sleep_ms(plan.ms);
        return FAILPOINT_NONE;
    case ACTION_FREEZE:
        raise(SIGSTOP);
        return FAILPOINT_NONE;
    case ACTION_KILL:
        raise(SIGKILL);
        return FAILPOINT_NONE;
    case ACTION_DROP:
        return FAILPOINT_DROP;
    case ACTION_FLIP:
        return FAILPOINT_FLIP;
    case ACTION_OFF:
    case ACTION_OBSERVE:
    case ACTION_COUNT:
        break;
    }
    return FAILPOINT_NONE;
}

enum failpoint_action failpoint_hit(const char *name)
{
    struct plan plan = { .action = ACTION_OFF };
    pthread_mutex_lock(&lock);
    struct failpoint *point = find_or_add(name);
    if (point) {
        point->hits++;
        if (acts_now(point)) {
            point->acted++;
            plan = point->plan;
        }
    }
    pthread_mutex_unlock(&lock);
    return act(name, plan);
}

static bool parse_number(const char **p, uint64_t max, uint64_t *out)
{
    char *end;
    if (!isdigit((unsigned char)**p))
        return false;
    errno = 0;
    unsigned long long v = strtoull(*p, &end, 10);
    if (errno || v > max)
        return false;
    *out = v;
    *p = end;
    return true;
}

static bool parse_action(const char **p, struct plan *plan)
{
    size_t len = strcspn(*p, "(,;");
    for (int i = 0; i < ACTION_COUNT; i++) {
        if (strlen(actions[i].text) != len || strncmp(*p, actions[i].text, len) != 0)
            continue;
        uint64_t ms = 0;
        *p += len;
        if (actions[i].has_ms && (*(*p)++ != '(' || !parse_number(p, FAILPOINT_MAX_MS, &ms) || *(*p)++ != ')'))
            return false;
        plan->action = (enum action)i;
        plan->ms = (uint32_t)ms;
        return true;
    }
    return false;
}

static bool parse_conditions(const char **p, struct plan *plan)
{
    plan->after = 1;
    while (**p == ',') {
        bool is_after = !strncmp(*p, ",after=", 7), is_times = !strncmp(*p, ",times=", 7);
        if (!is_after && !is_times)
            return false;
        *p += 7;
        uint64_t *to = is_after ? &plan->after : &plan->times;
        if (!parse_number(p, UINT32_MAX, to) || *to == 0)
            return false;
    }
    return true;
}

/* One "name=action,after=N,times=N" up to ; or the end. */
static bool parse_point(const char **p, struct failpoint *out)
{
    size_t len = strcspn(*p, "=;");
    if ((*p)[len] != '=' || len == 0 || len >= FAILPOINT_NAME_BYTES)
        return false;
    *out = (struct failpoint){ 0 };
    memcpy(out->name, *p, len);
    *p += len + 1;
    return parse_action(p, &out->plan) && parse_conditions(p, &out->plan) && (!**p || **p == ';');
}

/* Under the lock: false when the new names would not fit. */
static bool fits(const struct failpoint wanted[], size_t n)
{
    size_t fresh = 0;
    for (size_t i = 0; i < n; i++)
        fresh += find(wanted[i].name) == NULL;
    return fresh <= FAILPOINT_MAX - n_points;
}

static status apply(const struct failpoint wanted[], size_t n, struct error *err)
{
    pthread_mutex_lock(&lock);
    if (!fits(wanted, n)) {
        pthread_mutex_unlock(&lock);
        return error_set(err, ST_LIMIT, "there is room for %d failpoints", FAILPOINT_MAX);
    }
    for (size_t i = 0; i < n; i++) {
        struct failpoint *point = find_or_add(wanted[i].name);
        point->plan = wanted[i].plan;
        point->hits_when_armed = point->hits;
    }
    armings++;
    atomic_store_explicit(&failpoint_any, true, memory_order_relaxed);
    pthread_cond_broadcast(&released);
    pthread_mutex_unlock(&lock);
    return ST_OK;
}

#define FAILPOINT_MAX_AT_ONCE 32

status failpoint_arm(const char *text, struct error *err)
{
    struct failpoint wanted[FAILPOINT_MAX_AT_ONCE];
    size_t n = 0;
    while (*(text += strspn(text, "; \t\r\n"))) {
        const char *p = text;
        if (n == FAILPOINT_MAX_AT_ONCE)
            return error_set(err, ST_LIMIT, "more than %d failpoints at once", FAILPOINT_MAX_AT_ONCE);
        if (!parse_point(&p, &wanted[n]))
            return error_set(err, ST_INVALID,
                             "\"%.*s\" is not name=off|pause(ms)|sleep(ms)|freeze|kill|drop|flip|observe[,after=N]"
                             "[,times=N]",
                             (int)(strcspn(text, ";") < 100 ? strcspn(text, ";") : 100), text);
        n++;
        text = p;
    }
    return n ? apply(wanted, n, err) : ST_OK;
}

bool failpoint_allowed(void)
{
    return getenv("BATON_FAILPOINTS") != NULL;
}

status failpoint_arm_from_environment(struct error *err)
{
    const char *text = getenv("BATON_FAILPOINTS");
    return text ? failpoint_arm(text, err) : ST_OK;
}

void failpoint_reset(void)
{
    pthread_mutex_lock(&lock);
    n_points = 0;
    armings++;
    atomic_store_explicit(&failpoint_any, false, memory_order_relaxed);
    pthread_cond_broadcast(&released);
    pthread_mutex_unlock(&lock);
}

static void plan_text(struct plan plan, char *buf, size_t size)
{
    int n = snprintf(buf, size, "%s", actions[plan.action].text);
    if (actions[plan.action].has_ms)
        n += snprintf(buf + n, size - (size_t)n, "(%u)", plan.ms);
    if (plan.after > 1)
        n += snprintf(buf + n, size - (size_t)n, ",after=%llu", (unsigned long long)plan.after);
    if (plan.times)
        snprintf(buf + n, size - (size_t)n, ",times=%llu", (unsigned long long)plan.times);
}

void failpoint_write_json(struct text_buffer *out)
{
    struct json_writer w;
    char plan[80];
    json_writer_init(&w, out);
    json_write_array(&w);
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < n_points; i++) {
        json_write_object(&w);
        json_field_string(&w, "name", points[i].name);
        json_field_uint(&w, "hits", points[i].hits);
        json_field_uint(&w, "acted", points[i].acted);
        json_write_key(&w, "armed");
        if (points[i].plan.action == ACTION_OFF) {
            json_write_null(&w);
        } else {
            plan_text(points[i].plan, plan, sizeof plan);
            json_write_string(&w, plan);
        }
        json_write_end(&w);
    }
    pthread_mutex_unlock(&lock);
    json_write_end(&w);
}

#endif
