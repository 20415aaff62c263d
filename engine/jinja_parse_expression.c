#include <string.h>

#include "engine/jinja_builtins.h"
#include "engine/jinja_parser.h"

static struct jinja_node *parse_primary(struct jinja_parser *p);

static struct jinja_node *const_node(struct jinja_parser *p, struct jinja_value value)
{
    struct jinja_node *node = jinja_node_new(p, NODE_CONST);
    node->value = value;
    return node;
}

static const struct jinja_str *token_str(struct jinja_parser *p, const struct jinja_token *token)
{
    return jinja_str_new(p->heap, token->text, token->len);
}

static struct jinja_node *pair_node(struct jinja_parser *p, enum jinja_op kind, struct jinja_node *a,
                                    struct jinja_node *b)
{
    struct jinja_node *node = jinja_node_new(p, kind);
    node->a = a;
    node->b = b;
    return node;
}

/* A name, which may be a constant or one of the three that macros get unasked. */
static struct jinja_node *parse_name(struct jinja_parser *p)
{
    if (jinja_skip_name(p, "true") || jinja_skip_name(p, "True"))
        return const_node(p, jinja_bool(true));
    if (jinja_skip_name(p, "false") || jinja_skip_name(p, "False"))
        return const_node(p, jinja_bool(false));
    if (jinja_skip_name(p, "none") || jinja_skip_name(p, "None"))
        return const_node(p, jinja_none());
    static const char *const special[] = { "caller", "varargs", "kwargs" };
    for (unsigned i = 0; i < 3; i++)
        if (p->uses && jinja_at_name(p, special[i]))
            *p->uses |= 1u << i;
    struct jinja_node *node = jinja_node_new(p, NODE_NAME);
    node->value = jinja_of_str(token_str(p, jinja_next(p)));
    node->name = jinja_name_number(p, node->value.str);
    return node;
}

static struct jinja_node *parse_strings(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_CONST);
    const struct jinja_str *s = token_str(p, jinja_next(p));
    while (p->at->type == TOKEN_STRING)
        s = jinja_str_join(p->heap, s, token_str(p, jinja_next(p)));
    node->value = jinja_of_str(s);
    return node;
}

static bool at_tuple_end(const struct jinja_parser *p)
{
    return p->at->type == TOKEN_PRINT_END || p->at->type == TOKEN_BLOCK_END || jinja_at_op(p, ')') ||
           jinja_at_name(p, "recursive");
}

/* NULL when there is nothing at all. */
static struct jinja_node *parse_tuple_or_nothing(struct jinja_parser *p, bool with_condition)
{
    struct jinja_node *first = NULL, **last = &first;
    bool is_tuple = false;
    while (!at_tuple_end(p)) {
        *last = jinja_parse_expression(p, with_condition);
        last = &(*last)->next;
        if (!jinja_skip_op(p, ','))
            break;
        is_tuple = true;
    }
    return is_tuple ? pair_node(p, NODE_TUPLE, first, NULL) : first;
}

struct jinja_node *jinja_parse_tuple(struct jinja_parser *p, bool with_condition)
{
    struct jinja_node *node = parse_tuple_or_nothing(p, with_condition);
    if (!node)
        jinja_unexpected(p, "an expression");
    return node;
}

static struct jinja_node *parse_parenthesis(struct jinja_parser *p)
{
    jinja_next(p);
    struct jinja_node *node = parse_tuple_or_nothing(p, true);
    if (!node)
        node = jinja_node_new(p, NODE_TUPLE);
    jinja_expect_op(p, ')');
    return node;
}

static struct jinja_node *parse_list(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_LIST), **last = &node->a;
    jinja_next(p);
    while (!jinja_at_op(p, ']')) {
        *last = jinja_parse_expression(p, true);
        last = &(*last)->next;
        if (!jinja_skip_op(p, ','))
            break;
    }
    jinja_expect_op(p, ']');
    return node;
}

static struct jinja_node *parse_dict(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_DICT), **last = &node->a;
    jinja_next(p);
    while (!jinja_at_op(p, '}')) {
        *last = pair_node(p, NODE_PAIR, jinja_parse_expression(p, true), NULL);
        jinja_expect_op(p, ':');
        (*last)->b = jinja_parse_expression(p, true);
        last = &(*last)->next;
        if (!jinja_skip_op(p, ','))
            break;
    }
    jinja_expect_op(p, '}');
    return node;
}

static struct jinja_node *parse_primary(struct jinja_parser *p)
{
    switch (p->at->type) {
    case TOKEN_NAME:
        return parse_name(p);
    case TOKEN_STRING:
        return parse_strings(p);
    case TOKEN_INTEGER:
        return const_node(p, jinja_int(jinja_next(p)->integer));
    case TOKEN_FLOAT:
        return const_node(p, jinja_float(jinja_next(p)->real));
    default:
        if (jinja_at_op(p, '('))
            return parse_parenthesis(p);
        if (jinja_at_op(p, '['))
            return parse_list(p);
        if (jinja_at_op(p, '{'))
            return parse_dict(p);
        jinja_unexpected(p, "an expression");
    }
}

/* ( ... ) of a call, a filter or a test. */
static struct jinja_node *parse_arguments(struct jinja_parser *p)
{
    struct jinja_node *first = NULL, **last = &first;
    bool keywords = false;
    jinja_expect_op(p, '(');
    while (!jinja_at_op(p, ')')) {
        if (jinja_at_op(p, '*') || jinja_at_op(p, JINJA_OP2('*', '*')))
            jinja_fail(p->heap, ST_UNSUPPORTED, "unpacked arguments (* and **) are not supported");
        const struct jinja_token *ahead = p->at + (p->at->type == TOKEN_NAME);
        if (p->at->type == TOKEN_NAME && ahead->type == TOKEN_OPERATOR && ahead->op == '=') {
            keywords = true;
            *last = jinja_node_new(p, NODE_KEYWORD);
            (*last)->value = jinja_of_str(token_str(p, jinja_next(p)));
            jinja_next(p);
            (*last)->a = jinja_parse_expression(p, true);
        } else if (keywords) {
            jinja_fail(p->heap, ST_INVALID, "an argument follows a keyword argument");
        } else {
            *last = jinja_parse_expression(p, true);
        }
        last = &(*last)->next;
        if (!jinja_skip_op(p, ','))
            break;
    }
    jinja_expect_op(p, ')');
    return first;
}

static struct jinja_node *parse_call(struct jinja_parser *p, struct jinja_node *callee)
{
    if (callee->kind == NODE_ATTR && jinja_method_unbuilt(callee->value.str->bytes, callee->value.str->len))
        jinja_fail(p->heap, ST_UNSUPPORTED, "the method '%.*s' is not supported", (int)callee->value.str->len,
                   callee->value.str->bytes);
    if (callee->kind == NODE_NAME && jinja_str_is(callee->value.str, "lipsum"))
        jinja_fail(p->heap, ST_UNSUPPORTED, "the function 'lipsum' is not supported");
    struct jinja_node *node = pair_node(p, NODE_CALL, callee, NULL);
    node->b = parse_arguments(p);
    return node;
}

static struct jinja_node *optional_bound(struct jinja_parser *p)
{
    return jinja_at_op(p, ':') || jinja_at_op(p, ']') || jinja_at_op(p, ',') ? NULL : jinja_parse_expression(p, true);
}

/* [index] or [from:to:step]. */
static struct jinja_node *parse_subscript(struct jinja_parser *p, struct jinja_node *object)
{
    struct jinja_node *node = pair_node(p, NODE_ITEM, object, NULL);
    jinja_next(p);
    if (jinja_at_op(p, ']'))
        jinja_unexpected(p, "an index");
    node->b = optional_bound(p);
    if (jinja_skip_op(p, ':')) {
        node->kind = NODE_SLICE;
        node->c = optional_bound(p);
        if (jinja_skip_op(p, ':'))
            node->d = optional_bound(p);
    }
    if (jinja_at_op(p, ','))
        jinja_fail(p->heap, ST_UNSUPPORTED, "subscripts of several parts are not supported");
    jinja_expect_op(p, ']');
    return node;
}

static struct jinja_node *parse_attribute(struct jinja_parser *p, struct jinja_node *object)
{
    struct jinja_node *node = pair_node(p, NODE_ATTR, object, NULL);
    jinja_next(p);
    if (p->at->type == TOKEN_INTEGER) {
        node->kind = NODE_ITEM;
        node->b = parse_primary(p);
    } else {
        node->value = jinja_of_str(token_str(p, jinja_expect_name(p)));
    }
    return node;
}

static struct jinja_node *parse_postfix(struct jinja_parser *p, struct jinja_node *node)
{
    for (;;) {
        if (jinja_at_op(p, '.'))
            node = parse_attribute(p, node);
        else if (jinja_at_op(p, '['))
            node = parse_subscript(p, node);
        else if (jinja_at_op(p, '('))
            node = parse_call(p, node);
        else
            return node;
    }
}

/* Filters and tests that are given by name, as in map('upper'). */
static void check_named(struct jinja_parser *p, const struct jinja_node *node)
{
    static const struct {
        const char *filter;
        unsigned skip; /* arguments before the name */
        bool of_test;
    } rows[] = { { "map", 0, false },
                 { "select", 0, true },
                 { "reject", 0, true },
                 { "selectattr", 1, true },
                 { "rejectattr", 1, true } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(node->builtin->name, rows[i].filter) != 0)
            continue;
        const struct jinja_node *arg = node->b;
        for (unsigned n = 0; arg && n < rows[i].skip; n++)
            arg = arg->next;
        if (!arg || arg->kind != NODE_CONST || arg->value.kind != JINJA_STR)
            return;
        const struct jinja_str *name = arg->value.str;
        if (!(rows[i].of_test ? jinja_test_find(name->bytes, name->len) : jinja_filter_find(name->bytes, name->len)))
            jinja_fail(p->heap, ST_UNSUPPORTED, "the %s '%.*s' is not supported", rows[i].of_test ? "test" : "filter",
                       (int)(name->len > 40 ? 40 : name->len), name->bytes);
    }
}

static struct jinja_node *parse_filter(struct jinja_parser *p, struct jinja_node *input)
{
    struct jinja_node *node = pair_node(p, NODE_FILTER, input, NULL);
    const struct jinja_token *token = jinja_expect_name(p);
    int len = (int)(token->len > 40 ? 40 : token->len);
    node->builtin = jinja_filter_find(token->text, token->len);
    if (!node->builtin && jinja_filter_unbuilt(token->text, token->len))
        jinja_fail(p->heap, ST_UNSUPPORTED, "the filter '%.*s' is not supported", len, token->text);
    if (!node->builtin)
        jinja_fail(p->heap, ST_INVALID, "no filter named '%.*s'", len, token->text);
    if (jinja_at_op(p, '('))
        node->b = parse_arguments(p);
    check_named(p, node);
    return node;
}

struct jinja_node *jinja_parse_filters(struct jinja_parser *p, struct jinja_node *input, bool first_inline)
{
    for (; first_inline || jinja_skip_op(p, '|'); first_inline = false)
        input = parse_filter(p, input);
    return input;
}

static bool at_test_argument(const struct jinja_parser *p)
{
    switch (p->at->type) {
    case TOKEN_NAME:
        return !jinja_at_name(p, "else") && !jinja_at_name(p, "or") && !jinja_at_name(p, "and");
    case TOKEN_STRING:
    case TOKEN_INTEGER:
    case TOKEN_FLOAT:
        return true;
    default:
        return jinja_at_op(p, '[') || jinja_at_op(p, '{');
    }
}

static struct jinja_node *parse_test(struct jinja_parser *p, struct jinja_node *input)
{
    struct jinja_node *node = pair_node(p, NODE_TEST, input, NULL);
    bool negated = jinja_skip_name(p, "not");
    const struct jinja_token *token = jinja_expect_name(p);
    node->builtin = jinja_test_find(token->text, token->len);
    if (!node->builtin)
        jinja_fail(p->heap, ST_UNSUPPORTED, "the test '%.*s' is not supported",
                   (int)(token->len > 40 ? 40 : token->len), token->text);
    if (jinja_at_op(p, '(')) {
        node->b = parse_arguments(p);
    } else if (at_test_argument(p)) {
        if (jinja_at_name(p, "is"))
            jinja_fail(p->heap, ST_INVALID, "tests cannot be chained with 'is'");
        node->b = parse_primary(p);
        node->b = parse_postfix(p, node->b);
    }
    return negated ? pair_node(p, NODE_NOT, node, NULL) : node;
}

static struct jinja_node *parse_unary(struct jinja_parser *p, bool with_filters)
{
    struct jinja_node *node;
    jinja_enter(p);
    if (jinja_at_op(p, '-') || jinja_at_op(p, '+')) {
        node = jinja_node_new(p, jinja_at_op(p, '-') ? NODE_NEGATE : NODE_POSITIVE);
        jinja_next(p);
        node->a = parse_unary(p, false);
    } else {
        node = parse_primary(p);
    }
    node = parse_postfix(p, node);
    while (with_filters) {
        if (jinja_at_op(p, '|'))
            node = jinja_parse_filters(p, node, false);
        else if (jinja_skip_name(p, "is"))
            node = parse_test(p, node);
        else if (jinja_at_op(p, '('))
            node = parse_call(p, node);
        else
            break;
    }
    jinja_leave(p);
    return node;
}

/* Left-associative operators, from the loosest to the tightest level. */
static const int sums[] = { '+', '-', 0 };
static const int products[] = { '*', '/', '%', JINJA_OP2('/', '/'), 0 };
static const int powers[] = { JINJA_OP2('*', '*'), 0 };

static int op_here(const struct jinja_parser *p, const int *ops)
{
    for (; *ops; ops++)
        if (jinja_at_op(p, *ops))
            return *ops;
    return 0;
}

static struct jinja_node *parse_binary(struct jinja_parser *p, const int *ops,
                                       struct jinja_node *(*tighter)(struct jinja_parser *p))
{
    struct jinja_node *left = tighter(p);
    for (int op; (op = op_here(p, ops)) != 0;) {
        struct jinja_node *node = pair_node(p, NODE_BINARY, left, NULL);
        node->op = op;
        if (op == '%' && left->kind == NODE_CONST && left->value.kind == JINJA_STR)
            jinja_fail(p->heap, ST_UNSUPPORTED, "formatting with '%%' is not supported");
        jinja_next(p);
        node->b = tighter(p);
        left = node;
    }
    return left;
}

static struct jinja_node *parse_filtered(struct jinja_parser *p)
{
    return parse_unary(p, true);
}

static struct jinja_node *parse_power(struct jinja_parser *p)
{
    return parse_binary(p, powers, parse_filtered);
}

static struct jinja_node *parse_product(struct jinja_parser *p)
{
    return parse_binary(p, products, parse_power);
}

static struct jinja_node *parse_concat(struct jinja_parser *p)
{
    struct jinja_node *first = parse_product(p);
    if (!jinja_at_op(p, '~'))
        return first;
    struct jinja_node *node = pair_node(p, NODE_CONCAT, first, NULL);
    for (struct jinja_node *last = first; jinja_skip_op(p, '~'); last = last->next)
        last->next = parse_product(p);
    return node;
}

static struct jinja_node *parse_sum(struct jinja_parser *p)
{
    return parse_binary(p, sums, parse_concat);
}

/* 0 when no comparison stands here. */
static int take_comparison(struct jinja_parser *p)
{
    static const int symbols[] = {
        '<', '>', JINJA_OP2('=', '='), JINJA_OP2('!', '='), JINJA_OP2('<', '='), JINJA_OP2('>', '='), 0
    };
    int op = op_here(p, symbols);
    if (op) {
        jinja_next(p);
        return op;
    }
    if (jinja_skip_name(p, "in"))
        return JINJA_OP_IN;
    const struct jinja_token *ahead = p->at + (p->at->type != TOKEN_END);
    if (!jinja_at_name(p, "not") || ahead->type != TOKEN_NAME || ahead->len != 2 || memcmp(ahead->text, "in", 2) != 0)
        return 0;
    jinja_next(p);
    jinja_next(p);
    return JINJA_OP_NOT_IN;
}

static struct jinja_node *parse_comparison(struct jinja_parser *p)
{
    struct jinja_node *first = parse_sum(p), *node = NULL, **last = NULL;
    for (int op; (op = take_comparison(p)) != 0; last = &(*last)->next) {
        if (!node) {
            node = pair_node(p, NODE_COMPARE, first, NULL);
            last = &node->b;
        }
        *last = jinja_node_new(p, NODE_OPERAND);
        (*last)->op = op;
        (*last)->a = parse_sum(p);
    }
    return node ? node : first;
}

static struct jinja_node *parse_not(struct jinja_parser *p)
{
    if (!jinja_at_name(p, "not"))
        return parse_comparison(p);
    struct jinja_node *node = jinja_node_new(p, NODE_NOT);
    jinja_next(p);
    jinja_enter(p);
    node->a = parse_not(p);
    jinja_leave(p);
    return node;
}

static struct jinja_node *parse_and(struct jinja_parser *p)
{
    struct jinja_node *left = parse_not(p);
    while (jinja_skip_name(p, "and")) {
        left = pair_node(p, NODE_AND, left, NULL);
        left->b = parse_not(p);
    }
    return left;
}

static struct jinja_node *parse_or(struct jinja_parser *p)
{
    struct jinja_node *left = parse_and(p);
    while (jinja_skip_name(p, "or")) {
        left = pair_node(p, NODE_OR, left, NULL);
        left->b = parse_and(p);
    }
    return left;
}

struct jinja_node *jinja_parse_expression(struct jinja_parser *p, bool with_condition)
{
    jinja_enter(p);
    struct jinja_node *node = parse_or(p);
    while (with_condition && jinja_skip_name(p, "if")) {
        struct jinja_node *cond = pair_node(p, NODE_COND, NULL, node);
        cond->a = parse_or(p);
        if (jinja_skip_name(p, "else"))
            cond->c = jinja_parse_expression(p, true);
        node = cond;
    }
    jinja_leave(p);
    return node;
}

static struct jinja_node *parse_target_part(struct jinja_parser *p, bool with_attributes)
{
    if (jinja_at_op(p, '(')) {
        jinja_next(p);
        struct jinja_node *inner = jinja_parse_target(p, with_attributes);
        jinja_expect_op(p, ')');
        return inner;
    }
    static const char *const constants[] = { "true", "false", "none", "True", "False", "None" };
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (jinja_at_name(p, constants[i]))
            jinja_fail(p->heap, ST_INVALID, "cannot assign to '%s'", constants[i]);
    struct jinja_node *node = jinja_node_new(p, NODE_NAME);
    node->value = jinja_of_str(token_str(p, jinja_expect_name(p)));
    node->name = jinja_name_number(p, node->value.str);
    if (with_attributes && jinja_skip_op(p, '.')) {
        node->kind = NODE_NS_ATTR;
        node->value = jinja_of_str(token_str(p, jinja_expect_name(p)));
    }
    return node;
}

struct jinja_node *jinja_parse_target(struct jinja_parser *p, bool with_attributes)
{
    jinja_enter(p);
    struct jinja_node *first = parse_target_part(p, with_attributes), *last = first;
    struct jinja_node *node = jinja_at_op(p, ',') ? pair_node(p, NODE_TUPLE, first, NULL) : first;
    while (jinja_skip_op(p, ',') && p->at->type == TOKEN_NAME && !jinja_at_name(p, "in"))
        last = last->next = parse_target_part(p, with_attributes);
    jinja_leave(p);
    return node;
}
