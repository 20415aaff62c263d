#include "common/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/log.h"

const char *status_text(status st)
{
    static const char *const texts[] = {
#define X(name, text) text,
        STATUSES(X)
#undef X
    };
    return (unsigned)st < ST_COUNT ? texts[st] : "unknown status";
}

status error_set(struct error *err, status st, const char *fmt, ...)
{
    if (err) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
    }
    return st;
}

_Noreturn void assert_failed(const char *cond, const char *file, int line)
{
    log_error("assertion failed", "condition=\"%s\" at=%s:%d", cond, file, line);
    abort();
}
