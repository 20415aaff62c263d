/* log.h - structured log lines (logfmt) on standard error, one write each.
 *   2026-01-31T12:00:00.123Z info decode-0 msg="sequence admitted" request=1f.2a tokens=37
 * Any thread may log. The place that first decides that something is an error
 * logs it once; callers pass the status on. */
#ifndef BATON_COMMON_LOG_H
#define BATON_COMMON_LOG_H

#include "common/status.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_OFF };

/* name stands in each line ("decode-0"); copied, at most 63 bytes. */
void log_init(const char *name, enum log_level least);
/* "debug", "info", "warn", "error" or "off"; ST_INVALID otherwise. */
MUST_CHECK status log_level_parse(const char *text, enum log_level *out);
int log_enabled(enum log_level level);

/* An empty format is the way to say "no fields". */
#pragma GCC diagnostic ignored "-Wformat-zero-length"

/* fields is a printf format of key=value pairs, "" for none; values that may
 * hold spaces are quoted by the caller with %s of log_quote(). */
void log_write(enum log_level level, const char *msg, const char *fields, ...) PRINTF_LIKE(3, 4);

/* Quotes and escapes text into buf (returned), cutting it where buf ends. */
const char *log_quote(char *buf, size_t size, const char *text);

#define log_debug(...) (log_enabled(LOG_DEBUG) ? log_write(LOG_DEBUG, __VA_ARGS__) : (void)0)
#define log_info(...)  (log_enabled(LOG_INFO) ? log_write(LOG_INFO, __VA_ARGS__) : (void)0)
#define log_warn(...)  log_write(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)

#endif
