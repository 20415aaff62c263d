/* etcd_json.h - the shapes of etcd's JSON gateway: base64 for bytes, strings for 64-bit
 * integers, zero and false left out. */
#ifndef BATON_COMMON_ETCD_JSON_H
#define BATON_COMMON_ETCD_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A JSON string with the padded base64 of data; NULL: no memory. */
json_t *etcd_json_bytes(const void *data, size_t len);
/* Decodes a field of object into a new NUL-terminated buffer (the caller frees). A field that is left out
 * is empty; NULL: not base64, or no memory. */
char *etcd_json_text(const json_t *object, const char *field, size_t *len);
/* An int64 as string or number; 0 when left out or malformed. */
int64_t etcd_json_int(const json_t *object, const char *field);
json_t *etcd_json_int_string(int64_t value);

/* {"key": prefix, "range_end": the first key behind all that begin with prefix} */
json_t *etcd_json_prefix(const char *prefix);
/* The end of a prefix: its last byte below 0xff raised, what is behind it dropped; "\0" (one byte) when there
 * is none, which etcd reads as: to the end. out has room for len + 1 bytes; returns the length. */
size_t etcd_prefix_end(const char *prefix, size_t len, char *out);

#endif
