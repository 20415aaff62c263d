#include <string.h>

#include "engine/jinja_print.h"
#include "engine/jinja_run.h"

static struct jinja_value eval_name(const struct jinja_scope *scope, const struct jinja_node *node)
{
    const struct jinja_value *value = jinja_scope_find(scope, node->name);
    /* A parameter is missing until its default is worked out. */
    if (value && value->kind != JINJA_MISSING)
        return *value;
    const struct jinja_str *name = node->value.str;
    const struct jinja_builtin *function = jinja_function_find(name->bytes, name->len);
    if (function)
        return (struct jinja_value){ .kind = JINJA_FUNCTION, .function = function };
    return jinja_undefined(ABSENT_NAME, name);
}

static size_t count(const struct jinja_node *nodes)
{
    size_t n = 0;
    for (; nodes; nodes = nodes->next)
        n++;
    return n;
}

static struct jinja_value eval_items(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    enum jinja_form form = node->kind == NODE_TUPLE ? FORM_TUPLE : FORM_LIST;
    struct jinja_list *list = jinja_list_new(run->heap, form, count(node->a));
    size_t i = 0;
    for (const struct jinja_node *item = node->a; item; item = item->next)
        list->items[i++] = jinja_eval(run, scope, item);
    return jinja_of_list(list);
}

static struct jinja_value eval_dict(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    struct jinja_dict *dict = jinja_dict_new(run->heap, count(node->a));
    for (const struct jinja_node *pair = node->a; pair; pair = pair->next) {
        struct jinja_value key = jinja_eval(run, scope, pair->a);
        jinja_dict_set(run->heap, dict, key, jinja_eval(run, scope, pair->b));
    }
    return (struct jinja_value){ .kind = JINJA_DICT, .dict = dict };
}

static struct jinja_value eval_cond(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    if (jinja_truth(run->heap, jinja_eval(run, scope, node->a)))
        return jinja_eval(run, scope, node->b);
    return node->c ? jinja_eval(run, scope, node->c) : jinja_undefined(ABSENT_ITEM, NULL);
}

static bool compare(struct jinja_run *run, int op, struct jinja_value a, struct jinja_value b)
{
    switch (op) {
    case JINJA_OP2('=', '='):
        return jinja_equal(run->heap, a, b);
    case JINJA_OP2('!', '='):
        return !jinja_equal(run->heap, a, b);
    case JINJA_OP_IN:
        return jinja_contains(run->heap, b, a);
    case JINJA_OP_NOT_IN:
        return !jinja_contains(run->heap, b, a);
    default:
        return jinja_ordered(run->heap, op, a, b);
    }
}

/* a < b < c: each operand once, up to the first that fails. */
static struct jinja_value eval_compare(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    struct jinja_value left = jinja_eval(run, scope, node->a);
    for (const struct jinja_node *operand = node->b; operand; operand = operand->next) {
        struct jinja_value right = jinja_eval(run, scope, operand->a);
        if (!compare(run, operand->op, left, right))
            return jinja_bool(false);
        left = right;
    }
    return jinja_bool(true);
}

static struct jinja_value eval_concat(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    struct jinja_buf out = { 0 };
    for (const struct jinja_node *item = node->a; item; item = item->next)
        jinja_print(run->heap, &out, jinja_eval(run, scope, item));
    return jinja_of_str(jinja_str_of_buf(run->heap, &out));
}

static struct jinja_value eval_slice(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    struct jinja_value object = jinja_eval(run, scope, node->a), bounds[3];
    const struct jinja_node *const nodes[3] = { node->b, node->c, node->d };
    for (int i = 0; i < 3; i++)
        bounds[i] = nodes[i] ? jinja_eval(run, scope, nodes[i]) : jinja_none();
    return jinja_slice(run->heap, object, bounds);
}

struct jinja_args jinja_eval_args(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *nodes)
{
    size_t n = count(nodes);
    if (!n)
        return (struct jinja_args){ 0 };
    struct jinja_value *at = jinja_alloc_array(run->heap, n, sizeof *at);
    struct jinja_keyword *keywords = jinja_alloc_array(run->heap, n, sizeof *keywords);
    struct jinja_args out = { .at = at, .keywords = keywords };
    for (; nodes; nodes = nodes->next) {
        if (nodes->kind == NODE_KEYWORD)
            keywords[out.n_keywords++] = (struct jinja_keyword){ nodes->value.str, jinja_eval(run, scope, nodes->a) };
        else
            at[out.n++] = jinja_eval(run, scope, nodes);
    }
    return out;
}

struct jinja_value jinja_call(struct jinja_run *run, struct jinja_value callee, const struct jinja_args *args)
{
    switch ((enum jinja_kind)callee.kind) {
    case JINJA_FUNCTION:
        return jinja_invoke(run, callee.function, callee, args);
    case JINJA_METHOD:
        return jinja_invoke(run, callee.method->builtin, callee.method->self, args);
    case JINJA_MACRO:
        return jinja_call_macro(run, callee.macro, args);
    case JINJA_JOINER: {
        const struct jinja_str *text = callee.joiner->used ? callee.joiner->separator : jinja_str_new(run->heap, "", 0);
        callee.joiner->used = true;
        return jinja_of_str(text);
    }
    case JINJA_UNDEFINED:
        jinja_fail_undefined(run->heap, callee);
    default:
        jinja_fail(run->heap, ST_INVALID, "'%s' object is not callable", jinja_type_name(callee));
    }
}

static struct jinja_value eval_call(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    struct jinja_value callee = jinja_eval(run, scope, node->a);
    struct jinja_args args = jinja_eval_args(run, scope, node->b);
    run->heap->line = node->line;
    return jinja_call(run, callee, &args);
}

/* A filter or a test. */
static struct jinja_value eval_builtin(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    struct jinja_value input = jinja_eval(run, scope, node->a);
    struct jinja_args args = jinja_eval_args(run, scope, node->b);
    run->heap->line = node->line;
    return jinja_invoke(run, node->builtin, input, &args);
}

static struct jinja_value eval_pair(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    struct jinja_value a = jinja_eval(run, scope, node->a);
    struct jinja_value b = jinja_eval(run, scope, node->b);
    run->heap->line = node->line;
    return node->kind == NODE_ITEM ? jinja_item(run->heap, a, b) : jinja_binary(run->heap, node->op, a, b);
}

static struct jinja_value eval(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    struct jinja_value a;
    switch (node->kind) {
    case NODE_CONST:
        return node->value;
    case NODE_NAME:
        return eval_name(scope, node);
    case NODE_TUPLE:
    case NODE_LIST:
        return eval_items(run, scope, node);
    case NODE_DICT:
        return eval_dict(run, scope, node);
    case NODE_COND:
        return eval_cond(run, scope, node);
    case NODE_OR:
        a = jinja_eval(run, scope, node->a);
        return jinja_truth(run->heap, a) ? a : jinja_eval(run, scope, node->b);
    case NODE_AND:
        a = jinja_eval(run, scope, node->a);
        return jinja_truth(run->heap, a) ? jinja_eval(run, scope, node->b) : a;
    case NODE_NOT:
        return jinja_bool(!jinja_truth(run->heap, jinja_eval(run, scope, node->a)));
    case NODE_COMPARE:
        return eval_compare(run, scope, node);
    case NODE_ITEM:
    case NODE_BINARY:
        return eval_pair(run, scope, node);
    case NODE_CONCAT:
        return eval_concat(run, scope, node);
    case NODE_NEGATE:
        return jinja_negate(run->heap, jinja_eval(run, scope, node->a));
    case NODE_POSITIVE:
        return jinja_positive(run->heap, jinja_eval(run, scope, node->a));
    case NODE_ATTR:
        return jinja_attr(run->heap, jinja_eval(run, scope, node->a), node->value.str);
    case NODE_SLICE:
        return eval_slice(run, scope, node);
    case NODE_CALL:
        return eval_call(run, scope, node);
    case NODE_FILTER:
    case NODE_TEST:
        return eval_builtin(run, scope, node);
    default:
        ASSERT(node->kind == NODE_CAPTURED);
        return jinja_of_str(run->captured);
    }
}

struct jinja_value jinja_eval(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    jinja_run_enter(run, node->line);
    struct jinja_value out = eval(run, scope, node);
    jinja_run_leave(run);
    return out;
}
