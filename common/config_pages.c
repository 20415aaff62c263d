/* The configuration as text: a file, --help and the reference page. */
#include <stdio.h>
#include <string.h>

#include "common/config_internal.h"
#include "common/config_value.h"

static void write_value(struct text_buffer *out, const char *value)
{
    size_t len = strlen(value);
    if (len && !strpbrk(value, "\"#\\") && value[0] != ' ' && value[len - 1] != ' ') {
        text_buffer_add(out, value);
        return;
    }
    text_buffer_char(out, '"');
    for (const char *p = value; *p; p++) {
        if (*p == '"' || *p == '\\')
            text_buffer_char(out, '\\');
        text_buffer_char(out, *p);
    }
    text_buffer_char(out, '"');
}

void config_write(const struct config *config, struct text_buffer *out)
{
    static const char *const sources[] = { "default", "file", "environment", "flag" };
    char value[CONFIG_TEXT_BYTES];
    for (size_t i = 0; i < config->n_rows; i++) {
        const struct config_row *row = &config->rows[i];
        config_value_format(row->field, (const char *)config->values + row->field->offset, value);
        text_buffer_printf(out, "%s = ", row->field->name);
        write_value(out, value);
        text_buffer_printf(out, "  # %s%s%s\n", sources[row->source], row->source == CONFIG_FROM_DEFAULT ? "" : " ",
                           row->origin);
    }
}

void config_write_help(const struct config *config, struct text_buffer *out)
{
    char flag[CONFIG_NAME_BYTES], allowed[CONFIG_ALLOWED_BYTES];
    text_buffer_add(out, "  --config FILE\n        File of key = value lines\n");
    for (size_t i = 0; i < config->n_rows; i++) {
        const struct config_field *field = config->rows[i].field;
        config_flag_name(field->name, flag);
        config_value_allowed(field, allowed);
        if (field->type == CONFIG_BOOL)
            text_buffer_printf(out, "  --%s, --no-%s\n", flag, flag);
        else
            text_buffer_printf(out, "  --%s VALUE\n", flag);
        text_buffer_printf(out, "        %s\n        %s (default: %s)\n", field->help, allowed,
                           field->default_text[0] ? field->default_text : "empty");
    }
}

/* A | would end the cell. */
static void write_cell(struct text_buffer *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '|')
            text_buffer_char(out, '\\');
        text_buffer_char(out, *text);
    }
    text_buffer_add(out, " |");
}

void config_write_markdown(const struct config *config, struct text_buffer *out)
{
    char flag[CONFIG_NAME_BYTES], allowed[CONFIG_ALLOWED_BYTES];
    text_buffer_add(out, "| option | default | takes | meaning |\n|---|---|---|---|\n");
    for (size_t i = 0; i < config->n_rows; i++) {
        const struct config_field *field = config->rows[i].field;
        config_value_allowed(field, allowed);
        text_buffer_printf(out, "| `--%s` | ", config_flag_name(field->name, flag));
        if (field->default_text[0])
            text_buffer_printf(out, "`%s` | ", field->default_text);
        else
            text_buffer_add(out, "empty | ");
        write_cell(out, allowed);
        text_buffer_char(out, ' ');
        write_cell(out, field->help);
        text_buffer_char(out, '\n');
    }
}
