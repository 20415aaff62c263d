#include "engine/jinja_builtins.h"

#include "engine/jinja_run.h"

bool jinja_given(struct jinja_value v)
{
    return v.kind != JINJA_MISSING;
}

int64_t jinja_arg_int(const struct jinja_call *call, struct jinja_value v)
{
    int64_t out = 0;
    if (v.kind == JINJA_UNDEFINED)
        jinja_fail_undefined(call->heap, v);
    if (!jinja_as_int(v, &out))
        jinja_fail(call->heap, ST_INVALID, "'%s' object cannot be interpreted as an integer", jinja_type_name(v));
    return out;
}

const struct jinja_str *jinja_arg_str(const struct jinja_call *call, struct jinja_value v)
{
    if (v.kind == JINJA_UNDEFINED)
        jinja_fail_undefined(call->heap, v);
    if (v.kind != JINJA_STR)
        jinja_fail(call->heap, ST_INVALID, "expected str, not %s", jinja_type_name(v));
    return v.str;
}

static void bind_keyword(struct jinja_call *call, const struct jinja_builtin *builtin,
                         const struct jinja_keyword *keyword)
{
    for (int i = 0; i < JINJA_MAX_PARAMS && builtin->params[i]; i++) {
        if (!jinja_str_is(keyword->name, builtin->params[i]))
            continue;
        if (jinja_given(call->arg[i]))
            jinja_fail(call->heap, ST_INVALID, "%s() got two values for '%s'", builtin->name, builtin->params[i]);
        call->arg[i] = keyword->value;
        return;
    }
    jinja_fail(call->heap, ST_INVALID, "%s() got an unexpected keyword argument '%.*s'", builtin->name,
               (int)keyword->name->len, keyword->name->bytes);
}

static void bind(struct jinja_call *call, const struct jinja_builtin *builtin, const struct jinja_args *args)
{
    size_t n_params = 0;
    while (n_params < JINJA_MAX_PARAMS && builtin->params[n_params])
        n_params++;
    if (args->n > n_params)
        jinja_fail(call->heap, ST_INVALID, "%s() takes at most %zu argument(s)", builtin->name, n_params);
    for (size_t i = 0; i < args->n; i++)
        call->arg[i] = args->at[i];
    for (size_t i = 0; i < args->n_keywords; i++)
        bind_keyword(call, builtin, &args->keywords[i]);
    for (size_t i = 0; i < builtin->required; i++)
        if (!jinja_given(call->arg[i]))
            jinja_fail(call->heap, ST_INVALID, "%s() misses the argument '%s'", builtin->name, builtin->params[i]);
}

struct jinja_value jinja_invoke(struct jinja_run *run, const struct jinja_builtin *builtin, struct jinja_value self,
                                const struct jinja_args *args)
{
    struct jinja_call call = { .heap = run->heap, .run = run, .self = self, .raw = args };
    if (!builtin->params[0] || builtin->params[0][0] != '*')
        bind(&call, builtin, args);
    return builtin->call(&call);
}

static const struct jinja_builtin *find_in(const struct jinja_builtin *rows, const char *name, size_t len)
{
    for (; rows->name; rows++)
        if (strlen(rows->name) == len && memcmp(rows->name, name, len) == 0)
            return rows;
    return NULL;
}

const struct jinja_builtin *jinja_filter_find(const char *name, size_t len)
{
    const struct jinja_builtin *found = find_in(jinja_text_filters, name, len);
    return found ? found : find_in(jinja_sequence_filters, name, len);
}

const struct jinja_builtin *jinja_test_find(const char *name, size_t len)
{
    return find_in(jinja_tests, name, len);
}

const struct jinja_builtin *jinja_function_find(const char *name, size_t len)
{
    return find_in(jinja_functions, name, len);
}

const struct jinja_builtin *jinja_method_find(enum jinja_kind kind, const char *name, size_t len)
{
    switch (kind) {
    case JINJA_STR:
        return find_in(jinja_str_methods, name, len);
    case JINJA_LIST:
        return find_in(jinja_list_methods, name, len);
    case JINJA_DICT:
        return find_in(jinja_dict_methods, name, len);
    case JINJA_LOOP:
        return find_in(jinja_loop_methods, name, len);
    case JINJA_CYCLER:
        return find_in(jinja_cycler_methods, name, len);
    default:
        return NULL;
    }
}

static bool listed(const char *const *names, const char *name, size_t len)
{
    for (; *names; names++)
        if (strlen(*names) == len && memcmp(*names, name, len) == 0)
            return true;
    return false;
}

bool jinja_filter_unbuilt(const char *name, size_t len)
{
    static const char *const names[] = { "attr",      "e",        "escape",    "filesizeformat", "forceescape",
                                         "format",    "groupby",  "pprint",    "random",         "safe",
                                         "striptags", "truncate", "urlencode", "urlize",         "wordcount",
                                         "wordwrap",  "xmlattr",  NULL };
    return listed(names, name, len);
}

bool jinja_method_unbuilt(const char *name, size_t len)
{
    static const char *const names[] = { "casefold",   "swapcase",  "encode",       "expandtabs", "format",
                                         "format_map", "isdecimal", "isidentifier", "isnumeric",  "isprintable",
                                         "istitle",    "maketrans", "translate",    NULL };
    return listed(names, name, len);
}

bool jinja_method_unsafe(enum jinja_kind kind, const struct jinja_str *name)
{
    static const char *const of_list[] = { "append", "clear",   "extend", "insert", "pop",
                                           "remove", "reverse", "sort",   NULL };
    static const char *const of_dict[] = { "clear", "pop", "popitem", "setdefault", "update", NULL };
    if (name->len > 1 && name->bytes[0] == '_' && name->bytes[1] == '_')
        return kind != JINJA_DICT;
    if (kind == JINJA_LIST)
        return listed(of_list, name->bytes, name->len);
    return kind == JINJA_DICT && listed(of_dict, name->bytes, name->len);
}
