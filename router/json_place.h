/* json_place.h - which member of a JSON text a byte belongs to. Pure; any thread. */
#ifndef BATON_ROUTER_JSON_PLACE_H
#define BATON_ROUTER_JSON_PLACE_H

#include <stddef.h>

#define JSON_PLACE_MAX_DEPTH 8 /* deeper members are named by what holds them */

/* Writes the path of the value that ends at text + end, as in "messages[0].content"; "" for the outermost value.
 * text must be well-formed JSON as far as there. Names stand as in the text, escapes and all, and are cut to fit. */
void json_place_find(const char *text, size_t end, char *out, size_t size);

#endif
