#include "engine/jinja_parser.h"

#include <string.h>

struct jinja_node *jinja_node_new(struct jinja_parser *p, enum jinja_op kind)
{
    struct jinja_node *node = jinja_alloc_array(p->heap, 1, sizeof *node);
    node->kind = kind;
    node->line = p->at->line;
    return node;
}

uint32_t jinja_name_number(struct jinja_parser *p, const struct jinja_str *name)
{
    struct jinja_names *names = &p->names;
    for (uint32_t i = 0; i < names->n; i++)
        if (jinja_str_equal(names->at[i], name))
            return i;
    if (names->n == names->cap) {
        names->cap = names->cap ? 2 * names->cap : 32;
        const struct jinja_str **grown = jinja_alloc(p->heap, names->cap * sizeof *grown);
        if (names->n)
            memcpy(grown, names->at, names->n * sizeof *grown);
        names->at = grown;
    }
    names->at[names->n] = name;
    return names->n++;
}

const struct jinja_token *jinja_next(struct jinja_parser *p)
{
    const struct jinja_token *token = p->at;
    if (token->type != TOKEN_END)
        p->at++;
    p->heap->line = p->at->line;
    return token;
}

bool jinja_at_op(const struct jinja_parser *p, int op)
{
    return p->at->type == TOKEN_OPERATOR && p->at->op == op;
}

static bool token_is_name(const struct jinja_token *token, const char *name)
{
    return token->type == TOKEN_NAME && token->len == strlen(name) && memcmp(token->text, name, token->len) == 0;
}

bool jinja_at_name(const struct jinja_parser *p, const char *name)
{
    return token_is_name(p->at, name);
}

bool jinja_skip_op(struct jinja_parser *p, int op)
{
    bool there = jinja_at_op(p, op);
    if (there)
        jinja_next(p);
    return there;
}

bool jinja_skip_name(struct jinja_parser *p, const char *name)
{
    bool there = jinja_at_name(p, name);
    if (there)
        jinja_next(p);
    return there;
}

_Noreturn void jinja_unexpected(struct jinja_parser *p, const char *wanted)
{
    if (p->at->type == TOKEN_END)
        jinja_fail(p->heap, ST_INVALID, "unexpected end of template, expected %s", wanted);
    jinja_fail(p->heap, ST_INVALID, "expected %s, got '%.*s'", wanted, (int)(p->at->len > 40 ? 40 : p->at->len),
               p->at->text);
}

void jinja_expect_op(struct jinja_parser *p, int op)
{
    char wanted[] = { '\'', (char)op, '\'', 0 };
    if (!jinja_skip_op(p, op))
        jinja_unexpected(p, wanted);
}

const struct jinja_token *jinja_expect_name(struct jinja_parser *p)
{
    if (p->at->type != TOKEN_NAME)
        jinja_unexpected(p, "a name");
    return jinja_next(p);
}

void jinja_enter(struct jinja_parser *p)
{
    if (++p->depth > JINJA_MAX_PARSE_DEPTH)
        jinja_fail(p->heap, ST_LIMIT, "the template nests deeper than %d", JINJA_MAX_PARSE_DEPTH);
}

void jinja_leave(struct jinja_parser *p)
{
    p->depth--;
}

static void expect_block_end(struct jinja_parser *p)
{
    if (p->at->type != TOKEN_BLOCK_END)
        jinja_unexpected(p, "'%}'");
    jinja_next(p);
}

static struct jinja_node *parse_statement(struct jinja_parser *p);

/* Whether a block begins here with one of the names in ends. */
static bool at_end(const struct jinja_parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (p->at->type == TOKEN_BLOCK_BEGIN && token_is_name(p->at + 1, *ends))
            return true;
    return false;
}

/* Statements up to a block with one of the names, or to the template's end. */
static struct jinja_node *parse_until(struct jinja_parser *p, const char *const *ends)
{
    struct jinja_node *first = NULL, **last = &first;
    jinja_enter(p);
    while (!at_end(p, ends) && (p->at->type != TOKEN_END || ends)) {
        struct jinja_node *node;
        if (p->at->type == TOKEN_DATA) {
            node = jinja_node_new(p, NODE_DATA);
            node->value = jinja_of_str(jinja_str_new(p->heap, p->at->text, p->at->len));
            jinja_next(p);
        } else if (p->at->type == TOKEN_PRINT_BEGIN) {
            node = jinja_node_new(p, NODE_PRINT);
            jinja_next(p);
            node->a = jinja_parse_tuple(p, true);
            if (p->at->type != TOKEN_PRINT_END)
                jinja_unexpected(p, "'}}'");
            jinja_next(p);
        } else if (p->at->type == TOKEN_BLOCK_BEGIN) {
            jinja_next(p);
            node = parse_statement(p);
            expect_block_end(p);
        } else {
            jinja_fail(p->heap, ST_INVALID, "unexpected end of template, expected '%s'", ends[0]);
        }
        for (*last = node; *last;)
            last = &(*last)->next;
    }
    jinja_leave(p);
    return first;
}

/* The rest of the opening tag, the body, and the name that ended it. */
static struct jinja_node *parse_body(struct jinja_parser *p, const char *const *ends)
{
    jinja_skip_op(p, ':');
    expect_block_end(p);
    struct jinja_node *body = parse_until(p, ends);
    jinja_next(p);
    return body;
}

/* A body with only one way to end; the end's name is taken. */
static struct jinja_node *parse_block(struct jinja_parser *p, const char *end)
{
    struct jinja_node *body = parse_body(p, (const char *const[]){ end, NULL });
    jinja_next(p);
    return body;
}

static struct jinja_node *parse_for(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_FOR);
    node->a = jinja_parse_target(p, false);
    if (!jinja_skip_name(p, "in"))
        jinja_unexpected(p, "'in'");
    node->b = jinja_parse_tuple(p, false);
    if (jinja_skip_name(p, "if"))
        node->c = jinja_parse_expression(p, true);
    if (jinja_at_name(p, "recursive"))
        jinja_fail(p->heap, ST_UNSUPPORTED, "recursive for loops are not supported");
    p->loops++;
    node->body = parse_body(p, (const char *const[]){ "endfor", "else", NULL });
    p->loops--;
    if (jinja_skip_name(p, "else"))
        node->orelse = parse_block(p, "endfor");
    else
        jinja_next(p);
    return node;
}

static struct jinja_node *parse_if(struct jinja_parser *p)
{
    struct jinja_node *first = jinja_node_new(p, NODE_IF), *node = first;
    for (;;) {
        node->a = jinja_parse_tuple(p, false);
        node->body = parse_body(p, (const char *const[]){ "elif", "else", "endif", NULL });
        if (!jinja_skip_name(p, "elif"))
            break;
        node->orelse = jinja_node_new(p, NODE_IF);
        node = node->orelse;
    }
    if (jinja_skip_name(p, "else"))
        node->orelse = parse_block(p, "endif");
    else
        jinja_next(p);
    return first;
}

static struct jinja_node *parse_set(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_SET);
    node->a = jinja_parse_target(p, true);
    if (jinja_skip_op(p, '=')) {
        node->b = jinja_parse_tuple(p, true);
        return node;
    }
    node->kind = NODE_SET_BLOCK;
    if (jinja_at_op(p, '|'))
        node->b = jinja_parse_filters(p, jinja_node_new(p, NODE_CAPTURED), false);
    node->body = parse_block(p, "endset");
    return node;
}

static struct jinja_node *parse_param(struct jinja_parser *p)
{
    struct jinja_node *param = jinja_node_new(p, NODE_PARAM);
    const struct jinja_token *token = jinja_expect_name(p);
    param->value = jinja_of_str(jinja_str_new(p->heap, token->text, token->len));
    param->name = jinja_name_number(p, param->value.str);
    if (jinja_skip_op(p, '='))
        param->a = jinja_parse_expression(p, true);
    return param;
}

/* (a, b=1) of a macro or a call block. */
static struct jinja_node *parse_params(struct jinja_parser *p)
{
    struct jinja_node *first = NULL, **last = &first;
    bool defaults = false;
    jinja_expect_op(p, '(');
    while (!jinja_at_op(p, ')')) {
        if (first)
            jinja_expect_op(p, ',');
        *last = parse_param(p);
        if (defaults && !(*last)->a)
            jinja_fail(p->heap, ST_INVALID, "a parameter without a default follows one with a default");
        defaults = (*last)->a != NULL;
        last = &(*last)->next;
    }
    jinja_next(p);
    return first;
}

/* Parses the body of a macro, where outer loops cannot be left. */
static void parse_macro_body(struct jinja_parser *p, struct jinja_node *macro, const char *end)
{
    uint32_t loops = p->loops, *uses = p->uses;
    p->loops = 0;
    p->uses = &macro->uses;
    macro->body = parse_block(p, end);
    p->loops = loops;
    p->uses = uses;
    if (uses)
        *uses |= macro->uses;
}

static struct jinja_node *parse_macro(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_MACRO);
    const struct jinja_token *token = jinja_expect_name(p);
    node->value = jinja_of_str(jinja_str_new(p->heap, token->text, token->len));
    node->name = jinja_name_number(p, node->value.str);
    node->a = parse_params(p);
    parse_macro_body(p, node, "endmacro");
    return node;
}

static struct jinja_node *parse_call_block(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_CALL_BLOCK);
    node->b = jinja_node_new(p, NODE_MACRO);
    node->b->value = jinja_of_str(jinja_str_new(p->heap, "caller", 6));
    if (jinja_at_op(p, '('))
        node->b->a = parse_params(p);
    node->a = jinja_parse_expression(p, true);
    if (node->a->kind != NODE_CALL)
        jinja_fail(p->heap, ST_INVALID, "a call block needs a call");
    parse_macro_body(p, node->b, "endcall");
    return node;
}

static struct jinja_node *parse_filter_block(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_FILTER_BLOCK);
    node->b = jinja_parse_filters(p, jinja_node_new(p, NODE_CAPTURED), true);
    node->body = parse_block(p, "endfilter");
    return node;
}

static struct jinja_node *parse_with(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_WITH), **last = &node->a;
    while (p->at->type != TOKEN_BLOCK_END) {
        if (node->a)
            jinja_expect_op(p, ',');
        *last = jinja_node_new(p, NODE_SET);
        (*last)->a = jinja_parse_target(p, false);
        jinja_expect_op(p, '=');
        (*last)->b = jinja_parse_expression(p, true);
        last = &(*last)->next;
    }
    node->body = parse_block(p, "endwith");
    return node;
}

/* {% generation %} marks what the model says; here it is only a scope. */
static struct jinja_node *parse_generation(struct jinja_parser *p)
{
    struct jinja_node *node = jinja_node_new(p, NODE_SCOPE);
    uint32_t loops = p->loops;
    p->loops = 0;
    node->body = parse_block(p, "endgeneration");
    p->loops = loops;
    return node;
}

static struct jinja_node *parse_print(struct jinja_parser *p)
{
    struct jinja_node *first = NULL, **last = &first;
    while (p->at->type != TOKEN_BLOCK_END) {
        if (first)
            jinja_expect_op(p, ',');
        *last = jinja_node_new(p, NODE_PRINT);
        (*last)->a = jinja_parse_expression(p, true);
        last = &(*last)->next;
    }
    return first;
}

static struct jinja_node *parse_jump(struct jinja_parser *p, enum jinja_op kind)
{
    if (!p->loops)
        jinja_fail(p->heap, ST_INVALID, "'%s' outside a loop", kind == NODE_BREAK ? "break" : "continue");
    return jinja_node_new(p, kind);
}

static struct jinja_node *parse_break(struct jinja_parser *p)
{
    return parse_jump(p, NODE_BREAK);
}

static struct jinja_node *parse_continue(struct jinja_parser *p)
{
    return parse_jump(p, NODE_CONTINUE);
}

static struct jinja_node *parse_statement(struct jinja_parser *p)
{
    static const struct {
        const char *name;
        struct jinja_node *(*parse)(struct jinja_parser *p); /* NULL: known to Jinja, not built */
    } statements[] = {
        { "for", parse_for },
        { "if", parse_if },
        { "set", parse_set },
        { "macro", parse_macro },
        { "call", parse_call_block },
        { "filter", parse_filter_block },
        { "with", parse_with },
        { "generation", parse_generation },
        { "print", parse_print },
        { "break", parse_break },
        { "continue", parse_continue },
        { "block", NULL },
        { "extends", NULL },
        { "include", NULL },
        { "import", NULL },
        { "from", NULL },
        { "autoescape", NULL },
    };
    const struct jinja_token *token = jinja_expect_name(p);
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (!token_is_name(token, statements[i].name))
            continue;
        if (!statements[i].parse)
            jinja_fail(p->heap, ST_UNSUPPORTED, "the statement '%s' is not supported", statements[i].name);
        return statements[i].parse(p);
    }
    p->heap->line = token->line;
    jinja_fail(p->heap, ST_INVALID, "unknown statement '%.*s'", (int)(token->len > 40 ? 40 : token->len), token->text);
}

struct jinja_template *jinja_parse(struct jinja_heap *heap, const char *source, size_t len)
{
    struct jinja_parser p = { .heap = heap, .at = jinja_lex(heap, source, len) };
    static const char *const reserved[RESERVED_NAMES] = { "loop", "caller", "varargs", "kwargs" };
    for (uint32_t i = 0; i < RESERVED_NAMES; i++)
        jinja_name_number(&p, jinja_str_new(heap, reserved[i], strlen(reserved[i])));
    heap->line = 1;
    struct jinja_node *body = parse_until(&p, NULL);
    struct jinja_template *out = jinja_alloc_array(heap, 1, sizeof *out);
    out->body = body;
    out->names = p.names;
    return out;
}
