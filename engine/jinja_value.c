#include "engine/jinja_value.h"

#include <math.h>

#include "engine/jinja_ast.h"
#include "engine/jinja_text.h"

const struct jinja_str *jinja_str_new(struct jinja_heap *heap, const char *bytes, size_t len)
{
    struct jinja_str *s = jinja_alloc(heap, sizeof *s);
    *s = (struct jinja_str){ .bytes = bytes ? bytes : "", .len = len };
    s->chars = jinja_count_chars(s->bytes, len);
    return s;
}

const struct jinja_str *jinja_str_of_buf(struct jinja_heap *heap, const struct jinja_buf *buf)
{
    return jinja_str_new(heap, buf->bytes, buf->len);
}

const struct jinja_str *jinja_str_join(struct jinja_heap *heap, const struct jinja_str *a, const struct jinja_str *b)
{
    if (!a->len || !b->len)
        return a->len ? a : b;
    char *bytes = jinja_alloc(heap, a->len + b->len);
    memcpy(bytes, a->bytes, a->len);
    memcpy(bytes + a->len, b->bytes, b->len);
    struct jinja_str *s = jinja_alloc(heap, sizeof *s);
    *s = (struct jinja_str){ bytes, a->len + b->len, a->chars + b->chars };
    return s;
}

bool jinja_str_equal(const struct jinja_str *a, const struct jinja_str *b)
{
    return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

bool jinja_str_is(const struct jinja_str *s, const char *text)
{
    return s->len == strlen(text) && memcmp(s->bytes, text, s->len) == 0;
}

struct jinja_list *jinja_list_new(struct jinja_heap *heap, enum jinja_form form, size_t n)
{
    struct jinja_list *l = jinja_alloc(heap, sizeof *l);
    *l = (struct jinja_list){ form, n, jinja_alloc_array(heap, n, sizeof *l->items) };
    return l;
}

struct jinja_dict *jinja_dict_new(struct jinja_heap *heap, size_t cap)
{
    struct jinja_dict *d = jinja_alloc(heap, sizeof *d);
    *d = (struct jinja_dict){ 0, cap, jinja_alloc_array(heap, cap, sizeof *d->pairs) };
    return d;
}

bool jinja_hashable(struct jinja_value v)
{
    if (v.kind == JINJA_DICT)
        return false;
    if (v.kind != JINJA_LIST)
        return true;
    if (v.list->form != FORM_TUPLE)
        return v.list->form == FORM_GENERATOR;
    for (size_t i = 0; i < v.list->n; i++)
        if (v.list->items[i].kind == JINJA_DICT ||
            (v.list->items[i].kind == JINJA_LIST && v.list->items[i].list->form != FORM_TUPLE))
            return false;
    return true;
}

const struct jinja_value *jinja_dict_find_str(struct jinja_heap *heap, const struct jinja_dict *d,
                                              const struct jinja_str *key)
{
    jinja_charge(heap, d->n / 8);
    for (size_t i = 0; i < d->n; i++)
        if (d->pairs[i].key.kind == JINJA_STR && jinja_str_equal(d->pairs[i].key.str, key))
            return &d->pairs[i].value;
    return NULL;
}

const struct jinja_value *jinja_dict_find(struct jinja_heap *heap, const struct jinja_dict *d, struct jinja_value key)
{
    if (key.kind == JINJA_STR)
        return jinja_dict_find_str(heap, d, key.str);
    if (!jinja_hashable(key))
        jinja_fail(heap, ST_INVALID, "unhashable type: '%s'", jinja_type_name(key));
    jinja_charge(heap, d->n / 8);
    for (size_t i = 0; i < d->n; i++)
        if (jinja_equal(heap, d->pairs[i].key, key))
            return &d->pairs[i].value;
    return NULL;
}

void jinja_dict_set(struct jinja_heap *heap, struct jinja_dict *d, struct jinja_value key, struct jinja_value value)
{
    struct jinja_value *there = (struct jinja_value *)jinja_dict_find(heap, d, key);
    if (there) {
        *there = value;
        return;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap ? 2 * d->cap : 8;
        struct jinja_pair *grown = jinja_alloc_array(heap, cap, sizeof *grown);
        if (d->n)
            memcpy(grown, d->pairs, d->n * sizeof *grown);
        d->pairs = grown;
        d->cap = cap;
    }
    d->pairs[d->n++] = (struct jinja_pair){ key, value };
}

static struct jinja_value of_json(struct jinja_heap *heap, const json_t *json, unsigned depth);

static struct jinja_value of_json_array(struct jinja_heap *heap, const json_t *json, unsigned depth)
{
    struct jinja_list *list = jinja_list_new(heap, FORM_LIST, json_array_size(json));
    for (size_t i = 0; i < list->n; i++)
        list->items[i] = of_json(heap, json_array_get(json, i), depth + 1);
    return jinja_of_list(list);
}

static struct jinja_value of_json_object(struct jinja_heap *heap, const json_t *json, unsigned depth)
{
    struct jinja_dict *dict = jinja_dict_new(heap, json_object_size(json));
    /* Reading does not change the object; the iterator only lacks a const. */
    json_t *object = (json_t *)(uintptr_t)json;
    for (void *at = json_object_iter(object); at; at = json_object_iter_next(object, at)) {
        const char *key = json_object_iter_key(at);
        dict->pairs[dict->n++] = (struct jinja_pair){ jinja_of_str(jinja_str_new(heap, key, strlen(key))),
                                                      of_json(heap, json_object_iter_value(at), depth + 1) };
    }
    return (struct jinja_value){ .kind = JINJA_DICT, .dict = dict };
}

static struct jinja_value of_json(struct jinja_heap *heap, const json_t *json, unsigned depth)
{
    if (depth > JINJA_MAX_NESTING)
        jinja_fail(heap, ST_LIMIT, "the input nests deeper than %d", JINJA_MAX_NESTING);
    switch (json_typeof(json)) {
    case JSON_NULL:
        return jinja_none();
    case JSON_TRUE:
    case JSON_FALSE:
        return jinja_bool(json_is_true(json));
    case JSON_INTEGER:
        return jinja_int(json_integer_value(json));
    case JSON_REAL:
        return jinja_float(json_real_value(json));
    case JSON_STRING:
        return jinja_of_str(jinja_str_new(heap, json_string_value(json), json_string_length(json)));
    case JSON_ARRAY:
        return of_json_array(heap, json, depth);
    case JSON_OBJECT:
        return of_json_object(heap, json, depth);
    }
    return jinja_none();
}

struct jinja_value jinja_of_json(struct jinja_heap *heap, const json_t *json)
{
    return of_json(heap, json, 0);
}

const char *jinja_type_name(struct jinja_value v)
{
    static const char *const names[] = {
        [JINJA_MISSING] = "nothing",
        [JINJA_UNDEFINED] = "Undefined",
        [JINJA_NONE] = "NoneType",
        [JINJA_BOOL] = "bool",
        [JINJA_INT] = "int",
        [JINJA_FLOAT] = "float",
        [JINJA_STR] = "str",
        [JINJA_LIST] = "list",
        [JINJA_DICT] = "dict",
        [JINJA_RANGE] = "range",
        [JINJA_NAMESPACE] = "Namespace",
        [JINJA_LOOP] = "LoopContext",
        [JINJA_CYCLER] = "Cycler",
        [JINJA_JOINER] = "Joiner",
        [JINJA_MACRO] = "Macro",
        [JINJA_METHOD] = "builtin_function_or_method",
        [JINJA_FUNCTION] = "function",
    };
    static const char *const forms[] = {
        [FORM_LIST] = "list",          [FORM_TUPLE] = "tuple",      [FORM_KEYS] = "dict_keys",
        [FORM_VALUES] = "dict_values", [FORM_ITEMS] = "dict_items", [FORM_GENERATOR] = "generator",
    };
    return v.kind == JINJA_LIST ? forms[v.list->form] : names[v.kind];
}

_Noreturn void jinja_fail_undefined(struct jinja_heap *heap, struct jinja_value v)
{
    const struct jinja_str none = { "", 0, 0 }, *name = v.str ? v.str : &none;
    int len = (int)(name->len > 100 ? 100 : name->len);
    const char *owner =
        v.owner_kind == JINJA_LIST ? "list" : jinja_type_name((struct jinja_value){ .kind = v.owner_kind });
    switch ((enum jinja_absence)v.absence) {
    case ABSENT_ATTRIBUTE:
        if (v.str)
            jinja_fail(heap, ST_INVALID, "'%s object' has no attribute '%.*s'", owner, len, name->bytes);
        jinja_fail(heap, ST_INVALID, "%s object has no such element", owner);
    case ABSENT_UNSAFE:
        jinja_fail(heap, ST_INVALID, "access to attribute '%.*s' of '%s' object is unsafe", len, name->bytes, owner);
    case ABSENT_PARAMETER:
        jinja_fail(heap, ST_INVALID, "parameter '%.*s' was not provided", len, name->bytes);
    case ABSENT_ITEM:
        jinja_fail(heap, ST_INVALID, "there is no such item");
    case ABSENT_NAME:
        break;
    }
    jinja_fail(heap, ST_INVALID, "'%.*s' is undefined", len, name->bytes);
}

bool jinja_truth(struct jinja_heap *heap, struct jinja_value v)
{
    switch ((enum jinja_kind)v.kind) {
    case JINJA_MISSING:
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return v.boolean;
    case JINJA_INT:
        return v.integer != 0;
    case JINJA_FLOAT:
        return v.real != 0;
    case JINJA_STR:
    case JINJA_DICT:
    case JINJA_RANGE:
        return jinja_length(heap, v) > 0;
    case JINJA_LIST:
        return v.list->form == FORM_GENERATOR || v.list->n > 0;
    default:
        return true;
    }
}

bool jinja_as_int(struct jinja_value v, int64_t *out)
{
    if (v.kind == JINJA_INT)
        *out = v.integer;
    else if (v.kind == JINJA_BOOL)
        *out = v.boolean;
    return v.kind == JINJA_INT || v.kind == JINJA_BOOL;
}

bool jinja_is_number(struct jinja_value v)
{
    return v.kind == JINJA_INT || v.kind == JINJA_BOOL || v.kind == JINJA_FLOAT;
}

double jinja_as_real(struct jinja_value v)
{
    int64_t i = 0;
    return jinja_as_int(v, &i) ? (double)i : v.real;
}

struct jinja_value jinja_range_item(const struct jinja_range *range, size_t i)
{
    return jinja_int(range->start + (int64_t)i * range->step);
}

/* < 0, 0, > 0; 2 when a NaN is among them. */
static int compare_numbers(struct jinja_value a, struct jinja_value b)
{
    int64_t i, j;
    if (jinja_as_int(a, &i) && jinja_as_int(b, &j))
        return i < j ? -1 : i > j;
    /* 64 bits of mantissa: exact for either side. */
    long double x = jinja_as_int(a, &i) ? (long double)i : (long double)a.real;
    long double y = jinja_as_int(b, &j) ? (long double)j : (long double)b.real;
    if (isnan(x) || isnan(y))
        return 2;
    return x < y ? -1 : x > y;
}

static bool equal(struct jinja_heap *heap, struct jinja_value a, struct jinja_value b, unsigned depth);

static bool equal_lists(struct jinja_heap *heap, const struct jinja_list *a, const struct jinja_list *b, unsigned depth)
{
    if (a == b)
        return true;
    if (a->form != b->form || a->n != b->n || a->form == FORM_GENERATOR || a->form == FORM_VALUES)
        return false;
    for (size_t i = 0; i < a->n; i++)
        if (!equal(heap, a->items[i], b->items[i], depth + 1))
            return false;
    return true;
}

static bool equal_dicts(struct jinja_heap *heap, const struct jinja_dict *a, const struct jinja_dict *b, unsigned depth)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        const struct jinja_value *other = jinja_dict_find(heap, b, a->pairs[i].key);
        if (!other || !equal(heap, a->pairs[i].value, *other, depth + 1))
            return false;
    }
    return true;
}

static bool equal(struct jinja_heap *heap, struct jinja_value a, struct jinja_value b, unsigned depth)
{
    jinja_charge(heap, 1);
    if (depth > JINJA_MAX_NESTING)
        jinja_fail(heap, ST_LIMIT, "values nest deeper than %d", JINJA_MAX_NESTING);
    if (jinja_is_number(a) && jinja_is_number(b))
        return compare_numbers(a, b) == 0;
    if (a.kind != b.kind)
        return false;
    switch ((enum jinja_kind)a.kind) {
    case JINJA_MISSING:
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return true;
    case JINJA_STR:
        return jinja_str_equal(a.str, b.str);
    case JINJA_LIST:
        return equal_lists(heap, a.list, b.list, depth);
    case JINJA_DICT:
        return equal_dicts(heap, a.dict, b.dict, depth);
    case JINJA_RANGE:
        return a.range->n == b.range->n && (!a.range->n || (a.range->start == b.range->start &&
                                                            (a.range->n == 1 || a.range->step == b.range->step)));
    case JINJA_METHOD:
        return a.method->builtin == b.method->builtin && equal(heap, a.method->self, b.method->self, depth + 1);
    default:
        return a.dict == b.dict; /* the same object */
    }
}

bool jinja_equal(struct jinja_heap *heap, struct jinja_value a, struct jinja_value b)
{
    return equal(heap, a, b, 0);
}

static bool holds(int op, int order)
{
    if (order == 2)
        return false;
    if (op == '<')
        return order < 0;
    if (op == '>')
        return order > 0;
    return op == JINJA_OP2('<', '=') ? order <= 0 : order >= 0;
}

static int compare_strs(const struct jinja_str *a, const struct jinja_str *b)
{
    /* UTF-8 sorts as its code points do. */
    int order = memcmp(a->bytes, b->bytes, a->len < b->len ? a->len : b->len);
    return order ? order : a->len < b->len ? -1 : a->len > b->len;
}

static bool ordered(struct jinja_heap *heap, int op, struct jinja_value a, struct jinja_value b, unsigned depth)
{
    if (depth > JINJA_MAX_NESTING)
        jinja_fail(heap, ST_LIMIT, "values nest deeper than %d", JINJA_MAX_NESTING);
    if (a.kind == JINJA_UNDEFINED || b.kind == JINJA_UNDEFINED)
        jinja_fail_undefined(heap, a.kind == JINJA_UNDEFINED ? a : b);
    if (jinja_is_number(a) && jinja_is_number(b))
        return holds(op, compare_numbers(a, b));
    if (a.kind == JINJA_STR && b.kind == JINJA_STR)
        return holds(op, compare_strs(a.str, b.str));
    if (a.kind != JINJA_LIST || b.kind != JINJA_LIST || a.list->form != b.list->form || a.list->form > FORM_TUPLE)
        jinja_fail(heap, ST_INVALID, "'%.2s' not supported between instances of '%s' and '%s'",
                   op == '<'                   ? "<"
                   : op == '>'                 ? ">"
                   : op == JINJA_OP2('<', '=') ? "<="
                                               : ">=",
                   jinja_type_name(a), jinja_type_name(b));
    for (size_t i = 0; i < a.list->n && i < b.list->n; i++)
        if (!equal(heap, a.list->items[i], b.list->items[i], depth + 1))
            return ordered(heap, op, a.list->items[i], b.list->items[i], depth + 1);
    return holds(op, a.list->n < b.list->n ? -1 : a.list->n > b.list->n);
}

bool jinja_ordered(struct jinja_heap *heap, int op, struct jinja_value a, struct jinja_value b)
{
    return ordered(heap, op, a, b, 0);
}

static bool list_contains(struct jinja_heap *heap, struct jinja_list *list, struct jinja_value item)
{
    size_t at = 0;
    while (at < list->n && !jinja_equal(heap, list->items[at], item))
        at++;
    bool found = at < list->n;
    if (list->form == FORM_GENERATOR) {
        list->items += at + found;
        list->n -= at + found;
    }
    return found;
}

bool jinja_contains(struct jinja_heap *heap, struct jinja_value container, struct jinja_value item)
{
    switch ((enum jinja_kind)container.kind) {
    case JINJA_STR:
        if (item.kind != JINJA_STR)
            jinja_fail(heap, ST_INVALID, "'in <string>' requires string as left operand, not %s",
                       jinja_type_name(item));
        return jinja_find(heap, container.str, item.str, 0, container.str->len) != SIZE_MAX;
    case JINJA_DICT:
        return jinja_dict_find(heap, container.dict, item) != NULL;
    case JINJA_LIST:
        return list_contains(heap, container.list, item);
    case JINJA_UNDEFINED:
        return false;
    case JINJA_RANGE: {
        struct jinja_items all = jinja_items(heap, container);
        return list_contains(heap, &(struct jinja_list){ FORM_LIST, all.n, all.at }, item);
    }
    default:
        jinja_fail(heap, ST_INVALID, "argument of type '%s' is not iterable", jinja_type_name(container));
    }
}

size_t jinja_length(struct jinja_heap *heap, struct jinja_value v)
{
    switch ((enum jinja_kind)v.kind) {
    case JINJA_UNDEFINED:
        return 0;
    case JINJA_STR:
        return v.str->chars;
    case JINJA_DICT:
        return v.dict->n;
    case JINJA_RANGE:
        return v.range->n;
    case JINJA_LIST:
        if (v.list->form != FORM_GENERATOR)
            return v.list->n;
        break;
    default:
        break;
    }
    jinja_fail(heap, ST_INVALID, "object of type '%s' has no len()", jinja_type_name(v));
}

bool jinja_iterable(struct jinja_value v)
{
    return v.kind == JINJA_UNDEFINED || v.kind == JINJA_STR || v.kind == JINJA_LIST || v.kind == JINJA_DICT ||
           v.kind == JINJA_RANGE;
}

static struct jinja_items chars_of(struct jinja_heap *heap, const struct jinja_str *s)
{
    struct jinja_items out = { jinja_alloc_array(heap, s->chars, sizeof *out.at), 0 };
    for (size_t at = 0; at < s->len;) {
        int32_t code;
        size_t n = jinja_char_at(s->bytes + at, s->len - at, &code);
        out.at[out.n++] = jinja_of_str(jinja_str_new(heap, s->bytes + at, n));
        at += n;
    }
    return out;
}

struct jinja_items jinja_items(struct jinja_heap *heap, struct jinja_value v)
{
    struct jinja_items out = { NULL, 0 };
    switch ((enum jinja_kind)v.kind) {
    case JINJA_UNDEFINED:
        return out;
    case JINJA_STR:
        jinja_charge(heap, v.str->chars);
        return chars_of(heap, v.str);
    case JINJA_LIST:
        out = (struct jinja_items){ v.list->items, v.list->n };
        if (v.list->form == FORM_GENERATOR)
            v.list->n = 0;
        return out;
    case JINJA_DICT:
        out.at = jinja_alloc_array(heap, v.dict->n, sizeof *out.at);
        for (; out.n < v.dict->n; out.n++)
            out.at[out.n] = v.dict->pairs[out.n].key;
        return out;
    case JINJA_RANGE:
        jinja_charge(heap, v.range->n);
        out.at = jinja_alloc_array(heap, v.range->n, sizeof *out.at);
        for (; out.n < v.range->n; out.n++)
            out.at[out.n] = jinja_range_item(v.range, out.n);
        return out;
    default:
        jinja_fail(heap, ST_INVALID, "'%s' object is not iterable", jinja_type_name(v));
    }
}
