/* jinja_run.h - one rendering: where it writes, what it may still spend, and
 * the names in sight. One thread; the template is shared and only read. */
#ifndef BATON_ENGINE_JINJA_RUN_H
#define BATON_ENGINE_JINJA_RUN_H

#include <time.h>

#include "engine/jinja_ast.h"
#include "engine/jinja_builtins.h"

enum { JINJA_MAX_DEPTH = 600 }; /* statements, expressions and macros within one another */

struct jinja_binding {
    uint32_t name;
    struct jinja_value value;
};

struct jinja_scope {
    struct jinja_scope *parent; /* NULL: the template's own */
    struct jinja_binding *at;
    uint32_t n;
    uint32_t cap;
};

struct jinja_macro {
    const struct jinja_node *node;
    struct jinja_scope *scope; /* where it was defined */
};

struct jinja_loop {
    struct jinja_items items;
    size_t index0;
    struct jinja_list *changed; /* arguments of the last loop.changed() */
};

struct jinja_run {
    struct jinja_heap *heap;
    const struct jinja_template *tpl;
    struct jinja_buf *out;
    const struct jinja_str *captured; /* for NODE_CAPTURED */
    uint32_t depth;
    time_t now;
};

void jinja_exec(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *body);
struct jinja_value jinja_eval(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node);
struct jinja_value jinja_call_macro(struct jinja_run *run, const struct jinja_macro *macro,
                                    const struct jinja_args *args);
struct jinja_value jinja_call(struct jinja_run *run, struct jinja_value callee, const struct jinja_args *args);
struct jinja_args jinja_eval_args(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *nodes);

void jinja_scope_set(struct jinja_heap *heap, struct jinja_scope *scope, uint32_t name, struct jinja_value value);
/* NULL when the name is nowhere. */
const struct jinja_value *jinja_scope_find(const struct jinja_scope *scope, uint32_t name);

void jinja_run_enter(struct jinja_run *run, uint32_t line);
void jinja_run_leave(struct jinja_run *run);

/* obj.name and obj[key]; undefined when absent. */
struct jinja_value jinja_attr(struct jinja_heap *heap, struct jinja_value obj, const struct jinja_str *name);
struct jinja_value jinja_item(struct jinja_heap *heap, struct jinja_value obj, struct jinja_value key);
struct jinja_value jinja_slice(struct jinja_heap *heap, struct jinja_value obj, const struct jinja_value bounds[3]);
struct jinja_value jinja_binary(struct jinja_heap *heap, int op, struct jinja_value a, struct jinja_value b);
struct jinja_value jinja_negate(struct jinja_heap *heap, struct jinja_value v);
struct jinja_value jinja_positive(struct jinja_heap *heap, struct jinja_value v);

#endif
