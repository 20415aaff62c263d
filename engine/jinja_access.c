#include "engine/jinja_run.h"
#include "engine/jinja_text.h"

static struct jinja_value absent(struct jinja_value owner, enum jinja_absence why, const struct jinja_str *name)
{
    struct jinja_value out = jinja_undefined(why, name);
    out.owner_kind = owner.kind;
    return out;
}

static struct jinja_value method(struct jinja_heap *heap, struct jinja_value self, const struct jinja_builtin *builtin)
{
    struct jinja_method *m = jinja_alloc(heap, sizeof *m);
    *m = (struct jinja_method){ builtin, self };
    return (struct jinja_value){ .kind = JINJA_METHOD, .method = m };
}

static struct jinja_value loop_attr(const struct jinja_loop *loop, const struct jinja_str *name)
{
    int64_t at = (int64_t)loop->index0, n = (int64_t)loop->items.n;
    const struct {
        const char *name;
        struct jinja_value value;
    } attrs[] = {
        { "index0", jinja_int(at) },
        { "index", jinja_int(at + 1) },
        { "first", jinja_bool(at == 0) },
        { "last", jinja_bool(at + 1 >= n) },
        { "length", jinja_int(n) },
        { "revindex", jinja_int(n - at) },
        { "revindex0", jinja_int(n - at - 1) },
        { "depth", jinja_int(1) },
        { "depth0", jinja_int(0) },
        { "previtem", at > 0 ? loop->items.at[at - 1] : jinja_undefined(ABSENT_ITEM, NULL) },
        { "nextitem", at + 1 < n ? loop->items.at[at + 1] : jinja_undefined(ABSENT_ITEM, NULL) },
    };
    for (size_t i = 0; i < sizeof attrs / sizeof *attrs; i++)
        if (jinja_str_is(name, attrs[i].name))
            return attrs[i].value;
    return (struct jinja_value){ .kind = JINJA_MISSING };
}

/* What Python's getattr() finds; JINJA_MISSING when nothing. */
static struct jinja_value own_attr(struct jinja_heap *heap, struct jinja_value obj, const struct jinja_str *name)
{
    const struct jinja_value *found = NULL;
    if (obj.kind == JINJA_NAMESPACE) {
        found = jinja_dict_find_str(heap, obj.dict, name);
        return found ? *found : (struct jinja_value){ .kind = JINJA_MISSING };
    }
    const struct jinja_builtin *builtin = jinja_method_find(obj.kind, name->bytes, name->len);
    if (obj.kind == JINJA_LIST && obj.list->form > FORM_TUPLE)
        builtin = NULL;
    if (builtin)
        return method(heap, obj, builtin);
    if (obj.kind == JINJA_LOOP)
        return loop_attr(obj.loop, name);
    if (obj.kind == JINJA_CYCLER && jinja_str_is(name, "current"))
        return obj.cycler->items->items[obj.cycler->pos];
    if (jinja_method_unsafe(obj.kind, name))
        return absent(obj, ABSENT_UNSAFE, name);
    return (struct jinja_value){ .kind = JINJA_MISSING };
}

struct jinja_value jinja_attr(struct jinja_heap *heap, struct jinja_value obj, const struct jinja_str *name)
{
    if (obj.kind == JINJA_UNDEFINED)
        jinja_fail_undefined(heap, obj);
    struct jinja_value out = own_attr(heap, obj, name);
    if (out.kind != JINJA_MISSING)
        return out;
    if (obj.kind == JINJA_DICT) {
        const struct jinja_value *found = jinja_dict_find_str(heap, obj.dict, name);
        if (found)
            return *found;
    }
    return absent(obj, ABSENT_ATTRIBUTE, name);
}

static struct jinja_value char_of(struct jinja_heap *heap, const struct jinja_str *s, size_t at)
{
    size_t from = jinja_byte_offset(s, at);
    int32_t code;
    jinja_charge(heap, from / 64);
    return jinja_of_str(jinja_str_new(heap, s->bytes + from, jinja_char_at(s->bytes + from, s->len - from, &code)));
}

/* An element by number; JINJA_MISSING when there is none. */
static struct jinja_value element(struct jinja_heap *heap, struct jinja_value obj, int64_t at)
{
    struct jinja_value missing = { .kind = JINJA_MISSING };
    bool indexed =
        obj.kind == JINJA_STR || obj.kind == JINJA_RANGE || (obj.kind == JINJA_LIST && obj.list->form <= FORM_TUPLE);
    if (!indexed)
        return missing;
    int64_t n = (int64_t)jinja_length(heap, obj);
    if (at < 0)
        at += n;
    if (at < 0 || at >= n)
        return missing;
    if (obj.kind == JINJA_STR)
        return char_of(heap, obj.str, (size_t)at);
    return obj.kind == JINJA_RANGE ? jinja_range_item(obj.range, (size_t)at) : obj.list->items[at];
}

struct jinja_value jinja_item(struct jinja_heap *heap, struct jinja_value obj, struct jinja_value key)
{
    int64_t at;
    if (obj.kind == JINJA_UNDEFINED)
        jinja_fail_undefined(heap, obj);
    struct jinja_value out = { .kind = JINJA_MISSING };
    if (obj.kind == JINJA_DICT && jinja_hashable(key)) {
        const struct jinja_value *found = jinja_dict_find(heap, obj.dict, key);
        if (found)
            return *found;
    } else if (jinja_as_int(key, &at)) {
        out = element(heap, obj, at);
    }
    if (out.kind == JINJA_MISSING && key.kind == JINJA_STR)
        out = own_attr(heap, obj, key.str);
    if (out.kind == JINJA_MISSING)
        out = absent(obj, ABSENT_ATTRIBUTE, key.kind == JINJA_STR ? key.str : NULL);
    return out;
}

static int64_t clamp_index(int64_t at, int64_t n, int64_t least, int64_t most)
{
    if (at < 0)
        at = at < -n ? least : at + n;
    return at < least ? least : at > most ? most : at;
}

/* One bound of a slice; none stands for absent. */
static int64_t bound(struct jinja_heap *heap, struct jinja_value v, int64_t absent_value)
{
    int64_t out = absent_value;
    if (v.kind != JINJA_NONE && !jinja_as_int(v, &out))
        jinja_fail(heap, ST_INVALID, "slice indices must be integers or None");
    return out;
}

struct slice {
    int64_t from, step, n;
};

static struct slice slice_of(struct jinja_heap *heap, const struct jinja_value bounds[3], int64_t length)
{
    int64_t step = bound(heap, bounds[2], 1);
    if (step == 0)
        jinja_fail(heap, ST_INVALID, "slice step cannot be zero");
    /* Steps longer than anything there is differ in nothing. */
    step = step > INT32_MAX ? INT32_MAX : step < -INT32_MAX ? -INT32_MAX : step;
    int64_t least = step > 0 ? 0 : -1, most = step > 0 ? length : length - 1;
    int64_t from = step > 0 ? 0 : length - 1, to = step > 0 ? length : -1;
    if (bounds[0].kind != JINJA_NONE)
        from = clamp_index(bound(heap, bounds[0], 0), length, least, most);
    if (bounds[1].kind != JINJA_NONE)
        to = clamp_index(bound(heap, bounds[1], 0), length, least, most);
    int64_t span = step > 0 ? to - from : from - to, stride = step > 0 ? step : -step;
    return (struct slice){ from, step, span > 0 ? (span + stride - 1) / stride : 0 };
}

static struct jinja_value slice_str(struct jinja_heap *heap, const struct jinja_str *s, struct slice part)
{
    if (part.step == 1 || part.n == 0) {
        size_t from = jinja_byte_offset(s, (size_t)part.from);
        size_t to = part.n ? jinja_byte_offset(s, (size_t)(part.from + part.n)) : from;
        jinja_charge(heap, to / 64);
        return jinja_of_str(jinja_str_new(heap, s->bytes + from, to - from));
    }
    struct jinja_items chars = jinja_items(heap, jinja_of_str(s));
    struct jinja_buf out = { 0 };
    for (int64_t i = 0; i < part.n; i++) {
        const struct jinja_str *c = chars.at[part.from + i * part.step].str;
        jinja_buf_add(heap, &out, c->bytes, c->len);
    }
    return jinja_of_str(jinja_str_of_buf(heap, &out));
}

static struct jinja_value slice_list(struct jinja_heap *heap, const struct jinja_list *list, struct slice part)
{
    struct jinja_list *out = jinja_list_new(heap, list->form, (size_t)part.n);
    jinja_charge(heap, out->n / 8);
    for (int64_t i = 0; i < part.n; i++)
        out->items[i] = list->items[part.from + i * part.step];
    return jinja_of_list(out);
}

struct jinja_value jinja_slice(struct jinja_heap *heap, struct jinja_value obj, const struct jinja_value bounds[3])
{
    if (obj.kind == JINJA_UNDEFINED)
        jinja_fail_undefined(heap, obj);
    if (obj.kind == JINJA_STR)
        return slice_str(heap, obj.str, slice_of(heap, bounds, (int64_t)obj.str->chars));
    if (obj.kind == JINJA_LIST && obj.list->form <= FORM_TUPLE)
        return slice_list(heap, obj.list, slice_of(heap, bounds, (int64_t)obj.list->n));
    jinja_fail(heap, obj.kind == JINJA_RANGE ? ST_UNSUPPORTED : ST_INVALID, "a %s cannot be sliced",
               jinja_type_name(obj));
}
