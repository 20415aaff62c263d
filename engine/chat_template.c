#include "engine/chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "engine/jinja_parser.h"
#include "engine/jinja_run.h"
#include "engine/jinja_text.h"

/* The tree takes some 30 times its source. */
enum { COMPILE_BYTES_FLOOR = 1024 * 1024, COMPILE_BYTES_PER_BYTE = 400 };

struct chat_template {
    struct jinja_heap heap; /* holds all of tree */
    struct jinja_template *tree;
    char *source;
    size_t source_len;
};

status chat_template_compile(const char *source, size_t len, struct chat_template **out, struct error *err)
{
    if (len > CHAT_TEMPLATE_MAX_SOURCE)
        return error_set(err, ST_LIMIT, "the chat template is longer than %d bytes", CHAT_TEMPLATE_MAX_SOURCE);
    struct chat_template *tpl = calloc(1, sizeof *tpl);
    if (!tpl || !(tpl->source = malloc(len + 1))) {
        free(tpl);
        return error_set(err, ST_NO_MEMORY, "out of memory");
    }
    memcpy(tpl->source, source, len);
    tpl->source_len = len;
    jinja_heap_init(&tpl->heap, COMPILE_BYTES_FLOOR + len * COMPILE_BYTES_PER_BYTE, UINT64_MAX, err);
    if (setjmp(tpl->heap.failed)) {
        status st = tpl->heap.failure;
        chat_template_destroy(&tpl);
        return st;
    }
    tpl->tree = jinja_parse(&tpl->heap, source, len);
    tpl->heap.err = NULL;
    *out = tpl;
    return ST_OK;
}

void chat_template_destroy(struct chat_template **tpl)
{
    if (!*tpl)
        return;
    jinja_heap_free(&(*tpl)->heap);
    free((*tpl)->source);
    free(*tpl);
    *tpl = NULL;
}

const char *chat_template_source(const struct chat_template *tpl, size_t *len)
{
    *len = tpl->source_len;
    return tpl->source;
}

struct render {
    struct jinja_heap heap;
    struct jinja_run run;
    struct jinja_scope globals;
    struct jinja_buf out;
};

/* Names that the template never mentions need no value. */
static void set_global(struct render *r, const char *name, struct jinja_value value)
{
    const struct jinja_names *names = &r->run.tpl->names;
    for (uint32_t i = 0; i < names->n; i++)
        if (jinja_str_is(names->at[i], name))
            jinja_scope_set(&r->heap, &r->globals, i, value);
}

static void set_token(struct render *r, const char *name, const char *token)
{
    if (!token || !*token)
        return;
    if (!jinja_valid_utf8(token, strlen(token)))
        jinja_fail(&r->heap, ST_INVALID, "%s is not valid UTF-8", name);
    set_global(r, name, jinja_of_str(jinja_str_new(&r->heap, token, strlen(token))));
}

bool chat_template_sets(const char *name)
{
    static const char *const names[] = { "bos_token", "eos_token", "messages",
                                         "tools",     "documents", "add_generation_prompt" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i], name))
            return true;
    return false;
}

static void set_globals(struct render *r, const struct chat_template_input *in)
{
    set_token(r, "bos_token", in->bos_token);
    set_token(r, "eos_token", in->eos_token);
    set_global(r, "messages", in->messages ? jinja_of_json(&r->heap, in->messages) : jinja_none());
    set_global(r, "tools", in->tools ? jinja_of_json(&r->heap, in->tools) : jinja_none());
    set_global(r, "documents", jinja_none());
    set_global(r, "add_generation_prompt", jinja_bool(in->add_generation_prompt));
    /* Reading does not change the object; the iterator only lacks a const. */
    json_t *variables = (json_t *)(uintptr_t)in->variables;
    for (void *at = json_object_iter(variables); at; at = json_object_iter_next(variables, at))
        set_global(r, json_object_iter_key(at), jinja_of_json(&r->heap, json_object_iter_value(at)));
}

static void render_all(struct render *r, const struct chat_template_input *in)
{
    set_globals(r, in);
    jinja_exec(&r->run, &r->globals, r->run.tpl->body);
}

static status copy_out(const struct jinja_buf *from, char **out, size_t *len, struct error *err)
{
    char *text = malloc(from->len + 1);
    if (!text)
        return error_set(err, ST_NO_MEMORY, "out of memory");
    if (from->len)
        memcpy(text, from->bytes, from->len);
    text[from->len] = 0;
    *out = text;
    *len = from->len;
    return ST_OK;
}

status chat_template_render(const struct chat_template *tpl, const struct chat_template_input *in, char **out,
                            size_t *len, struct error *err)
{
    struct render *r = calloc(1, sizeof *r);
    if (!r)
        return error_set(err, ST_NO_MEMORY, "out of memory");
    jinja_heap_init(&r->heap, CHAT_TEMPLATE_MAX_MEMORY, CHAT_TEMPLATE_MAX_STEPS, err);
    r->out.limit = CHAT_TEMPLATE_MAX_OUTPUT;
    r->run = (struct jinja_run){ .heap = &r->heap, .tpl = tpl->tree, .out = &r->out, .now = in->now };
    status st;
    if (setjmp(r->heap.failed)) {
        st = r->heap.failure;
    } else {
        render_all(r, in);
        st = copy_out(&r->out, out, len, err);
    }
    jinja_heap_free(&r->heap);
    free(r);
    return st;
}
