#include <time.h>

#include "engine/jinja_builtins.h"
#include "engine/jinja_print.h"
#include "engine/jinja_run.h"

/* As in Jinja's sandbox. */
enum { MAX_RANGE = 100000, MAX_DATE_BYTES = 512 };

static struct jinja_value call_range(const struct jinja_call *call)
{
    int64_t start = 0, stop = jinja_arg_int(call, call->arg[0]), step = 1;
    if (jinja_given(call->arg[1])) {
        start = stop;
        stop = jinja_arg_int(call, call->arg[1]);
    }
    if (jinja_given(call->arg[2]))
        step = jinja_arg_int(call, call->arg[2]);
    if (step == 0)
        jinja_fail(call->heap, ST_INVALID, "range() arg 3 must not be zero");
    long double span = step > 0 ? (long double)stop - (long double)start : (long double)start - (long double)stop;
    long double n = span <= 0 ? 0 : (span - 1) / (step > 0 ? (long double)step : -(long double)step) + 1;
    if (n >= MAX_RANGE + 1)
        jinja_fail(call->heap, ST_LIMIT, "a range of more than %d numbers", MAX_RANGE);
    struct jinja_range *range = jinja_alloc(call->heap, sizeof *range);
    *range = (struct jinja_range){ start, stop, step, (size_t)n };
    return (struct jinja_value){ .kind = JINJA_RANGE, .range = range };
}

static void add_pair(const struct jinja_call *call, struct jinja_dict *dict, struct jinja_value pair)
{
    struct jinja_items items = jinja_items(call->heap, pair);
    if (items.n != 2)
        jinja_fail(call->heap, ST_INVALID, "a pair of a key and a value is needed, not %zu values", items.n);
    jinja_dict_set(call->heap, dict, items.at[0], items.at[1]);
}

/* dict(mapping or pairs, name=value...). */
static struct jinja_dict *dict_of_args(const struct jinja_call *call)
{
    const struct jinja_args *args = call->raw;
    struct jinja_dict *dict = jinja_dict_new(call->heap, args->n_keywords);
    if (args->n > 1)
        jinja_fail(call->heap, ST_INVALID, "dict expected at most 1 argument, got %zu", args->n);
    if (args->n == 1 && args->at[0].kind == JINJA_DICT) {
        const struct jinja_dict *from = args->at[0].dict;
        for (size_t i = 0; i < from->n; i++)
            jinja_dict_set(call->heap, dict, from->pairs[i].key, from->pairs[i].value);
    } else if (args->n == 1) {
        struct jinja_items pairs = jinja_items(call->heap, args->at[0]);
        for (size_t i = 0; i < pairs.n; i++)
            add_pair(call, dict, pairs.at[i]);
    }
    for (size_t i = 0; i < args->n_keywords; i++)
        jinja_dict_set(call->heap, dict, jinja_of_str(args->keywords[i].name), args->keywords[i].value);
    return dict;
}

static struct jinja_value call_dict(const struct jinja_call *call)
{
    return (struct jinja_value){ .kind = JINJA_DICT, .dict = dict_of_args(call) };
}

static struct jinja_value call_namespace(const struct jinja_call *call)
{
    struct jinja_dict *dict = dict_of_args(call);
    for (size_t i = 0; i < dict->n; i++)
        if (dict->pairs[i].key.kind == JINJA_STR && dict->pairs[i].key.str->len &&
            dict->pairs[i].key.str->bytes[0] == '_')
            jinja_fail(call->heap, ST_INVALID, "namespaces do not take names with an underscore in front");
    return (struct jinja_value){ .kind = JINJA_NAMESPACE, .dict = dict };
}

static struct jinja_value call_cycler(const struct jinja_call *call)
{
    const struct jinja_args *args = call->raw;
    if (!args->n || args->n_keywords)
        jinja_fail(call->heap, ST_INVALID, "cycler() needs at least one item");
    struct jinja_list *items = jinja_list_new(call->heap, FORM_TUPLE, args->n);
    memcpy(items->items, args->at, args->n * sizeof *args->at);
    struct jinja_cycler *cycler = jinja_alloc(call->heap, sizeof *cycler);
    *cycler = (struct jinja_cycler){ items, 0 };
    return (struct jinja_value){ .kind = JINJA_CYCLER, .cycler = cycler };
}

static struct jinja_value call_joiner(const struct jinja_call *call)
{
    struct jinja_joiner *joiner = jinja_alloc(call->heap, sizeof *joiner);
    *joiner = (struct jinja_joiner){ jinja_given(call->arg[0]) ? jinja_arg_str(call, call->arg[0])
                                                               : jinja_str_new(call->heap, ", ", 2),
                                     false };
    return (struct jinja_value){ .kind = JINJA_JOINER, .joiner = joiner };
}

static struct jinja_value call_raise(const struct jinja_call *call)
{
    const struct jinja_str *text = jinja_to_str(call->heap, call->arg[0]);
    jinja_raise(call->heap, text->bytes, text->len);
}

/* Python prints nothing for the zone of a time without one, and knows
 * microseconds; the rest is the C library's. */
static void c_format(const struct jinja_call *call, const struct jinja_str *format, struct jinja_buf *out)
{
    for (size_t i = 0; i < format->len; i++) {
        char c = format->bytes[i], next = i + 1 < format->len ? format->bytes[i + 1] : 0;
        if (c == 0)
            jinja_fail(call->heap, ST_INVALID, "embedded null character");
        if (c != '%' || !next) {
            jinja_buf_char(call->heap, out, c);
            continue;
        }
        i++;
        if (next == 'f')
            jinja_buf_add(call->heap, out, "000000", 6);
        else if (next != 'z' && next != 'Z')
            jinja_buf_add(call->heap, out, (char[]){ '%', next }, 2);
    }
    jinja_buf_char(call->heap, out, 0);
}

static struct jinja_value call_strftime_now(const struct jinja_call *call)
{
    struct jinja_buf format = { 0 };
    struct tm tm;
    c_format(call, jinja_arg_str(call, call->arg[0]), &format);
    if (!localtime_r(&call->run->now, &tm))
        jinja_fail(call->heap, ST_INVALID, "the time is out of range");
    char *text = jinja_alloc(call->heap, MAX_DATE_BYTES);
    size_t n = strftime(text, MAX_DATE_BYTES, format.bytes, &tm);
    if (!n && format.len > 1)
        jinja_fail(call->heap, ST_LIMIT, "a date longer than %d bytes", MAX_DATE_BYTES);
    return jinja_of_str(jinja_str_new(call->heap, text, n));
}

const struct jinja_builtin jinja_functions[] = {
    { "range", call_range, 1, { "start", "stop", "step" } },
    { "dict", call_dict, 0, { "*" } },
    { "namespace", call_namespace, 0, { "*" } },
    { "cycler", call_cycler, 0, { "*" } },
    { "joiner", call_joiner, 0, { "sep" } },
    { "raise_exception", call_raise, 1, { "message" } },
    { "strftime_now", call_strftime_now, 1, { "format" } },
    { 0 },
};
