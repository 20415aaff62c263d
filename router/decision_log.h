/* decision_log.h - the file that decisions are logged in, one JSON line each. A thread of its own writes, so that a
 * slow or full disk stops nobody: what it cannot take is dropped and counted. When the file is full it becomes FILE.1,
 * whose predecessor goes, and a new one begins. */
#ifndef BATON_ROUTER_DECISION_LOG_H
#define BATON_ROUTER_DECISION_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define DECISION_LOG_WAITING ((size_t)4 << 20) /* bytes that wait to be written; more are dropped */

struct decision_log;

/* Appends to path, in which "{id}" stands for id: several routers must not share a file. */
MUST_CHECK status decision_log_open(const char *path, const char *id, uint64_t max_bytes, struct decision_log **out,
                                    struct error *err);
/* Writes what waits, as far as that takes no longer than two seconds. */
void decision_log_close(struct decision_log **log);
/* A whole line, to which a newline is added. False: it was dropped. One thread. */
bool decision_log_add(struct decision_log *log, const char *line, size_t len);

struct decision_log_stats {
    uint64_t lines, dropped, bytes; /* dropped: lines; bytes: written */
};
void decision_log_stats(struct decision_log *log, struct decision_log_stats *out);

#endif
