/* jinja_print.h - values as text: Python's str(), and json.dumps(). */
#ifndef BATON_ENGINE_JINJA_PRINT_H
#define BATON_ENGINE_JINJA_PRINT_H

#include "engine/jinja_value.h"

/* What {{ v }} prints. */
void jinja_print(struct jinja_heap *heap, struct jinja_buf *out, struct jinja_value v);
const struct jinja_str *jinja_to_str(struct jinja_heap *heap, struct jinja_value v);

struct jinja_json_style {
    bool ensure_ascii;
    bool sort_keys;
    const struct jinja_str *indent; /* of one level; NULL: all on one line */
    const struct jinja_str *between_items;
    const struct jinja_str *after_key;
};

void jinja_json(struct jinja_heap *heap, struct jinja_buf *out, struct jinja_value v,
                const struct jinja_json_style *style);

#endif
