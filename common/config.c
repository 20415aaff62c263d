#include "common/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config_internal.h"
#include "common/config_value.h"

#define CONFIG_LINE_BYTES 1024

static void *member_of(struct config *config, const struct config_row *row)
{
    return (char *)config->values + row->field->offset;
}

static status add_rows(struct config *config, const struct config_table *table, struct error *err)
{
    for (size_t i = 0; i < table->n_fields; i++) {
        const struct config_field *field = &table->fields[i];
        struct config_row *row = &config->rows[config->n_rows++];
        row->field = field;
        if (config_value_parse(field, field->default_text, member_of(config, row)) != ST_OK)
            return error_set(err, ST_INVALID, "the default \"%s\" of %s is outside its own limits", field->default_text,
                             field->name);
    }
    return ST_OK;
}

status config_create(const char *role, const struct config_table *const tables[], size_t n_tables, struct config **out,
                     struct error *err)
{
    size_t n_rows = 0, size = 1;
    for (size_t i = 0; i < n_tables; i++) {
        n_rows += tables[i]->n_fields;
        size = tables[i]->size > size ? tables[i]->size : size;
    }
    struct config *config = calloc(1, sizeof *config + n_rows * sizeof config->rows[0]);
    if (!config || !(config->values = calloc(1, size))) {
        free(config);
        return error_set(err, ST_NO_MEMORY, "no memory for the configuration");
    }
    config->role = role;
    status st = ST_OK;
    for (size_t i = 0; i < n_tables && st == ST_OK; i++)
        st = add_rows(config, tables[i], err);
    if (st != ST_OK) {
        config_destroy(&config);
        return st;
    }
    *out = config;
    return ST_OK;
}

void config_destroy(struct config **p)
{
    struct config *config = *p;
    if (!config)
        return;
    *p = NULL;
    free(config->values);
    free(config);
}

void *config_values(struct config *config)
{
    return config->values;
}

/* - and _ are the same, and case does not matter, as in BATON_KEY. */
static int same_letter(char a, char b)
{
    a = a == '-' ? '_' : (char)tolower((unsigned char)a);
    b = b == '-' ? '_' : (char)tolower((unsigned char)b);
    return a == b;
}

static bool same_name(const char *a, const char *b, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!b[i] || !same_letter(a[i], b[i]))
            return false;
    return !b[len];
}

static struct config_row *find_row(struct config *config, const char *key, size_t len)
{
    for (size_t i = 0; i < config->n_rows; i++)
        if (same_name(key, config->rows[i].field->name, len))
            return &config->rows[i];
    return NULL;
}

size_t config_edit_distance(const char *a, size_t n_a, const char *b)
{
    size_t row[CONFIG_NAME_BYTES], n_b = strlen(b);
    if (n_a >= CONFIG_NAME_BYTES || n_b >= CONFIG_NAME_BYTES)
        return SIZE_MAX;
    for (size_t j = 0; j <= n_b; j++)
        row[j] = j;
    for (size_t i = 1; i <= n_a; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            size_t best = diagonal + !same_letter(a[i - 1], b[j - 1]);
            diagonal = row[j];
            best = best < row[j] + 1 ? best : row[j] + 1;
            row[j] = best < row[j - 1] + 1 ? best : row[j - 1] + 1;
        }
    }
    return row[n_b];
}

static status unknown_key(const struct config *config, const char *key, size_t len, const char *origin,
                          struct error *err)
{
    const char *nearest = NULL;
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < config->n_rows; i++) {
        size_t distance = config_edit_distance(key, len, config->rows[i].field->name);
        if (distance < least) {
            least = distance;
            nearest = config->rows[i].field->name;
        }
    }
    /* A name that shares too little helps nobody. */
    if (!nearest || least > len / 3 + 1)
        return error_set(err, ST_NOT_FOUND, "%.160s: there is no option \"%.*s\"; --help lists all", origin,
                         (int)(len < 60 ? len : 60), key);
    char flag[CONFIG_NAME_BYTES];
    return error_set(err, ST_NOT_FOUND, "%.160s: there is no option \"%.*s\"; the nearest one is \"%s\"", origin,
                     (int)(len < 60 ? len : 60), key, config_flag_name(nearest, flag));
}

const char *config_flag_name(const char *name, char buf[CONFIG_NAME_BYTES])
{
    size_t i = 0;
    for (; name[i] && i < CONFIG_NAME_BYTES - 1; i++)
        buf[i] = name[i] == '_' ? '-' : name[i];
    buf[i] = '\0';
    return buf;
}

static status set_row(struct config *config, struct config_row *row, const char *value, enum config_source source,
                      const char *origin, struct error *err)
{
    if (config_value_parse(row->field, value, member_of(config, row)) != ST_OK) {
        char allowed[CONFIG_ALLOWED_BYTES];
        config_value_allowed(row->field, allowed);
        return error_set(err, ST_INVALID, "%.160s: \"%.80s\" is not allowed; it takes %s", origin, value, allowed);
    }
    row->source = source;
    snprintf(row->origin, sizeof row->origin, "%.*s", CONFIG_ORIGIN_BYTES - 1, origin);
    return ST_OK;
}

status config_set(struct config *config, const char *key, const char *value, enum config_source source,
                  const char *origin, struct error *err)
{
    struct config_row *row = find_row(config, key, strlen(key));
    if (!row)
        return unknown_key(config, key, strlen(key), origin, err);
    return set_row(config, row, value, source, origin, err);
}

static char *trim(char *text)
{
    text += strspn(text, " \t\r\n");
    size_t len = strlen(text);
    while (len && strchr(" \t\r\n", text[len - 1]))
        text[--len] = '\0';
    return text;
}

/* "text" with \" and \\ inside; what follows may only be a comment. */
static bool unquote(char *value)
{
    char *to = value, *from = value + 1;
    for (; *from && *from != '"'; *to++ = *from++)
        if (*from == '\\' && from[1])
            from++;
    if (*from != '"')
        return false;
    from += 1 + strspn(from + 1, " \t");
    *to = '\0';
    return !*from || *from == '#';
}

/* A # begins a comment at the start of a line and after a space. */
static void cut_comment(char *value)
{
    for (char *p = value; *p; p++)
        if (*p == '#' && (p == value || p[-1] == ' ' || p[-1] == '\t')) {
            *p = '\0';
            return;
        }
}

static status load_line(struct config *config, char *line, const char *origin, struct error *err)
{
    line = trim(line);
    if (!*line || *line == '#')
        return ST_OK;
    char *equals = strchr(line, '=');
    if (!equals)
        return error_set(err, ST_INVALID, "%.160s: a line must read key = value", origin);
    *equals = '\0';
    char *value = trim(equals + 1);
    if (*value == '"') {
        if (!unquote(value))
            return error_set(err, ST_INVALID, "%.160s: the quotes around the value do not match", origin);
    } else {
        cut_comment(value);
        value = trim(value);
    }
    return config_set(config, trim(line), value, CONFIG_FROM_FILE, origin, err);
}

status config_load_file(struct config *config, const char *path, struct error *err)
{
    char line[CONFIG_LINE_BYTES], origin[CONFIG_ORIGIN_BYTES];
    FILE *f = fopen(path, "re");
    if (!f)
        return error_set(err, ST_IO, "cannot read the configuration file %.200s: %s", path, strerror(errno));
    status st = ST_OK;
    for (unsigned n = 1; st == ST_OK && fgets(line, sizeof line, f); n++) {
        snprintf(origin, sizeof origin, "%.160s:%u", path, n);
        if (!strchr(line, '\n') && !feof(f))
            st = error_set(err, ST_LIMIT, "%.160s: the line is longer than %d bytes", origin, CONFIG_LINE_BYTES - 2);
        else
            st = load_line(config, line, origin, err);
    }
    if (st == ST_OK && ferror(f))
        st = error_set(err, ST_IO, "cannot read the configuration file %.200s", path);
    fclose(f);
    return st;
}

static void upper(char *text)
{
    for (; *text; text++)
        *text = *text == '-' ? '_' : (char)toupper((unsigned char)*text);
}

status config_load_environment(struct config *config, struct error *err)
{
    for (size_t i = 0; i < config->n_rows; i++) {
        struct config_row *row = &config->rows[i];
        char names[2][2 * CONFIG_NAME_BYTES];
        snprintf(names[0], sizeof names[0], "BATON_%s", row->field->name);
        snprintf(names[1], sizeof names[1], "BATON_%s_%s", config->role, row->field->name);
        for (int j = 0; j < 2; j++) {
            upper(names[j]);
            const char *value = getenv(names[j]);
            status st = value ? set_row(config, row, value, CONFIG_FROM_ENVIRONMENT, names[j], err) : ST_OK;
            if (st != ST_OK)
                return st;
        }
    }
    return ST_OK;
}

/* One flag of the command line, taken apart. */
struct flag {
    const char *key;
    size_t key_len;
    const char *value;
    struct config_row *row; /* NULL: --config */
    char origin[CONFIG_ORIGIN_BYTES];
};

int config_find_action(int argc, char *const argv[], const char *const actions[])
{
    for (int i = 1; i < argc; i++)
        for (int j = 0; actions && actions[j]; j++)
            if (!strncmp(argv[i], "--", 2) && same_name(argv[i] + 2, actions[j], strlen(argv[i] + 2)))
                return j;
    return -1;
}

static struct config_row *find_negated(struct config *config, const struct flag *flag)
{
    if (flag->key_len < 4 || strncmp(flag->key, "no", 2) || !same_letter(flag->key[2], '_'))
        return NULL;
    struct config_row *row = find_row(config, flag->key + 3, flag->key_len - 3);
    return row && row->field->type == CONFIG_BOOL ? row : NULL;
}

/* Takes argv[*i], and its value from the next place where it has none of its own. */
static status take_flag(struct config *config, int argc, char *const argv[], int *i, struct flag *flag,
                        struct error *err)
{
    const char *text = argv[*i];
    if (strncmp(text, "--", 2) || !text[2])
        return error_set(err, ST_INVALID, "unexpected argument \"%.100s\"; options are written --key VALUE", text);
    *flag = (struct flag){ .key = text + 2, .key_len = strcspn(text + 2, "=") };
    snprintf(flag->origin, sizeof flag->origin, "--%.*s", (int)(flag->key_len < 100 ? flag->key_len : 100), flag->key);
    if (flag->key[flag->key_len] == '=')
        flag->value = flag->key + flag->key_len + 1;
    bool is_file = same_name(flag->key, "config", flag->key_len);
    flag->row = is_file ? NULL : find_row(config, flag->key, flag->key_len);
    if (!is_file && !flag->row && (flag->row = find_negated(config, flag))) {
        if (flag->value)
            return error_set(err, ST_INVALID, "%s takes no value", flag->origin);
        flag->value = "false";
    }
    if (!is_file && !flag->row)
        return unknown_key(config, flag->key, flag->key_len, flag->origin, err);
    if (!flag->value && flag->row && flag->row->field->type == CONFIG_BOOL)
        flag->value = "true";
    if (!flag->value && *i + 1 >= argc)
        return error_set(err, ST_INVALID, "%s needs a value", flag->origin);
    if (!flag->value)
        flag->value = argv[++*i];
    return ST_OK;
}

/* Two passes: the file is found before any flag is applied, so that flags win over it. */
static status walk_flags(struct config *config, int argc, char *const argv[], const char *const actions[],
                         const char **file, struct error *err)
{
    struct flag flag = { 0 };
    for (int i = 1; i < argc; i++) {
        if (config_find_action(2, (char *const[]){ NULL, argv[i] }, actions) >= 0)
            continue;
        status st = take_flag(config, argc, argv, &i, &flag, err);
        if (st == ST_OK && file && !flag.row)
            *file = flag.value;
        if (st == ST_OK && !file && flag.row)
            st = set_row(config, flag.row, flag.value, CONFIG_FROM_FLAG, flag.origin, err);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

status config_load(struct config *config, int argc, char *const argv[], const char *const actions[], struct error *err)
{
    const char *file = NULL;
    status st = walk_flags(config, argc, argv, actions, &file, err);
    if (st == ST_OK && file)
        st = config_load_file(config, file, err);
    if (st == ST_OK)
        st = config_load_environment(config, err);
    if (st == ST_OK)
        st = walk_flags(config, argc, argv, actions, NULL, err);
    return st;
}

void config_scale_times(struct config *config, double factor)
{
    for (size_t i = 0; i < config->n_rows; i++) {
        uint64_t *us = member_of(config, &config->rows[i]);
        if (config->rows[i].field->type != CONFIG_TIME || *us == 0)
            continue;
        double scaled = (double)*us * factor;
        *us = scaled < 1 ? 1 : scaled > 0x1p62 ? UINT64_C(1) << 62 : (uint64_t)scaled;
    }
}
