#include "engine/jinja_builtins.h"
#include "engine/jinja_run.h"

static struct jinja_value list_index(const struct jinja_call *call)
{
    const struct jinja_list *list = call->self.list;
    for (size_t i = 0; i < list->n; i++)
        if (jinja_equal(call->heap, list->items[i], call->arg[0]))
            return jinja_int((int64_t)i);
    jinja_fail(call->heap, ST_INVALID, "the value is not in the list");
}

static struct jinja_value list_count(const struct jinja_call *call)
{
    const struct jinja_list *list = call->self.list;
    int64_t n = 0;
    for (size_t i = 0; i < list->n; i++)
        n += jinja_equal(call->heap, list->items[i], call->arg[0]);
    return jinja_int(n);
}

/* Values do not change, so a copy is the thing itself. */
static struct jinja_value itself(const struct jinja_call *call)
{
    return call->self;
}

const struct jinja_builtin jinja_list_methods[] = {
    { "index", list_index, 1, { "value" } },
    { "count", list_count, 1, { "value" } },
    { "copy", itself, 0, { 0 } },
    { 0 },
};

static struct jinja_value dict_get(const struct jinja_call *call)
{
    const struct jinja_value *found = jinja_dict_find(call->heap, call->self.dict, call->arg[0]);
    if (found)
        return *found;
    return jinja_given(call->arg[1]) ? call->arg[1] : jinja_none();
}

static struct jinja_value dict_parts(const struct jinja_call *call, enum jinja_form form)
{
    const struct jinja_dict *dict = call->self.dict;
    struct jinja_list *out = jinja_list_new(call->heap, form, dict->n);
    jinja_charge(call->heap, dict->n / 8);
    for (size_t i = 0; i < dict->n; i++) {
        const struct jinja_pair *pair = &dict->pairs[i];
        if (form == FORM_ITEMS) {
            struct jinja_list *item = jinja_list_new(call->heap, FORM_TUPLE, 2);
            item->items[0] = pair->key;
            item->items[1] = pair->value;
            out->items[i] = jinja_of_list(item);
        } else {
            out->items[i] = form == FORM_KEYS ? pair->key : pair->value;
        }
    }
    return jinja_of_list(out);
}

static struct jinja_value dict_items(const struct jinja_call *call)
{
    return dict_parts(call, FORM_ITEMS);
}

static struct jinja_value dict_keys(const struct jinja_call *call)
{
    return dict_parts(call, FORM_KEYS);
}

static struct jinja_value dict_values(const struct jinja_call *call)
{
    return dict_parts(call, FORM_VALUES);
}

const struct jinja_builtin jinja_dict_methods[] = {
    { "get", dict_get, 1, { "key", "default" } }, { "items", dict_items, 0, { 0 } }, { "keys", dict_keys, 0, { 0 } },
    { "values", dict_values, 0, { 0 } },          { "copy", itself, 0, { 0 } },      { 0 },
};

static struct jinja_value loop_cycle(const struct jinja_call *call)
{
    if (!call->raw->n)
        jinja_fail(call->heap, ST_INVALID, "no items for cycling given");
    return call->raw->at[call->self.loop->index0 % call->raw->n];
}

static struct jinja_value loop_changed(const struct jinja_call *call)
{
    struct jinja_loop *loop = call->self.loop;
    struct jinja_list *now = jinja_list_new(call->heap, FORM_TUPLE, call->raw->n);
    if (now->n)
        memcpy(now->items, call->raw->at, now->n * sizeof *now->items);
    bool same = loop->changed && jinja_equal(call->heap, jinja_of_list(loop->changed), jinja_of_list(now));
    loop->changed = now;
    return jinja_bool(!same);
}

const struct jinja_builtin jinja_loop_methods[] = {
    { "cycle", loop_cycle, 0, { "*" } },
    { "changed", loop_changed, 0, { "*" } },
    { 0 },
};

static struct jinja_value cycler_next(const struct jinja_call *call)
{
    struct jinja_cycler *cycler = call->self.cycler;
    struct jinja_value out = cycler->items->items[cycler->pos];
    cycler->pos = (cycler->pos + 1) % cycler->items->n;
    return out;
}

static struct jinja_value cycler_reset(const struct jinja_call *call)
{
    call->self.cycler->pos = 0;
    return jinja_none();
}

const struct jinja_builtin jinja_cycler_methods[] = {
    { "next", cycler_next, 0, { 0 } },
    { "reset", cycler_reset, 0, { 0 } },
    { 0 },
};
