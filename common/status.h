/* status.h - what a fallible function returns, and the words that go with it.
 * A status says what kind of thing went wrong; a struct error adds a sentence
 * for the person who has to act on it. */
#ifndef BATON_COMMON_STATUS_H
#define BATON_COMMON_STATUS_H

#include <stddef.h>

#define STATUSES(X)                                                                                                    \
    X(OK, "ok")                                                                                                        \
    X(AGAIN, "try again") /* short of something for now */                                                             \
    X(INVALID, "invalid") /* the input is wrong         */                                                             \
    X(NOT_FOUND, "not found")                                                                                          \
    X(UNSUPPORTED, "not supported") /* valid, but not built       */                                                   \
    X(LIMIT, "limit reached")       /* a named bound was hit      */                                                   \
    X(NO_MEMORY, "out of memory")                                                                                      \
    X(TIMEOUT, "deadline passed")                                                                                      \
    X(CANCELLED, "cancelled")                                                                                          \
    X(CLOSED, "closed")   /* the peer or the object     */                                                             \
    X(STALE, "stale")     /* an older attempt or leg    */                                                             \
    X(CORRUPT, "corrupt") /* checksum or format         */                                                             \
    X(IO, "input/output error")

typedef enum status {
#define X(name, text) ST_##name,
    STATUSES(X)
#undef X
        ST_COUNT
} status;

#define MUST_CHECK              __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, first) __attribute__((format(printf, fmt, first)))

const char *status_text(status st);

/* One sentence for people, without a trailing full stop or newline. */
struct error {
    char text[512];
};

/* Writes the sentence and returns st, so that `return error_set(...)` reads
 * well. err may be NULL. */
status error_set(struct error *err, status st, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* For our own bugs; kept in release builds. Logs the place and aborts. */
#define ASSERT(cond)                                                                                                   \
    do {                                                                                                               \
        if (__builtin_expect(!(cond), 0))                                                                              \
            assert_failed(#cond, __FILE__, __LINE__);                                                                  \
    } while (0)

_Noreturn void assert_failed(const char *cond, const char *file, int line);

#endif
