#include "common/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = { "debug", "info", "warn", "error", "off" };
static char log_name[64] = "baton";
static enum log_level log_least = LOG_INFO;

void log_init(const char *name, enum log_level least)
{
    snprintf(log_name, sizeof log_name, "%s", name);
    log_least = least;
}

status log_level_parse(const char *text, enum log_level *out)
{
    for (int i = LOG_DEBUG; i <= LOG_OFF; i++)
        if (!strcasecmp(text, level_names[i])) {
            *out = (enum log_level)i;
            return ST_OK;
        }
    return ST_INVALID;
}

int log_enabled(enum log_level level)
{
    return level >= log_least && level < LOG_OFF;
}

const char *log_quote(char *buf, size_t size, const char *text)
{
    size_t n = 0;
    buf[n++] = '"';
    for (const char *p = text; *p && n + 4 < size; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '"' || c == '\\')
            buf[n++] = '\\';
        buf[n++] = (c == '\n' || c == '\r' || c < 32) ? ' ' : (char)c;
    }
    buf[n++] = '"';
    buf[n] = '\0';
    return buf;
}

void log_write(enum log_level level, const char *msg, const char *fields, ...)
{
    if (!log_enabled(level))
        return;
    char line[2048];
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03ldZ %s %s msg=\"%s\"", now.tv_nsec / 1000000,
                          level_names[level], log_name, msg);
    if (n < sizeof line - 2 && fields[0]) {
        line[n++] = ' ';
        va_list args;
        va_start(args, fields);
        int wrote = vsnprintf(line + n, sizeof line - n - 1, fields, args);
        va_end(args);
        n += wrote > 0 ? (size_t)wrote : 0;
    }
    if (n > sizeof line - 2)
        n = sizeof line - 2;
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, n) < 0) {
        /* Nowhere left to say it. */
    }
}
