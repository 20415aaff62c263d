/* json_plain.h - reads the JSON that nearly all clients send, several times as fast as jansson does. What is not plain
 * (a \u escape, a number that needs care, a name given twice, nesting deeper than JSON_PLAIN_MAX_DEPTH) or not JSON at
 * all is left to jansson, which also says what is wrong. Pure; any thread. */
#ifndef BATON_ROUTER_JSON_PLAIN_H
#define BATON_ROUTER_JSON_PLAIN_H

#include <jansson.h>
#include <stddef.h>

#define JSON_PLAIN_MAX_DEPTH 16

/* An object, equal to what json_loadb makes of the text with JSON_REJECT_DUPLICATES; NULL: not for us. */
json_t *json_plain_read(const char *text, size_t len);

#endif
