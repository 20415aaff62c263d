/* jinja_case.h - upper, lower and title case as Python's str has them: full
 * mappings (one letter may become three) and the final sigma. */
#ifndef BATON_ENGINE_JINJA_CASE_H
#define BATON_ENGINE_JINJA_CASE_H

#include "engine/jinja_value.h"

const struct jinja_str *jinja_upper(struct jinja_heap *heap, const struct jinja_str *s);
const struct jinja_str *jinja_lower(struct jinja_heap *heap, const struct jinja_str *s);
/* str.title(): letters after a letter are lower case. */
const struct jinja_str *jinja_title(struct jinja_heap *heap, const struct jinja_str *s);
const struct jinja_str *jinja_capitalize(struct jinja_heap *heap, const struct jinja_str *s);
/* All cased characters are upper (lower) case, and there is at least one. */
bool jinja_is_upper(const struct jinja_str *s);
bool jinja_is_lower(const struct jinja_str *s);

#endif
