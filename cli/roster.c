#include "cli/roster.h"

#include <stdio.h>
#include <string.h>

#define TO(state) (1u << MEMBER_##state)

static const char *const state_names[] = {
#define X(name, text, next) text,
    MEMBER_STATES(X)
#undef X
};

static const unsigned next_states[] = {
#define X(name, text, next) next,
    MEMBER_STATES(X)
#undef X
};

const char *member_state_name(enum member_state state)
{
    ASSERT((unsigned)state < MEMBER_STATE_COUNT);
    return state_names[state];
}

void member_enter(struct member *m, enum member_state state)
{
    ASSERT(next_states[m->state] & (1u << state));
    m->state = state;
}

bool member_is_active(const struct member *m)
{
    return m->state == MEMBER_PENDING || m->state == MEMBER_STARTING || m->state == MEMBER_READY;
}

uint16_t member_port(const struct member *m, const char *plane)
{
    for (uint32_t i = 0; i < m->n_ports; i++)
        if (!strcmp(m->ports[i].plane, plane))
            return m->ports[i].port;
    return 0;
}

static bool number_is_taken(const struct roster *roster, enum role role, uint32_t number)
{
    for (uint32_t i = 0; i < roster->n; i++) {
        const struct member *m = &roster->members[i];
        if (m->state != MEMBER_GONE && m->role == role && m->number == number)
            return true;
    }
    return false;
}

/* Slots are reused and never moved: events and timers point into them. */
static struct member *take_slot(struct roster *roster)
{
    for (uint32_t i = 0; i < roster->n; i++)
        if (roster->members[i].state == MEMBER_GONE)
            return &roster->members[i];
    return roster->n < ROSTER_MAX ? &roster->members[roster->n++] : NULL;
}

status roster_add(struct roster *roster, enum role role, uint32_t model, struct member **out)
{
    uint32_t number = 0;
    while (number_is_taken(roster, role, number))
        number++;
    struct member *m = take_slot(roster);
    if (!m)
        return ST_LIMIT;
    *m = (struct member){ .role = role, .number = number, .model = model, .ready_fd = -1 };
    if (role == ROLE_ETCD)
        snprintf(m->id, sizeof m->id, "etcd");
    else
        snprintf(m->id, sizeof m->id, "%s-%u", role_name(role), number);
    *out = m;
    return ST_OK;
}

struct member *roster_find(struct roster *roster, const char *id)
{
    for (uint32_t i = 0; i < roster->n; i++)
        if (roster->members[i].state != MEMBER_GONE && !strcmp(roster->members[i].id, id))
            return &roster->members[i];
    return NULL;
}

struct member *roster_of_pid(struct roster *roster, pid_t pid)
{
    for (uint32_t i = 0; i < roster->n; i++)
        if (roster->members[i].pid == pid)
            return &roster->members[i];
    return NULL;
}

uint32_t roster_count_active(const struct roster *roster, enum role role, uint32_t model)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < roster->n; i++) {
        const struct member *m = &roster->members[i];
        count += m->role == role && m->model == model && member_is_active(m);
    }
    return count;
}

struct member *roster_dispensable(struct roster *roster, enum role role, uint32_t model)
{
    struct member *worst = NULL;
    for (uint32_t i = 0; i < roster->n; i++) {
        struct member *m = &roster->members[i];
        if (m->role != role || m->model != model || !member_is_active(m))
            continue;
        bool idle = m->state != MEMBER_READY, worst_idle = worst && worst->state != MEMBER_READY;
        if (!worst || idle > worst_idle || (idle == worst_idle && m->number > worst->number))
            worst = m;
    }
    return worst;
}

bool roster_is_empty_of(const struct roster *roster, enum role role)
{
    for (uint32_t i = 0; i < roster->n; i++)
        if (roster->members[i].role == role && roster->members[i].pid != 0)
            return false;
    return true;
}

uint64_t restart_delay_us(uint32_t failures)
{
    uint64_t delay = RESTART_DELAY_MIN_US;
    for (uint32_t i = 1; i < failures && delay < RESTART_DELAY_MAX_US; i++)
        delay *= 2;
    return delay < RESTART_DELAY_MAX_US ? delay : RESTART_DELAY_MAX_US;
}
