#include <string.h>

#include "engine/jinja_print.h"
#include "engine/jinja_run.h"

/* How a body ended. */
enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE };

static enum flow exec_body(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *body);

void jinja_run_enter(struct jinja_run *run, uint32_t line)
{
    run->heap->line = line;
    jinja_charge(run->heap, 1);
    if (++run->depth > JINJA_MAX_DEPTH)
        jinja_fail(run->heap, ST_LIMIT, "evaluation nests deeper than %d", JINJA_MAX_DEPTH);
}

void jinja_run_leave(struct jinja_run *run)
{
    run->depth--;
}

static struct jinja_scope *scope_within(struct jinja_run *run, struct jinja_scope *parent)
{
    struct jinja_scope *scope = jinja_alloc(run->heap, sizeof *scope);
    *scope = (struct jinja_scope){ .parent = parent };
    return scope;
}

void jinja_scope_set(struct jinja_heap *heap, struct jinja_scope *scope, uint32_t name, struct jinja_value value)
{
    for (uint32_t i = 0; i < scope->n; i++)
        if (scope->at[i].name == name) {
            scope->at[i].value = value;
            return;
        }
    if (scope->n == scope->cap) {
        uint32_t cap = scope->cap ? 2 * scope->cap : 4;
        struct jinja_binding *grown = jinja_alloc(heap, cap * sizeof *grown);
        if (scope->n)
            memcpy(grown, scope->at, scope->n * sizeof *grown);
        scope->at = grown;
        scope->cap = cap;
    }
    scope->at[scope->n++] = (struct jinja_binding){ name, value };
}

const struct jinja_value *jinja_scope_find(const struct jinja_scope *scope, uint32_t name)
{
    for (; scope; scope = scope->parent)
        for (uint32_t i = 0; i < scope->n; i++)
            if (scope->at[i].name == name)
                return &scope->at[i].value;
    return NULL;
}

static void assign_attr(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *target,
                        struct jinja_value value)
{
    const struct jinja_value *ns = jinja_scope_find(scope, target->name);
    if (!ns || ns->kind != JINJA_NAMESPACE)
        jinja_fail(run->heap, ST_INVALID, "cannot assign attribute on non-namespace object");
    if (target->value.str->bytes[0] == '_')
        jinja_fail(run->heap, ST_INVALID, "namespaces do not take names with an underscore in front");
    jinja_dict_set(run->heap, ns->dict, target->value, value);
}

static void assign(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *target,
                   struct jinja_value value)
{
    if (target->kind == NODE_NAME) {
        jinja_scope_set(run->heap, scope, target->name, value);
        return;
    }
    if (target->kind == NODE_NS_ATTR) {
        assign_attr(run, scope, target, value);
        return;
    }
    struct jinja_items items = jinja_items(run->heap, value);
    size_t at = 0, wanted = 0;
    for (const struct jinja_node *part = target->a; part; part = part->next)
        wanted++;
    if (items.n != wanted)
        jinja_fail(run->heap, ST_INVALID, "%s values to unpack (expected %zu, got %zu)",
                   items.n < wanted ? "not enough" : "too many", wanted, items.n);
    for (const struct jinja_node *part = target->a; part; part = part->next)
        assign(run, scope, part, items.at[at++]);
}

/* The items that pass the loop's own condition, which sees the targets but
 * not the loop. */
static struct jinja_items filtered(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node,
                                   struct jinja_items all)
{
    struct jinja_items out = { jinja_alloc_array(run->heap, all.n, sizeof *out.at), 0 };
    for (size_t i = 0; i < all.n; i++) {
        struct jinja_scope *inner = scope_within(run, scope);
        assign(run, inner, node->a, all.at[i]);
        if (jinja_truth(run->heap, jinja_eval(run, inner, node->c)))
            out.at[out.n++] = all.at[i];
    }
    return out;
}

static enum flow exec_for(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    struct jinja_items items = jinja_items(run->heap, jinja_eval(run, scope, node->b));
    if (node->c)
        items = filtered(run, scope, node, items);
    struct jinja_loop *loop = jinja_alloc_array(run->heap, 1, sizeof *loop);
    loop->items = items;
    /* As in Jinja, a round that break or continue cut short does not count. */
    bool ran = false;
    for (; loop->index0 < items.n; loop->index0++) {
        struct jinja_scope *inner = scope_within(run, scope);
        jinja_scope_set(run->heap, inner, NAME_LOOP, (struct jinja_value){ .kind = JINJA_LOOP, .loop = loop });
        assign(run, inner, node->a, items.at[loop->index0]);
        enum flow flow = exec_body(run, inner, node->body);
        ran |= flow == FLOW_ON;
        if (flow == FLOW_BREAK)
            break;
    }
    return ran ? FLOW_ON : exec_body(run, scope_within(run, scope), node->orelse);
}

static enum flow exec_if(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    while (!jinja_truth(run->heap, jinja_eval(run, scope, node->a))) {
        const struct jinja_node *orelse = node->orelse;
        if (!orelse || orelse->kind != NODE_IF || orelse->next)
            return exec_body(run, scope, orelse);
        node = orelse;
    }
    return exec_body(run, scope, node->body);
}

/* The text of a body, passed through filters where there are any. */
static struct jinja_value capture(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *body,
                                  const struct jinja_node *filters, enum flow *flow)
{
    struct jinja_buf text = { 0 }, *outer = run->out;
    run->out = &text;
    *flow = exec_body(run, scope, body);
    run->out = outer;
    const struct jinja_str *captured = jinja_str_of_buf(run->heap, &text);
    if (!filters || *flow != FLOW_ON)
        return jinja_of_str(captured);
    const struct jinja_str *saved = run->captured;
    run->captured = captured;
    struct jinja_value out = jinja_eval(run, scope, filters);
    run->captured = saved;
    return out;
}

static enum flow exec_set_block(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    enum flow flow;
    struct jinja_value value = capture(run, scope_within(run, scope), node->body, node->b, &flow);
    if (flow == FLOW_ON)
        assign(run, scope, node->a, value);
    return flow;
}

static enum flow exec_filter_block(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    enum flow flow;
    struct jinja_value value = capture(run, scope_within(run, scope), node->body, node->b, &flow);
    if (flow == FLOW_ON)
        jinja_print(run->heap, run->out, value);
    return flow;
}

/* All values are taken outside, before the first name is set. */
static enum flow exec_with(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    struct jinja_scope *inner = scope_within(run, scope);
    for (const struct jinja_node *set = node->a; set; set = set->next)
        assign(run, inner, set->a, jinja_eval(run, scope, set->b));
    return exec_body(run, inner, node->body);
}

static struct jinja_value macro_value(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    struct jinja_macro *macro = jinja_alloc(run->heap, sizeof *macro);
    *macro = (struct jinja_macro){ node, scope };
    return (struct jinja_value){ .kind = JINJA_MACRO, .macro = macro };
}

static void exec_call_block(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    struct jinja_value callee = jinja_eval(run, scope, node->a->a);
    struct jinja_args args = jinja_eval_args(run, scope, node->a->b);
    struct jinja_keyword *keywords = jinja_alloc_array(run->heap, args.n_keywords + 1, sizeof *keywords);
    if (args.n_keywords)
        memcpy(keywords, args.keywords, args.n_keywords * sizeof *keywords);
    keywords[args.n_keywords++] =
        (struct jinja_keyword){ run->tpl->names.at[NAME_CALLER], macro_value(run, scope, node->b) };
    args.keywords = keywords;
    jinja_print(run->heap, run->out, jinja_call(run, callee, &args));
}

static enum flow exec_statement(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *node)
{
    switch (node->kind) {
    case NODE_DATA:
        jinja_buf_add(run->heap, run->out, node->value.str->bytes, node->value.str->len);
        return FLOW_ON;
    case NODE_PRINT:
        jinja_print(run->heap, run->out, jinja_eval(run, scope, node->a));
        return FLOW_ON;
    case NODE_FOR:
        return exec_for(run, scope, node);
    case NODE_IF:
        return exec_if(run, scope, node);
    case NODE_SET:
        assign(run, scope, node->a, jinja_eval(run, scope, node->b));
        return FLOW_ON;
    case NODE_SET_BLOCK:
        return exec_set_block(run, scope, node);
    case NODE_MACRO:
        jinja_scope_set(run->heap, scope, node->name, macro_value(run, scope, node));
        return FLOW_ON;
    case NODE_CALL_BLOCK:
        exec_call_block(run, scope, node);
        return FLOW_ON;
    case NODE_FILTER_BLOCK:
        return exec_filter_block(run, scope, node);
    case NODE_WITH:
        return exec_with(run, scope, node);
    case NODE_SCOPE:
        return exec_body(run, scope_within(run, scope), node->body);
    case NODE_BREAK:
        return FLOW_BREAK;
    default:
        ASSERT(node->kind == NODE_CONTINUE);
        return FLOW_CONTINUE;
    }
}

static enum flow exec_body(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *body)
{
    enum flow flow = FLOW_ON;
    for (; body && flow == FLOW_ON; body = body->next) {
        jinja_run_enter(run, body->line);
        flow = exec_statement(run, scope, body);
        jinja_run_leave(run);
    }
    return flow;
}

void jinja_exec(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_node *body)
{
    (void)exec_body(run, scope, body);
}

/* Moves a keyword argument out of the ones that are left; false when absent. */
static bool take_keyword(struct jinja_keyword *left, size_t *n, const struct jinja_str *name, struct jinja_value *out)
{
    for (size_t i = 0; i < *n; i++)
        if (jinja_str_equal(left[i].name, name)) {
            *out = left[i].value;
            memmove(left + i, left + i + 1, (*n - i - 1) * sizeof *left);
            --*n;
            return true;
        }
    return false;
}

static struct jinja_value extra_positional(struct jinja_run *run, const struct jinja_args *args, size_t from)
{
    struct jinja_list *list = jinja_list_new(run->heap, FORM_TUPLE, args->n > from ? args->n - from : 0);
    for (size_t i = 0; i < list->n; i++)
        list->items[i] = args->at[from + i];
    return jinja_of_list(list);
}

static struct jinja_value extra_keywords(struct jinja_run *run, const struct jinja_keyword *left, size_t n)
{
    struct jinja_dict *dict = jinja_dict_new(run->heap, n);
    for (size_t i = 0; i < n; i++)
        jinja_dict_set(run->heap, dict, jinja_of_str(left[i].name), left[i].value);
    return (struct jinja_value){ .kind = JINJA_DICT, .dict = dict };
}

/* What a macro refers to without declaring it, and what nobody asked for. */
static void bind_extras(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_macro *macro,
                        const struct jinja_args *args, size_t n_params, struct jinja_keyword *left, size_t n_left)
{
    const struct jinja_str *name = macro->node->value.str;
    struct jinja_value caller = jinja_undefined(ABSENT_NAME, run->tpl->names.at[NAME_CALLER]);
    if (macro->node->uses & USES_CALLER) {
        take_keyword(left, &n_left, run->tpl->names.at[NAME_CALLER], &caller);
        jinja_scope_set(run->heap, scope, NAME_CALLER, caller);
    }
    if (macro->node->uses & USES_KWARGS)
        jinja_scope_set(run->heap, scope, NAME_KWARGS, extra_keywords(run, left, n_left));
    else if (n_left)
        jinja_fail(run->heap, ST_INVALID, "macro '%.*s' takes no keyword argument '%.*s'", (int)name->len, name->bytes,
                   (int)left[0].name->len, left[0].name->bytes);
    if (macro->node->uses & USES_VARARGS)
        jinja_scope_set(run->heap, scope, NAME_VARARGS, extra_positional(run, args, n_params));
    else if (args->n > n_params)
        jinja_fail(run->heap, ST_INVALID, "macro '%.*s' takes not more than %zu argument(s)", (int)name->len,
                   name->bytes, n_params);
}

static void bind_params(struct jinja_run *run, struct jinja_scope *scope, const struct jinja_macro *macro,
                        const struct jinja_args *args)
{
    size_t n_params = 0, n_left = args->n_keywords;
    struct jinja_keyword *left = jinja_alloc_array(run->heap, n_left, sizeof *left);
    if (n_left)
        memcpy(left, args->keywords, n_left * sizeof *left);
    for (const struct jinja_node *param = macro->node->a; param; param = param->next, n_params++) {
        struct jinja_value value = { .kind = JINJA_MISSING };
        if (n_params < args->n)
            value = args->at[n_params];
        else
            take_keyword(left, &n_left, param->value.str, &value);
        jinja_scope_set(run->heap, scope, param->name, value);
    }
    bind_extras(run, scope, macro, args, n_params, left, n_left);
    /* Defaults may refer to the parameters before them. */
    for (const struct jinja_node *param = macro->node->a; param; param = param->next) {
        if (jinja_scope_find(scope, param->name)->kind != JINJA_MISSING)
            continue;
        struct jinja_value value = jinja_undefined(ABSENT_PARAMETER, param->value.str);
        jinja_scope_set(run->heap, scope, param->name, param->a ? jinja_eval(run, scope, param->a) : value);
    }
}

struct jinja_value jinja_call_macro(struct jinja_run *run, const struct jinja_macro *macro,
                                    const struct jinja_args *args)
{
    struct jinja_scope *scope = scope_within(run, macro->scope);
    enum flow flow;
    jinja_run_enter(run, run->heap->line);
    bind_params(run, scope, macro, args);
    struct jinja_value out = capture(run, scope, macro->node->body, NULL, &flow);
    jinja_run_leave(run);
    return out;
}
