/* jinja_ast.h - a parsed template. One node shape for all; the list says which
 * of its fields each kind uses. Immutable once parsed. */
#ifndef BATON_ENGINE_JINJA_AST_H
#define BATON_ENGINE_JINJA_AST_H

#include "engine/jinja_value.h"

/* Lists run through next. target: a NAME, NS_ATTR or TUPLE of them. */
enum jinja_op {
    /* Statements. */
    NODE_DATA,         /* value                                                          */
    NODE_PRINT,        /* a: expression                                                  */
    NODE_FOR,          /* a: target, b: iterable, c: test or NULL, body, orelse          */
    NODE_IF,           /* a: condition, body, orelse                                     */
    NODE_SET,          /* a: target, b: expression                                       */
    NODE_SET_BLOCK,    /* a: target, b: filters on NODE_CAPTURED or NULL, body           */
    NODE_MACRO,        /* name, value: name, a: PARAMs, body, uses                       */
    NODE_CALL_BLOCK,   /* a: CALL, b: the caller as a MACRO                              */
    NODE_FILTER_BLOCK, /* b: filters on NODE_CAPTURED, body                              */
    NODE_WITH,         /* a: SETs, body                                                  */
    NODE_SCOPE,        /* body                                                           */
    NODE_BREAK,
    NODE_CONTINUE,
    NODE_PARAM, /* name, value: name, a: default or NULL                          */
    /* Expressions. */
    NODE_CONST,    /* value                                                          */
    NODE_NAME,     /* name, value: name                                              */
    NODE_NS_ATTR,  /* name, value: attribute; only as a target                       */
    NODE_TUPLE,    /* a: items                                                       */
    NODE_LIST,     /* a: items                                                       */
    NODE_DICT,     /* a: PAIRs                                                       */
    NODE_PAIR,     /* a: key, b: value                                               */
    NODE_COND,     /* a: condition, b: then, c: else or NULL                         */
    NODE_OR,       /* a, b                                                           */
    NODE_AND,      /* a, b                                                           */
    NODE_NOT,      /* a                                                              */
    NODE_COMPARE,  /* a: first, b: OPERANDs                                          */
    NODE_OPERAND,  /* op, a                                                          */
    NODE_BINARY,   /* op, a, b                                                       */
    NODE_CONCAT,   /* a: items of ~                                                  */
    NODE_NEGATE,   /* a                                                              */
    NODE_POSITIVE, /* a                                                              */
    NODE_ATTR,     /* a: object, value: name                                         */
    NODE_ITEM,     /* a: object, b: index                                            */
    NODE_SLICE,    /* a: object, b: from, c: to, d: step, each or NULL               */
    NODE_CALL,     /* a: callee, b: arguments, some of them KEYWORDs                 */
    NODE_KEYWORD,  /* value: name, a                                                 */
    NODE_FILTER,   /* builtin, a: input, b: arguments                                */
    NODE_TEST,     /* builtin, a: input, b: arguments                                */
    NODE_CAPTURED, /* the text of a set or filter block                              */
};

/* Comparison operators that are words. */
enum { JINJA_OP_IN = 'i', JINJA_OP_NOT_IN = 'n' };

/* What a macro's body refers to beyond its parameters. */
enum { USES_CALLER = 1, USES_VARARGS = 2, USES_KWARGS = 4 };

struct jinja_builtin;

struct jinja_node {
    enum jinja_op kind;
    uint32_t line;
    uint32_t name; /* number of an identifier */
    uint32_t uses;
    int op;
    struct jinja_value value;
    const struct jinja_builtin *builtin;
    struct jinja_node *a, *b, *c, *d;
    struct jinja_node *body, *orelse;
    struct jinja_node *next;
};

/* Identifiers are numbered, so that scopes compare numbers. */
struct jinja_names {
    const struct jinja_str **at;
    uint32_t n;
    uint32_t cap;
};

/* Numbers of the names that mean something to the evaluator. */
enum { NAME_LOOP, NAME_CALLER, NAME_VARARGS, NAME_KWARGS, RESERVED_NAMES };

struct jinja_template {
    struct jinja_node *body;
    struct jinja_names names;
};

#endif
