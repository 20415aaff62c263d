#include "engine/jinja_builtins.h"
#include "engine/jinja_case.h"
#include "engine/jinja_print.h"
#include "engine/jinja_run.h"

static struct jinja_value test_defined(const struct jinja_call *call)
{
    return jinja_bool(call->self.kind != JINJA_UNDEFINED);
}

static struct jinja_value test_undefined(const struct jinja_call *call)
{
    return jinja_bool(call->self.kind == JINJA_UNDEFINED);
}

static struct jinja_value test_none(const struct jinja_call *call)
{
    return jinja_bool(call->self.kind == JINJA_NONE);
}

static struct jinja_value test_boolean(const struct jinja_call *call)
{
    return jinja_bool(call->self.kind == JINJA_BOOL);
}

static struct jinja_value test_true(const struct jinja_call *call)
{
    return jinja_bool(call->self.kind == JINJA_BOOL && call->self.boolean);
}

static struct jinja_value test_false(const struct jinja_call *call)
{
    return jinja_bool(call->self.kind == JINJA_BOOL && !call->self.boolean);
}

static struct jinja_value test_integer(const struct jinja_call *call)
{
    return jinja_bool(call->self.kind == JINJA_INT);
}

static struct jinja_value test_float(const struct jinja_call *call)
{
    return jinja_bool(call->self.kind == JINJA_FLOAT);
}

static struct jinja_value test_number(const struct jinja_call *call)
{
    return jinja_bool(jinja_is_number(call->self));
}

static struct jinja_value test_string(const struct jinja_call *call)
{
    return jinja_bool(call->self.kind == JINJA_STR);
}

static struct jinja_value test_mapping(const struct jinja_call *call)
{
    return jinja_bool(call->self.kind == JINJA_DICT);
}

static struct jinja_value test_iterable(const struct jinja_call *call)
{
    return jinja_bool(jinja_iterable(call->self));
}

/* Has a length and takes an index. */
static struct jinja_value test_sequence(const struct jinja_call *call)
{
    struct jinja_value v = call->self;
    return jinja_bool(v.kind == JINJA_LIST ? v.list->form <= FORM_TUPLE : jinja_iterable(v));
}

static struct jinja_value test_callable(const struct jinja_call *call)
{
    int kind = call->self.kind;
    return jinja_bool(kind == JINJA_MACRO || kind == JINJA_METHOD || kind == JINJA_FUNCTION || kind == JINJA_JOINER ||
                      kind == JINJA_LOOP || kind == JINJA_UNDEFINED);
}

static struct jinja_value test_odd(const struct jinja_call *call)
{
    struct jinja_value rest = jinja_binary(call->heap, '%', call->self, jinja_int(2));
    return jinja_bool(jinja_equal(call->heap, rest, jinja_int(1)));
}

static struct jinja_value test_divisible(const struct jinja_call *call)
{
    struct jinja_value by = jinja_given(call->arg[0]) ? call->arg[0] : jinja_int(2);
    return jinja_bool(jinja_equal(call->heap, jinja_binary(call->heap, '%', call->self, by), jinja_int(0)));
}

static struct jinja_value test_lower(const struct jinja_call *call)
{
    return jinja_bool(jinja_is_lower(jinja_to_str(call->heap, call->self)));
}

static struct jinja_value test_upper(const struct jinja_call *call)
{
    return jinja_bool(jinja_is_upper(jinja_to_str(call->heap, call->self)));
}

static struct jinja_value test_in(const struct jinja_call *call)
{
    return jinja_bool(jinja_contains(call->heap, call->arg[0], call->self));
}

static struct jinja_value test_eq(const struct jinja_call *call)
{
    return jinja_bool(jinja_equal(call->heap, call->self, call->arg[0]));
}

static struct jinja_value test_ne(const struct jinja_call *call)
{
    return jinja_bool(!jinja_equal(call->heap, call->self, call->arg[0]));
}

static struct jinja_value test_lt(const struct jinja_call *call)
{
    return jinja_bool(jinja_ordered(call->heap, '<', call->self, call->arg[0]));
}

static struct jinja_value test_gt(const struct jinja_call *call)
{
    return jinja_bool(jinja_ordered(call->heap, '>', call->self, call->arg[0]));
}

static struct jinja_value test_le(const struct jinja_call *call)
{
    return jinja_bool(jinja_ordered(call->heap, JINJA_OP2('<', '='), call->self, call->arg[0]));
}

static struct jinja_value test_ge(const struct jinja_call *call)
{
    return jinja_bool(jinja_ordered(call->heap, JINJA_OP2('>', '='), call->self, call->arg[0]));
}

/* The same object: Python has one None, one True and one False; small numbers
 * and equal strings are a matter of its caching, so they compare by value. */
static struct jinja_value test_sameas(const struct jinja_call *call)
{
    struct jinja_value a = call->self, b = call->arg[0];
    if (a.kind != b.kind)
        return jinja_bool(false);
    if (a.kind == JINJA_LIST || a.kind == JINJA_DICT)
        return jinja_bool(a.dict == b.dict);
    return jinja_bool(jinja_equal(call->heap, a, b));
}

static struct jinja_value test_filter(const struct jinja_call *call)
{
    const struct jinja_str *name = jinja_arg_str(call, call->self);
    return jinja_bool(jinja_filter_find(name->bytes, name->len) || jinja_filter_unbuilt(name->bytes, name->len));
}

static struct jinja_value test_test(const struct jinja_call *call)
{
    const struct jinja_str *name = jinja_arg_str(call, call->self);
    return jinja_bool(jinja_test_find(name->bytes, name->len) || jinja_str_is(name, "escaped"));
}

const struct jinja_builtin jinja_tests[] = {
    { "defined", test_defined, 0, { 0 } },
    { "undefined", test_undefined, 0, { 0 } },
    { "none", test_none, 0, { 0 } },
    { "boolean", test_boolean, 0, { 0 } },
    { "true", test_true, 0, { 0 } },
    { "false", test_false, 0, { 0 } },
    { "integer", test_integer, 0, { 0 } },
    { "float", test_float, 0, { 0 } },
    { "number", test_number, 0, { 0 } },
    { "string", test_string, 0, { 0 } },
    { "mapping", test_mapping, 0, { 0 } },
    { "iterable", test_iterable, 0, { 0 } },
    { "sequence", test_sequence, 0, { 0 } },
    { "callable", test_callable, 0, { 0 } },
    { "odd", test_odd, 0, { 0 } },
    { "even", test_divisible, 0, { 0 } },
    { "divisibleby", test_divisible, 1, { "num" } },
    { "lower", test_lower, 0, { 0 } },
    { "upper", test_upper, 0, { 0 } },
    { "in", test_in, 1, { "seq" } },
    { "sameas", test_sameas, 1, { "other" } },
    { "filter", test_filter, 0, { 0 } },
    { "test", test_test, 0, { 0 } },
    { "eq", test_eq, 1, { "other" } },
    { "equalto", test_eq, 1, { "other" } },
    { "==", test_eq, 1, { "other" } },
    { "ne", test_ne, 1, { "other" } },
    { "!=", test_ne, 1, { "other" } },
    { "lt", test_lt, 1, { "other" } },
    { "lessthan", test_lt, 1, { "other" } },
    { "<", test_lt, 1, { "other" } },
    { "gt", test_gt, 1, { "other" } },
    { "greaterthan", test_gt, 1, { "other" } },
    { ">", test_gt, 1, { "other" } },
    { "le", test_le, 1, { "other" } },
    { "<=", test_le, 1, { "other" } },
    { "ge", test_ge, 1, { "other" } },
    { ">=", test_ge, 1, { "other" } },
    { 0 },
};
