/* jinja_builtins.h - the filters, tests, methods and functions that a template
 * may use: tables of rows, found by name at compile time where the name stands
 * in the template. */
#ifndef BATON_ENGINE_JINJA_BUILTINS_H
#define BATON_ENGINE_JINJA_BUILTINS_H

#include "engine/jinja_value.h"

enum { JINJA_MAX_PARAMS = 5 };

struct jinja_run;

struct jinja_keyword {
    const struct jinja_str *name;
    struct jinja_value value;
};

/* Arguments as they were given. */
struct jinja_args {
    size_t n;
    size_t n_keywords;
    const struct jinja_value *at;
    const struct jinja_keyword *keywords;
};

struct jinja_call {
    struct jinja_heap *heap;
    struct jinja_run *run;
    struct jinja_value self;                  /* a filter's input, a method's object */
    struct jinja_value arg[JINJA_MAX_PARAMS]; /* by parameter; JINJA_MISSING where not given */
    const struct jinja_args *raw;
};

struct jinja_builtin {
    const char *name;
    struct jinja_value (*call)(const struct jinja_call *call);
    unsigned required;                    /* of params, from the first */
    const char *params[JINJA_MAX_PARAMS]; /* { "*" }: takes raw */
};

/* NULL when there is none of that name. */
const struct jinja_builtin *jinja_filter_find(const char *name, size_t len);
const struct jinja_builtin *jinja_test_find(const char *name, size_t len);
const struct jinja_builtin *jinja_function_find(const char *name, size_t len);
const struct jinja_builtin *jinja_method_find(enum jinja_kind kind, const char *name, size_t len);
/* Jinja has it, this evaluator does not. */
bool jinja_filter_unbuilt(const char *name, size_t len);
bool jinja_method_unbuilt(const char *name, size_t len);
/* A method that would change a list or a dict, which the sandbox forbids. */
bool jinja_method_unsafe(enum jinja_kind kind, const struct jinja_str *name);

struct jinja_value jinja_invoke(struct jinja_run *run, const struct jinja_builtin *builtin, struct jinja_value self,
                                const struct jinja_args *args);

/* The tables; a row without a name ends each. */
extern const struct jinja_builtin jinja_text_filters[], jinja_sequence_filters[], jinja_tests[], jinja_functions[];
extern const struct jinja_builtin jinja_str_methods[], jinja_list_methods[], jinja_dict_methods[];
extern const struct jinja_builtin jinja_loop_methods[], jinja_cycler_methods[];

/* Arguments of builtins. */
bool jinja_given(struct jinja_value v);
int64_t jinja_arg_int(const struct jinja_call *call, struct jinja_value v);
const struct jinja_str *jinja_arg_str(const struct jinja_call *call, struct jinja_value v);

#endif
