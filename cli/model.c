/* baton model - the models that are known by name. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/model_store.h"
#include "common/json_writer.h"

#define OUTPUT_MAX_BYTES ((size_t)16 << 20)

/* ---- list ------------------------------------------------------------------------ */

static void list_one(const struct known_model *model, struct json_writer *w, struct text_buffer *page)
{
    char path[PATH_MAX];
    enum model_condition condition = known_model_condition(model);
    if (known_model_path(model, path, sizeof path, NULL) != ST_OK)
        path[0] = '\0';
    if (!w) {
        text_buffer_printf(page, "%-12s %-8s %s\n%21s %s\n", model->name, model_condition_name(condition), model->about,
                           "", path);
        return;
    }
    json_write_object(w);
    json_field_string(w, "name", model->name);
    json_field_bool(w, "present", condition == MODEL_WHOLE);
    json_field_string(w, "condition", model_condition_name(condition));
    json_field_bool(w, "built_in", model->folder != NULL);
    json_field_string(w, "path", path);
    json_field_string(w, "about", model->about);
    json_write_end(w);
}

static int run_list(const struct command *self, int argc, char **argv)
{
    struct text_buffer page;
    struct json_writer w;
    bool as_json = false;
    int code;
    const struct option_row rows[] = { { "json", 0, OPTION_FLAG, &as_json, "", "One JSON object", 0, 0 } };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    text_buffer_init(&page, OUTPUT_MAX_BYTES);
    json_writer_init(&w, &page);
    if (as_json) {
        json_write_object(&w);
        json_write_key(&w, "models");
        json_write_array(&w);
    }
    for (size_t i = 0; i < n_known_models; i++)
        list_one(&known_models[i], as_json ? &w : NULL, &page);
    if (as_json) {
        json_write_end(&w);
        json_write_end(&w);
        text_buffer_char(&page, '\n');
    }
    return command_print(&page);
}

const struct command command_model_list = { "model list", "", "The models known by name, and where they are",
                                            run_list };

/* ---- the group ---------------------------------------------------------------------------- */

static int run(const struct command *self, int argc, char **argv)
{
    static const struct command *const commands[] = { &command_model_list,
                                                      &command_model_fetch,
                                                      &command_model_inspect,
                                                      &command_model_quantize,
                                                      &command_model_score,
                                                      &command_model_gc,
                                                      NULL };
    (void)self;
    return command_dispatch("baton model", commands, argc, argv);
}

const struct command command_model = { "model", "list|fetch|inspect|quantize|score|gc",
                                       "Models: list, fetch, inspect, quantize, score; free what is held of them",
                                       run };
