/* roster.h - the processes of a cluster and the state that each is in.
 * Data and decisions only: no processes, no clock. The supervisor acts. */
#ifndef BATON_CLI_ROSTER_H
#define BATON_CLI_ROSTER_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "cli/cluster_options.h"
#include "common/timers.h"

#define ROSTER_MAX       256 /* members */
#define MEMBER_MAX_PORTS 8

#define MEMBER_STATES(X)                              /* name, text, may become */                                     \
    X(PENDING, "restarting", TO(STARTING) | TO(GONE)) /* a moment of back-off     */                                   \
    X(STARTING, "starting", TO(READY) | TO(PENDING) | TO(DRAINING) | TO(GONE))                                         \
    X(READY, "ready", TO(PENDING) | TO(DRAINING) | TO(GONE))                                                           \
    X(DRAINING, "draining", TO(GONE)) /* was told to end          */                                                   \
    X(GONE, "gone", 0)                /* its place may be reused  */

enum member_state {
#define X(name, text, next) MEMBER_##name,
    MEMBER_STATES(X)
#undef X
        MEMBER_STATE_COUNT
};

struct member_port {
    char plane[16];
    uint16_t port;
};

struct member {
    char id[24]; /* "decode-0" */
    enum role role;
    uint32_t number; /* of the id */
    uint32_t model;  /* workers: index in the options */
    enum member_state state;
    pid_t pid;            /* 0: no process */
    uint64_t start_ticks; /* of that process, as /proc has it: a pid alone may be another's by now */
    uint64_t started_us;
    uint32_t restarts; /* over its life */
    uint32_t failures; /* in a row, for the back-off */
    struct member_port ports[MEMBER_MAX_PORTS];
    uint32_t n_ports;
    /* The supervisor's: */
    int ready_fd; /* -1: not waiting for the ready line */
    struct event *ready_event;
    struct timer timer;   /* PENDING: the restart; STARTING: the deadline; DRAINING: a look at it */
    uint64_t patience_us; /* DRAINING: when it is killed */
    uint64_t log_start;   /* size of its log when it was started */
    void *owner;          /* borrowed */
};

struct roster {
    struct member members[ROSTER_MAX];
    uint32_t n; /* slots in use, GONE ones among them */
};

const char *member_state_name(enum member_state state);
/* The only place that assigns the state; asserts that the move is legal. */
void member_enter(struct member *m, enum member_state state);
/* Has a process or will have one, and is not on its way out. */
bool member_is_active(const struct member *m);
/* 0 when it has none of that name. */
uint16_t member_port(const struct member *m, const char *plane);

/* A PENDING member with the lowest number that no living one of the role has; ST_LIMIT when the roster is full. */
MUST_CHECK status roster_add(struct roster *roster, enum role role, uint32_t model, struct member **out);
struct member *roster_find(struct roster *roster, const char *id); /* NULL: none that is not GONE */
struct member *roster_of_pid(struct roster *roster, pid_t pid);
uint32_t roster_count_active(const struct roster *roster, enum role role, uint32_t model);
/* Which active member should leave first: one that is not ready, else the highest number. NULL: there is none. */
struct member *roster_dispensable(struct roster *roster, enum role role, uint32_t model);
/* No member of the role has a process. */
bool roster_is_empty_of(const struct roster *roster, enum role role);

/* Back-off before the failures-th restart in a row, microseconds. */
uint64_t restart_delay_us(uint32_t failures);
#define RESTART_DELAY_MIN_US 100000u
#define RESTART_DELAY_MAX_US 10000000u
#define RESTART_FORGIVEN_US  30000000u /* a process that lived this long counts as sound */

#endif
