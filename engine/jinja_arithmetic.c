#include <math.h>
#include <string.h>

#include "engine/jinja_run.h"

static void op_text(int op, char text[3])
{
    text[0] = (char)(op > 0xFF ? op >> 8 : op);
    text[1] = (char)(op > 0xFF ? op & 0xFF : 0);
    text[2] = 0;
}

static struct jinja_value floor_divided(struct jinja_heap *heap, int op, double a, double b)
{
    if (b == 0)
        jinja_fail(heap, ST_INVALID, "division by zero");
    double rest = fmod(a, b);
    if (rest != 0 && (b < 0) != (rest < 0))
        rest += b;
    else if (rest == 0)
        rest = copysign(0, b);
    if (op == '%')
        return jinja_float(rest);
    double quotient = (a - rest) / b, whole = floor(quotient);
    if (quotient == 0)
        return jinja_float(copysign(0, a / b));
    return jinja_float(quotient - whole > 0.5 ? whole + 1 : whole);
}

static struct jinja_value binary_real(struct jinja_heap *heap, int op, double a, double b)
{
    switch (op) {
    case '+':
        return jinja_float(a + b);
    case '-':
        return jinja_float(a - b);
    case '*':
        return jinja_float(a * b);
    case '/':
        if (b == 0)
            jinja_fail(heap, ST_INVALID, "division by zero");
        return jinja_float(a / b);
    case JINJA_OP2('*', '*'):
        if ((a == 0 && b < 0) || (a < 0 && b != floor(b)))
            jinja_fail(heap, ST_INVALID, "no real number is %g ** %g", a, b);
        return jinja_float(pow(a, b));
    default:
        return floor_divided(heap, op, a, b);
    }
}

/* True when the result does not fit. */
static bool power(int64_t base, int64_t exponent, int64_t *out)
{
    for (*out = 1; exponent > 0; exponent >>= 1) {
        if (exponent & 1 && __builtin_mul_overflow(*out, base, out))
            return true;
        if (exponent > 1 && __builtin_mul_overflow(base, base, &base))
            return true;
    }
    return false;
}

static struct jinja_value binary_int(struct jinja_heap *heap, int op, int64_t a, int64_t b)
{
    int64_t out = 0;
    bool over = false;
    if ((op == '%' || op == JINJA_OP2('/', '/')) && b == 0)
        jinja_fail(heap, ST_INVALID, "integer division or modulo by zero");
    switch (op) {
    case '+':
        over = __builtin_add_overflow(a, b, &out);
        break;
    case '-':
        over = __builtin_sub_overflow(a, b, &out);
        break;
    case '*':
        over = __builtin_mul_overflow(a, b, &out);
        break;
    case '%':
        out = b == -1 ? 0 : a % b;
        out += out && (out < 0) != (b < 0) ? b : 0;
        break;
    case JINJA_OP2('/', '/'):
        over = a == INT64_MIN && b == -1;
        if (!over)
            out = a / b - (a % b != 0 && (a < 0) != (b < 0));
        break;
    default:
        if (op == '/' || b < 0)
            return binary_real(heap, op, (double)a, (double)b);
        over = power(a, b, &out);
    }
    if (over)
        jinja_fail(heap, ST_UNSUPPORTED, "an integer beyond 64 bits");
    return jinja_int(out);
}

static struct jinja_value repeat(struct jinja_heap *heap, struct jinja_value v, int64_t times)
{
    size_t n = times > 0 ? (size_t)times : 0;
    if (v.kind == JINJA_STR) {
        struct jinja_buf out = { 0 };
        jinja_charge(heap, v.str->len ? n / 8 : 0);
        for (size_t i = 0; v.str->len && i < n; i++)
            jinja_buf_add(heap, &out, v.str->bytes, v.str->len);
        return jinja_of_str(jinja_str_of_buf(heap, &out));
    }
    if (v.list->n && n > heap->limit / v.list->n)
        jinja_fail(heap, ST_LIMIT, "a list that long does not fit");
    struct jinja_list *list = jinja_list_new(heap, v.list->form, n * v.list->n);
    ASSERT(v.list->n || !list->n);
    for (size_t i = 0; i < list->n; i++)
        list->items[i] = v.list->items[i % v.list->n];
    return jinja_of_list(list);
}

static struct jinja_value joined_lists(struct jinja_heap *heap, const struct jinja_list *a, const struct jinja_list *b)
{
    struct jinja_list *out = jinja_list_new(heap, a->form, a->n + b->n);
    jinja_charge(heap, out->n / 8);
    if (a->n)
        memcpy(out->items, a->items, a->n * sizeof *out->items);
    if (b->n)
        memcpy(out->items + a->n, b->items, b->n * sizeof *out->items);
    return jinja_of_list(out);
}

static bool repeatable(struct jinja_value v)
{
    return v.kind == JINJA_STR || (v.kind == JINJA_LIST && v.list->form <= FORM_TUPLE);
}

struct jinja_value jinja_binary(struct jinja_heap *heap, int op, struct jinja_value a, struct jinja_value b)
{
    int64_t i, j;
    if (a.kind == JINJA_UNDEFINED || b.kind == JINJA_UNDEFINED)
        jinja_fail_undefined(heap, a.kind == JINJA_UNDEFINED ? a : b);
    bool a_int = jinja_as_int(a, &i), b_int = jinja_as_int(b, &j);
    if (a_int && b_int)
        return binary_int(heap, op, i, j);
    if (jinja_is_number(a) && jinja_is_number(b))
        return binary_real(heap, op, jinja_as_real(a), jinja_as_real(b));
    if (op == '+' && a.kind == JINJA_STR && b.kind == JINJA_STR)
        return jinja_of_str(jinja_str_join(heap, a.str, b.str));
    if (op == '+' && repeatable(a) && repeatable(b) && a.kind == b.kind && a.list->form == b.list->form)
        return joined_lists(heap, a.list, b.list);
    if (op == '*' && repeatable(a) && b_int)
        return repeat(heap, a, j);
    if (op == '*' && repeatable(b) && a_int)
        return repeat(heap, b, i);
    if (op == '%' && a.kind == JINJA_STR)
        jinja_fail(heap, ST_UNSUPPORTED, "formatting with '%%' is not supported");
    char text[3];
    op_text(op, text);
    if (op == '+' && a.kind == JINJA_STR)
        jinja_fail(heap, ST_INVALID, "can only concatenate str (not \"%s\") to str", jinja_type_name(b));
    jinja_fail(heap, ST_INVALID, "unsupported operand type(s) for %s: '%s' and '%s'", text, jinja_type_name(a),
               jinja_type_name(b));
}

struct jinja_value jinja_negate(struct jinja_heap *heap, struct jinja_value v)
{
    return v.kind == JINJA_FLOAT ? jinja_float(-v.real) : jinja_binary(heap, '-', jinja_int(0), v);
}

struct jinja_value jinja_positive(struct jinja_heap *heap, struct jinja_value v)
{
    return v.kind == JINJA_FLOAT ? v : jinja_binary(heap, '+', jinja_int(0), v);
}
