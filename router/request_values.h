/* request_values.h - the members of a JSON body, read by the table of
 * request_fields.def: types and ranges are checked here, what hangs together in request.c.
 * Pure; any thread. */
#ifndef BATON_ROUTER_REQUEST_VALUES_H
#define BATON_ROUTER_REQUEST_VALUES_H

#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "router/api_error.h"

enum request_kind { REQUEST_CHAT = 1, REQUEST_TEXT = 2, REQUEST_TOKENS = 4, REQUEST_IDS = 8 };

#define REQUEST_IGNORED_BYTES      1024 /* of the list of members that were ignored */
#define REQUEST_IGNORED_NAME_BYTES 64

/* Defaults that stand for what the model has. */
#define REQUEST_OF_MODEL     ((double)NAN)
#define REQUEST_OF_MODEL_INT INT64_MIN

/* A largest value that stands for what the server was told. */
#define REQUEST_MAX_OF_SERVER ((double)INFINITY)

struct request_values {
#define VALUE_REAL(name)              double name;
#define VALUE_INT(name)               int64_t name;
#define VALUE_BOOL(name)              bool name;
#define VALUE_JSON(name)              const json_t *name;
#define VALUE_MEMBERS(name)           const json_t *name;
#define FIELD(name, where, TYPE, ...) VALUE_##TYPE(name)
#define IGNORED(name, where, types)
#define REFUSED(name, where, neutral)
#include "router/request_fields.def"
#undef REFUSED
#undef IGNORED
#undef FIELD
    char ignored[REQUEST_IGNORED_BYTES]; /* "a, b", printable ASCII; ends with ", ..." when cut */
};

/* Which members there are, and how much is allowed. */
struct request_scope {
    enum request_kind kind;
    uint32_t max_choices;
};

/* Parses body: one JSON object, strictly (UTF-8, no duplicate members). The error names line, column and
 * byte; of a number beyond 64 bits or the range of a double it names the member. *out is the caller's to json_decref.
 */
MUST_CHECK status request_json_parse(const char *body, size_t len, const struct request_scope *scope, json_t **out,
                                     struct api_error *err);
/* Values point into object. Errors name the member; the first one found is told. */
MUST_CHECK status request_values_read(const json_t *object, const struct request_scope *scope,
                                      struct request_values *out, struct api_error *err);

/* "an object", "a string" ... */
const char *request_json_type(const json_t *value);
/* The start of a text as an error may repeat it: control characters stand as \\u0000. Returns out. */
const char *request_show(const json_t *text, char *out, size_t size);
/* Tells that the value at path should be `wanted`. Returns ST_INVALID. */
status request_wrong_type(struct api_error *err, const char *path, const char *wanted, const json_t *got);
/* Adds a member to the list of what was ignored; name of len bytes. */
void request_ignore(struct request_values *values, const char *name, size_t len);
/* Adds the members of an inner object but for the known ones; NULL ends these. */
void request_ignore_others(struct request_values *values, const char *path, const json_t *object,
                           const char *const known[]);
/* Null and absence are the same in all of these. */
static inline const json_t *request_given(const json_t *value)
{
    return value && !json_is_null(value) ? value : NULL;
}

/* The value, or of_model where it is one of these defaults. */
static inline double request_real(double value, double of_model)
{
    return isnan(value) ? of_model : value;
}

static inline int64_t request_int(int64_t value, int64_t of_model)
{
    return value == REQUEST_OF_MODEL_INT ? of_model : value;
}

#endif
