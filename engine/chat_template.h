/* chat_template.h - the Jinja dialect that models ship their chat templates in.
 * A lexer, a parser and an evaluator over JSON values; renders as Hugging Face's
 * apply_chat_template does (ImmutableSandboxedEnvironment, trim_blocks and
 * lstrip_blocks on, loop controls, tojson, strftime_now, raise_exception).
 * Compiling refuses what is not built, naming line and construct. Rendering is
 * bounded in steps, output and depth: a hostile template ends with ST_LIMIT.
 * A compiled template is immutable: any thread may render it. */
#ifndef BATON_ENGINE_CHAT_TEMPLATE_H
#define BATON_ENGINE_CHAT_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "common/status.h"

#define CHAT_TEMPLATE_MAX_SOURCE (1024 * 1024)       /* bytes */
#define CHAT_TEMPLATE_MAX_OUTPUT (32 * 1024 * 1024)  /* bytes */
#define CHAT_TEMPLATE_MAX_MEMORY (256 * 1024 * 1024) /* bytes while rendering */
#define CHAT_TEMPLATE_MAX_STEPS  (20 * 1000 * 1000)  /* nodes evaluated, and work in builtins */

struct chat_template;

/* ST_INVALID for what Jinja would refuse too, ST_UNSUPPORTED for what it knows
 * and is not built here, ST_LIMIT for size and nesting; each with the line. */
MUST_CHECK status chat_template_compile(const char *source, size_t len, struct chat_template **out, struct error *err);
void chat_template_destroy(struct chat_template **tpl);
/* What it was compiled from; lives as long as it. */
const char *chat_template_source(const struct chat_template *tpl, size_t *len);

struct chat_template_input {
    const json_t *messages;  /* array of objects; content as text or null                      */
    const json_t *tools;     /* array or NULL (then none, as in transformers)                   */
    const json_t *variables; /* object of further variables (chat_template_kwargs), or NULL;    */
                             /* they win over the ones here                                     */
    const char *bos_token;   /* NULL or "" when there is none: then undefined */
    const char *eos_token;
    bool add_generation_prompt;
    time_t now; /* for strftime_now, in local time */
};

/* Whether rendering itself gives this variable a value, which `variables` would replace. */
bool chat_template_sets(const char *name);

/* *out is malloc'ed, NUL-terminated, len bytes long. ST_INVALID with the text
 * of raise_exception(...) or of the evaluation error and its line. */
MUST_CHECK status chat_template_render(const struct chat_template *tpl, const struct chat_template_input *in,
                                       char **out, size_t *len, struct error *err);

#endif
