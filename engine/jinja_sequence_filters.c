#include "engine/jinja_builtins.h"
#include "engine/jinja_case.h"
#include "engine/jinja_print.h"
#include "engine/jinja_run.h"
#include "engine/jinja_text.h"

static struct jinja_value list_of(const struct jinja_call *call, enum jinja_form form, struct jinja_items items)
{
    struct jinja_list *out = jinja_list_new(call->heap, form, items.n);
    jinja_charge(call->heap, items.n / 8);
    if (items.n)
        memcpy(out->items, items.at, items.n * sizeof *out->items);
    return jinja_of_list(out);
}

static bool flag(const struct jinja_call *call, struct jinja_value v)
{
    return jinja_given(v) && jinja_truth(call->heap, v);
}

static bool all_digits(const struct jinja_str *s)
{
    for (size_t i = 0; i < s->len; i++)
        if (s->bytes[i] < '0' || s->bytes[i] > '9')
            return false;
    return s->len > 0 && s->len < 18;
}

/* item["a"][0]["b"] for "a.0.b"; a number is an index by itself. */
static struct jinja_value attribute_of(const struct jinja_call *call, struct jinja_value item, struct jinja_value path)
{
    if (path.kind != JINJA_STR)
        return path.kind == JINJA_NONE || !jinja_given(path) ? item : jinja_item(call->heap, item, path);
    const struct jinja_str dot = { ".", 1, 1 };
    const struct jinja_list *parts = jinja_split(call->heap, path.str, &dot, -1, false).list;
    for (size_t i = 0; i < parts->n; i++) {
        struct jinja_value key = parts->items[i];
        if (all_digits(key.str)) {
            int64_t index = 0;
            for (size_t k = 0; k < key.str->len; k++)
                index = index * 10 + (key.str->bytes[k] - '0');
            key = jinja_int(index);
        }
        item = jinja_item(call->heap, item, key);
    }
    return item;
}

static struct jinja_value without_case(const struct jinja_call *call, struct jinja_value v, bool case_sensitive)
{
    return v.kind == JINJA_STR && !case_sensitive ? jinja_of_str(jinja_lower(call->heap, v.str)) : v;
}

static struct jinja_value filter_list(const struct jinja_call *call)
{
    return list_of(call, FORM_LIST, jinja_items(call->heap, call->self));
}

static struct jinja_value filter_items(const struct jinja_call *call)
{
    if (call->self.kind == JINJA_UNDEFINED)
        return jinja_of_list(jinja_list_new(call->heap, FORM_GENERATOR, 0));
    if (call->self.kind != JINJA_DICT)
        jinja_fail(call->heap, ST_INVALID, "can only get item pairs from a mapping");
    const struct jinja_builtin *items = jinja_method_find(JINJA_DICT, "items", 5);
    struct jinja_value out = jinja_invoke(call->run, items, call->self, &(struct jinja_args){ 0 });
    out.list->form = FORM_GENERATOR;
    return out;
}

static struct jinja_value filter_first(const struct jinja_call *call)
{
    struct jinja_value v = call->self;
    if (v.kind == JINJA_LIST && v.list->form == FORM_GENERATOR) {
        if (!v.list->n)
            return jinja_undefined(ABSENT_ITEM, NULL);
        v.list->n--;
        return *v.list->items++;
    }
    struct jinja_items items = jinja_items(call->heap, v);
    return items.n ? items.at[0] : jinja_undefined(ABSENT_ITEM, NULL);
}

static struct jinja_value filter_last(const struct jinja_call *call)
{
    if (call->self.kind == JINJA_LIST && call->self.list->form == FORM_GENERATOR)
        jinja_fail(call->heap, ST_INVALID, "'generator' object is not reversible");
    struct jinja_items items = jinja_items(call->heap, call->self);
    return items.n ? items.at[items.n - 1] : jinja_undefined(ABSENT_ITEM, NULL);
}

static struct jinja_value filter_reverse(const struct jinja_call *call)
{
    const struct jinja_value backwards[3] = { jinja_none(), jinja_none(), jinja_int(-1) };
    if (call->self.kind == JINJA_STR)
        return jinja_slice(call->heap, call->self, backwards);
    bool generator = call->self.kind == JINJA_LIST && call->self.list->form == FORM_GENERATOR;
    struct jinja_value out = filter_list(call);
    for (size_t i = 0, n = out.list->n; i < n / 2; i++) {
        struct jinja_value swap = out.list->items[i];
        out.list->items[i] = out.list->items[n - 1 - i];
        out.list->items[n - 1 - i] = swap;
    }
    out.list->form = generator ? FORM_LIST : FORM_GENERATOR;
    return out;
}

static struct jinja_value filter_join(const struct jinja_call *call)
{
    struct jinja_items items = jinja_items(call->heap, call->self);
    struct jinja_buf out = { 0 };
    for (size_t i = 0; i < items.n; i++) {
        jinja_charge(call->heap, 1);
        if (i && jinja_given(call->arg[0]))
            jinja_print(call->heap, &out, call->arg[0]);
        jinja_print(call->heap, &out, attribute_of(call, items.at[i], call->arg[1]));
    }
    return jinja_of_str(jinja_str_of_buf(call->heap, &out));
}

/* The rest of arguments after the first n, for the filter or test they name. */
static struct jinja_args args_after(const struct jinja_args *args, size_t n)
{
    struct jinja_args out = *args;
    if (n)
        out.at += n;
    out.n -= n;
    return out;
}

static struct jinja_value map_attribute(const struct jinja_call *call, struct jinja_items items)
{
    struct jinja_value path = jinja_none(), otherwise = jinja_none();
    for (size_t i = 0; i < call->raw->n_keywords; i++) {
        const struct jinja_keyword *keyword = &call->raw->keywords[i];
        if (jinja_str_is(keyword->name, "attribute"))
            path = keyword->value;
        else if (jinja_str_is(keyword->name, "default"))
            otherwise = keyword->value;
        else
            jinja_fail(call->heap, ST_INVALID, "map() got an unexpected keyword argument '%.*s'",
                       (int)keyword->name->len, keyword->name->bytes);
    }
    struct jinja_value out = list_of(call, FORM_GENERATOR, items);
    for (size_t i = 0; i < items.n; i++) {
        out.list->items[i] = attribute_of(call, items.at[i], path);
        if (out.list->items[i].kind == JINJA_UNDEFINED && otherwise.kind != JINJA_NONE)
            out.list->items[i] = otherwise;
    }
    return out;
}

static struct jinja_value filter_map(const struct jinja_call *call)
{
    struct jinja_items items = jinja_items(call->heap, call->self);
    if (!call->raw->n && call->raw->n_keywords)
        return map_attribute(call, items);
    if (!call->raw->n)
        jinja_fail(call->heap, ST_INVALID, "map requires a filter argument");
    const struct jinja_str *name = jinja_arg_str(call, call->raw->at[0]);
    const struct jinja_builtin *filter = jinja_filter_find(name->bytes, name->len);
    if (!filter)
        jinja_fail(call->heap, ST_UNSUPPORTED, "no filter named '%.*s'", (int)name->len, name->bytes);
    struct jinja_args args = args_after(call->raw, 1);
    struct jinja_value out = list_of(call, FORM_GENERATOR, items);
    for (size_t i = 0; i < items.n; i++) {
        jinja_run_enter(call->run, call->heap->line);
        out.list->items[i] = jinja_invoke(call->run, filter, items.at[i], &args);
        jinja_run_leave(call->run);
    }
    return out;
}

/* Items whose value (or attribute) does, or does not, pass a test; without a
 * test its truth counts. */
static struct jinja_value selected(const struct jinja_call *call, bool by_attribute, bool wanted)
{
    struct jinja_items items = jinja_items(call->heap, call->self);
    if (call->raw->n < by_attribute)
        jinja_fail(call->heap, ST_INVALID, "missing parameter for attribute name");
    struct jinja_value path = by_attribute ? call->raw->at[0] : jinja_none();
    struct jinja_args args = args_after(call->raw, by_attribute);
    const struct jinja_builtin *test = NULL;
    if (args.n) {
        const struct jinja_str *name = jinja_arg_str(call, args.at[0]);
        test = jinja_test_find(name->bytes, name->len);
        if (!test)
            jinja_fail(call->heap, ST_UNSUPPORTED, "no test named '%.*s'", (int)name->len, name->bytes);
        args = args_after(&args, 1);
    }
    struct jinja_value out = list_of(call, FORM_GENERATOR, items);
    out.list->n = 0;
    for (size_t i = 0; i < items.n; i++) {
        struct jinja_value v = attribute_of(call, items.at[i], path);
        jinja_charge(call->heap, 1);
        if (jinja_truth(call->heap, test ? jinja_invoke(call->run, test, v, &args) : v) == wanted)
            out.list->items[out.list->n++] = items.at[i];
    }
    return out;
}

static struct jinja_value filter_select(const struct jinja_call *call)
{
    return selected(call, false, true);
}

static struct jinja_value filter_reject(const struct jinja_call *call)
{
    return selected(call, false, false);
}

static struct jinja_value filter_selectattr(const struct jinja_call *call)
{
    return selected(call, true, true);
}

static struct jinja_value filter_rejectattr(const struct jinja_call *call)
{
    return selected(call, true, false);
}

struct keyed {
    struct jinja_value key, item;
};

/* Stable; Python compares with < alone. */
static void merge_sort(const struct jinja_call *call, struct keyed *at, struct keyed *spare, size_t n, bool reverse)
{
    if (n < 2)
        return;
    size_t half = n / 2, left = 0, right = half;
    merge_sort(call, at, spare, half, reverse);
    merge_sort(call, at + half, spare, n - half, reverse);
    for (size_t i = 0; i < n; i++) {
        jinja_charge(call->heap, 1);
        bool take_right = left == half;
        if (left < half && right < n)
            take_right = reverse ? jinja_ordered(call->heap, '<', at[left].key, at[right].key)
                                 : jinja_ordered(call->heap, '<', at[right].key, at[left].key);
        spare[i] = take_right ? at[right++] : at[left++];
    }
    memcpy(at, spare, n * sizeof *at);
}

static struct jinja_value sorted(const struct jinja_call *call, struct keyed *at, size_t n, bool reverse)
{
    struct jinja_list *out = jinja_list_new(call->heap, FORM_LIST, n);
    merge_sort(call, at, jinja_alloc_array(call->heap, n, sizeof *at), n, reverse);
    for (size_t i = 0; i < n; i++)
        out->items[i] = at[i].item;
    return jinja_of_list(out);
}

/* The values that "a,b.c" names, as a list to sort by. */
static struct jinja_value sort_key(const struct jinja_call *call, struct jinja_value item, struct jinja_value paths,
                                   bool case_sensitive)
{
    if (paths.kind != JINJA_STR)
        return without_case(call, attribute_of(call, item, paths), case_sensitive);
    const struct jinja_str comma = { ",", 1, 1 };
    struct jinja_value out = jinja_split(call->heap, paths.str, &comma, -1, false);
    for (size_t i = 0; i < out.list->n; i++)
        out.list->items[i] = without_case(call, attribute_of(call, item, out.list->items[i]), case_sensitive);
    return out;
}

static struct jinja_value filter_sort(const struct jinja_call *call)
{
    struct jinja_items items = jinja_items(call->heap, call->self);
    struct keyed *at = jinja_alloc_array(call->heap, items.n, sizeof *at);
    for (size_t i = 0; i < items.n; i++)
        at[i] = (struct keyed){ sort_key(call, items.at[i], call->arg[2], flag(call, call->arg[1])), items.at[i] };
    return sorted(call, at, items.n, flag(call, call->arg[0]));
}

static struct jinja_value filter_dictsort(const struct jinja_call *call)
{
    if (call->self.kind == JINJA_UNDEFINED)
        jinja_fail_undefined(call->heap, call->self);
    if (call->self.kind != JINJA_DICT)
        jinja_fail(call->heap, ST_INVALID, "'%s' object has no attribute 'items'", jinja_type_name(call->self));
    struct jinja_call pairs_call = *call;
    pairs_call.self = filter_items(call);
    struct jinja_items pairs = jinja_items(call->heap, pairs_call.self);
    const struct jinja_str *by = jinja_given(call->arg[1]) ? jinja_arg_str(call, call->arg[1]) : NULL;
    if (by && !jinja_str_is(by, "key") && !jinja_str_is(by, "value"))
        jinja_fail(call->heap, ST_INVALID, "You can only sort by either \"key\" or \"value\"");
    struct keyed *at = jinja_alloc_array(call->heap, pairs.n, sizeof *at);
    for (size_t i = 0; i < pairs.n; i++) {
        struct jinja_value key = pairs.at[i].list->items[by && jinja_str_is(by, "value")];
        at[i] = (struct keyed){ without_case(call, key, flag(call, call->arg[0])), pairs.at[i] };
    }
    return sorted(call, at, pairs.n, flag(call, call->arg[2]));
}

static struct jinja_value extreme(const struct jinja_call *call, int op)
{
    struct jinja_items items = jinja_items(call->heap, call->self);
    if (!items.n)
        return jinja_undefined(ABSENT_ITEM, NULL);
    bool exact = flag(call, call->arg[0]);
    size_t best = 0;
    struct jinja_value best_key = without_case(call, attribute_of(call, items.at[0], call->arg[1]), exact);
    for (size_t i = 1; i < items.n; i++) {
        struct jinja_value key = without_case(call, attribute_of(call, items.at[i], call->arg[1]), exact);
        jinja_charge(call->heap, 1);
        if (jinja_ordered(call->heap, op, key, best_key)) {
            best = i;
            best_key = key;
        }
    }
    return items.at[best];
}

static struct jinja_value filter_min(const struct jinja_call *call)
{
    return extreme(call, '<');
}

static struct jinja_value filter_max(const struct jinja_call *call)
{
    return extreme(call, '>');
}

static struct jinja_value filter_sum(const struct jinja_call *call)
{
    struct jinja_items items = jinja_items(call->heap, call->self);
    struct jinja_value total = jinja_given(call->arg[1]) ? call->arg[1] : jinja_int(0);
    if (total.kind == JINJA_STR)
        jinja_fail(call->heap, ST_INVALID, "sum() can't sum strings");
    for (size_t i = 0; i < items.n; i++) {
        jinja_charge(call->heap, 1);
        total = jinja_binary(call->heap, '+', total, attribute_of(call, items.at[i], call->arg[0]));
    }
    return total;
}

static struct jinja_value filter_unique(const struct jinja_call *call)
{
    struct jinja_items items = jinja_items(call->heap, call->self);
    struct jinja_dict *seen = jinja_dict_new(call->heap, 0);
    struct jinja_value out = list_of(call, FORM_GENERATOR, items);
    out.list->n = 0;
    for (size_t i = 0; i < items.n; i++) {
        struct jinja_value key = attribute_of(call, items.at[i], call->arg[1]);
        key = without_case(call, key, flag(call, call->arg[0]));
        if (jinja_dict_find(call->heap, seen, key))
            continue;
        jinja_dict_set(call->heap, seen, key, jinja_none());
        out.list->items[out.list->n++] = items.at[i];
    }
    return out;
}

static size_t positive(const struct jinja_call *call, struct jinja_value v)
{
    int64_t n = jinja_arg_int(call, v);
    if (n <= 0)
        jinja_fail(call->heap, ST_INVALID, "a positive number is needed, not %lld", (long long)n);
    return (size_t)n;
}

/* Items from .. from + n - 1, and as many fillers. */
static struct jinja_value row_of(const struct jinja_call *call, struct jinja_items items, size_t from, size_t n,
                                 size_t fillers)
{
    struct jinja_list *row = jinja_list_new(call->heap, FORM_LIST, n + fillers);
    for (size_t i = 0; i < n + fillers; i++)
        row->items[i] = i < n ? items.at[from + i] : call->arg[1];
    return jinja_of_list(row);
}

static bool fills(const struct jinja_call *call)
{
    return jinja_given(call->arg[1]) && call->arg[1].kind != JINJA_NONE;
}

static struct jinja_value filter_batch(const struct jinja_call *call)
{
    struct jinja_items items = jinja_items(call->heap, call->self);
    size_t width = positive(call, call->arg[0]), n = items.n / width + (items.n % width != 0);
    struct jinja_list *out = jinja_list_new(call->heap, FORM_GENERATOR, n);
    for (size_t i = 0; i < n; i++) {
        size_t left = items.n - i * width, taken = left < width ? left : width;
        out->items[i] = row_of(call, items, i * width, taken, fills(call) ? width - taken : 0);
    }
    return jinja_of_list(out);
}

static struct jinja_value filter_slice(const struct jinja_call *call)
{
    struct jinja_items items = jinja_items(call->heap, call->self);
    size_t n = positive(call, call->arg[0]), each = items.n / n, longer = items.n % n, from = 0;
    struct jinja_list *out = jinja_list_new(call->heap, FORM_GENERATOR, n);
    jinja_charge(call->heap, n);
    for (size_t i = 0; i < n; i++) {
        size_t taken = each + (i < longer);
        out->items[i] = row_of(call, items, from, taken, fills(call) && i >= longer);
        from += taken;
    }
    return jinja_of_list(out);
}

const struct jinja_builtin jinja_sequence_filters[] = {
    { "list", filter_list, 0, { 0 } },
    { "items", filter_items, 0, { 0 } },
    { "first", filter_first, 0, { 0 } },
    { "last", filter_last, 0, { 0 } },
    { "reverse", filter_reverse, 0, { 0 } },
    { "join", filter_join, 0, { "d", "attribute" } },
    { "map", filter_map, 0, { "*" } },
    { "select", filter_select, 0, { "*" } },
    { "reject", filter_reject, 0, { "*" } },
    { "selectattr", filter_selectattr, 0, { "*" } },
    { "rejectattr", filter_rejectattr, 0, { "*" } },
    { "sort", filter_sort, 0, { "reverse", "case_sensitive", "attribute" } },
    { "dictsort", filter_dictsort, 0, { "case_sensitive", "by", "reverse" } },
    { "min", filter_min, 0, { "case_sensitive", "attribute" } },
    { "max", filter_max, 0, { "case_sensitive", "attribute" } },
    { "sum", filter_sum, 0, { "attribute", "start" } },
    { "unique", filter_unique, 0, { "case_sensitive", "attribute" } },
    { "batch", filter_batch, 1, { "linecount", "fill_with" } },
    { "slice", filter_slice, 1, { "slices", "fill_with" } },
    { 0 },
};
