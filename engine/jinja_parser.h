/* jinja_parser.h - tokens to a tree. Filters, tests and method names are looked
 * up here, so that what is not built fails before the first render. */
#ifndef BATON_ENGINE_JINJA_PARSER_H
#define BATON_ENGINE_JINJA_PARSER_H

#include "engine/jinja_ast.h"
#include "engine/jinja_lexer.h"

/* Expressions or blocks within one another. */
enum { JINJA_MAX_PARSE_DEPTH = 100 };

struct jinja_parser {
    struct jinja_heap *heap;
    const struct jinja_token *at;
    struct jinja_names names;
    uint32_t *uses; /* of the macro around, or NULL */
    uint32_t depth;
    uint32_t loops; /* around, within the same macro */
};

/* Fails through the heap, on which the tree lies. */
struct jinja_template *jinja_parse(struct jinja_heap *heap, const char *source, size_t len);

/* Shared by the two halves of the parser. */
struct jinja_node *jinja_node_new(struct jinja_parser *p, enum jinja_op kind);
uint32_t jinja_name_number(struct jinja_parser *p, const struct jinja_str *name);
const struct jinja_token *jinja_next(struct jinja_parser *p);
bool jinja_at_op(const struct jinja_parser *p, int op);
bool jinja_at_name(const struct jinja_parser *p, const char *name);
bool jinja_skip_op(struct jinja_parser *p, int op);
bool jinja_skip_name(struct jinja_parser *p, const char *name);
void jinja_expect_op(struct jinja_parser *p, int op);
const struct jinja_token *jinja_expect_name(struct jinja_parser *p);
_Noreturn void jinja_unexpected(struct jinja_parser *p, const char *wanted);
void jinja_enter(struct jinja_parser *p);
void jinja_leave(struct jinja_parser *p);

struct jinja_node *jinja_parse_expression(struct jinja_parser *p, bool with_condition);
/* May be a tuple without parentheses. */
struct jinja_node *jinja_parse_tuple(struct jinja_parser *p, bool with_condition);
/* name_only, or a tuple of names; with_attributes also allows ns.name. */
struct jinja_node *jinja_parse_target(struct jinja_parser *p, bool with_attributes);
/* "name(args)|name..." applied to NODE_CAPTURED; first is not preceded by '|'. */
struct jinja_node *jinja_parse_filters(struct jinja_parser *p, struct jinja_node *input, bool first_inline);

#endif
