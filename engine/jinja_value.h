/* jinja_value.h - the values of a template: Python's, as far as JSON and Jinja
 * can make them. Immutable, but for namespaces, generators and cyclers. All
 * live on a jinja_heap; failures (a TypeError, say) leave through it. */
#ifndef BATON_ENGINE_JINJA_VALUE_H
#define BATON_ENGINE_JINJA_VALUE_H

#include <jansson.h>
#include <stdbool.h>
#include <string.h>

#include "engine/jinja_heap.h"

/* An operator of two characters as one number. */
#define JINJA_OP2(a, b) ((a) << 8 | (b))

/* Lists within lists that printing and comparing go into. */
enum { JINJA_MAX_NESTING = 400 };

enum jinja_kind {
    JINJA_MISSING, /* no argument given; never seen by a template */
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STR,
    JINJA_LIST, /* and other runs of values, see jinja_form */
    JINJA_DICT,
    JINJA_RANGE,
    JINJA_NAMESPACE,
    JINJA_LOOP,
    JINJA_CYCLER,
    JINJA_JOINER,
    JINJA_MACRO,
    JINJA_METHOD,   /* a builtin with the object it was taken from */
    JINJA_FUNCTION, /* a builtin */
};

/* Why a value is undefined, for the message. */
enum jinja_absence { ABSENT_NAME, ABSENT_ATTRIBUTE, ABSENT_PARAMETER, ABSENT_UNSAFE, ABSENT_ITEM };

struct jinja_value {
    uint8_t kind;
    uint8_t absence;    /* UNDEFINED */
    uint8_t owner_kind; /* UNDEFINED, ABSENT_ATTRIBUTE and ABSENT_UNSAFE: of the object asked */
    union {
        bool boolean;
        int64_t integer;
        double real;
        const struct jinja_str *str; /* UNDEFINED: the name, may be NULL */
        struct jinja_list *list;
        struct jinja_dict *dict; /* also NAMESPACE */
        const struct jinja_range *range;
        struct jinja_loop *loop;
        struct jinja_cycler *cycler;
        struct jinja_joiner *joiner;
        const struct jinja_macro *macro;
        const struct jinja_method *method;
        const struct jinja_builtin *function;
    };
};

struct jinja_str {
    const char *bytes; /* valid UTF-8, not NUL-terminated */
    size_t len;        /* bytes */
    size_t chars;      /* code points */
};

enum jinja_form { FORM_LIST, FORM_TUPLE, FORM_KEYS, FORM_VALUES, FORM_ITEMS, FORM_GENERATOR };

struct jinja_list {
    enum jinja_form form;
    size_t n;
    struct jinja_value *items; /* a generator's are gone once read */
};

struct jinja_pair {
    struct jinja_value key;
    struct jinja_value value;
};

struct jinja_dict {
    size_t n;
    size_t cap;
    struct jinja_pair *pairs; /* in order of insertion */
};

struct jinja_range {
    int64_t start, stop, step;
    size_t n;
};

struct jinja_cycler {
    const struct jinja_list *items;
    size_t pos;
};

struct jinja_joiner {
    const struct jinja_str *separator;
    bool used;
};

struct jinja_method {
    const struct jinja_builtin *builtin;
    struct jinja_value self;
};

static inline struct jinja_value jinja_none(void)
{
    return (struct jinja_value){ .kind = JINJA_NONE };
}

static inline struct jinja_value jinja_bool(bool b)
{
    return (struct jinja_value){ .kind = JINJA_BOOL, .boolean = b };
}

static inline struct jinja_value jinja_int(int64_t i)
{
    return (struct jinja_value){ .kind = JINJA_INT, .integer = i };
}

static inline struct jinja_value jinja_float(double f)
{
    return (struct jinja_value){ .kind = JINJA_FLOAT, .real = f };
}

static inline struct jinja_value jinja_of_str(const struct jinja_str *s)
{
    return (struct jinja_value){ .kind = JINJA_STR, .str = s };
}

static inline struct jinja_value jinja_of_list(struct jinja_list *l)
{
    return (struct jinja_value){ .kind = JINJA_LIST, .list = l };
}

static inline struct jinja_value jinja_undefined(enum jinja_absence why, const struct jinja_str *name)
{
    return (struct jinja_value){ .kind = JINJA_UNDEFINED, .absence = (uint8_t)why, .str = name };
}

/* bytes are borrowed and must outlive the heap. */
const struct jinja_str *jinja_str_new(struct jinja_heap *heap, const char *bytes, size_t len);
const struct jinja_str *jinja_str_of_buf(struct jinja_heap *heap, const struct jinja_buf *buf);
const struct jinja_str *jinja_str_join(struct jinja_heap *heap, const struct jinja_str *a, const struct jinja_str *b);
bool jinja_str_equal(const struct jinja_str *a, const struct jinja_str *b);
bool jinja_str_is(const struct jinja_str *s, const char *text);

struct jinja_list *jinja_list_new(struct jinja_heap *heap, enum jinja_form form, size_t n);
struct jinja_dict *jinja_dict_new(struct jinja_heap *heap, size_t cap);
/* NULL when absent; keys that cannot be keys (lists) fail. */
const struct jinja_value *jinja_dict_find(struct jinja_heap *heap, const struct jinja_dict *d, struct jinja_value key);
const struct jinja_value *jinja_dict_find_str(struct jinja_heap *heap, const struct jinja_dict *d,
                                              const struct jinja_str *key);
void jinja_dict_set(struct jinja_heap *heap, struct jinja_dict *d, struct jinja_value key, struct jinja_value value);
bool jinja_hashable(struct jinja_value v);

/* Strings are borrowed from json, which must outlive the heap. */
struct jinja_value jinja_of_json(struct jinja_heap *heap, const json_t *json);

/* "str", "NoneType" and so on. */
const char *jinja_type_name(struct jinja_value v);
_Noreturn void jinja_fail_undefined(struct jinja_heap *heap, struct jinja_value v);

bool jinja_truth(struct jinja_heap *heap, struct jinja_value v);
bool jinja_equal(struct jinja_heap *heap, struct jinja_value a, struct jinja_value b);
/* op: '<', '>', JINJA_OP2('<', '=') or JINJA_OP2('>', '='). */
bool jinja_ordered(struct jinja_heap *heap, int op, struct jinja_value a, struct jinja_value b);
bool jinja_contains(struct jinja_heap *heap, struct jinja_value container, struct jinja_value item);
/* Python's len(). */
size_t jinja_length(struct jinja_heap *heap, struct jinja_value v);
bool jinja_iterable(struct jinja_value v);

struct jinja_items {
    struct jinja_value *at;
    size_t n;
};

/* What a for loop would go through; empties a generator. */
struct jinja_items jinja_items(struct jinja_heap *heap, struct jinja_value v);

/* BOOL or INT. */
bool jinja_as_int(struct jinja_value v, int64_t *out);
/* BOOL, INT or FLOAT. */
bool jinja_is_number(struct jinja_value v);
double jinja_as_real(struct jinja_value v);
struct jinja_value jinja_range_item(const struct jinja_range *range, size_t i);

#endif
