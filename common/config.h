/* config.h - configuration from one table.
 * A row FIELD(name, TYPE, "default", min, max, "help") in a .def file yields
 * the struct member, the parser, --help, the environment names and the page in docs/CONFIG.md.
 *
 *   TYPE     member         written as                  min, max
 *   BOOL     bool           true, false, yes, no, 1, 0  0, 0
 *   INT      int64_t        17                          numbers
 *   REAL     double         0.5                         numbers
 *   TEXT     char[1024]     any text up to 1023 bytes    1, 0: may not be empty; 0, 0: may
 *   SIZE     uint64_t       512M, 4GiB                  bytes, as MIB(1), GIB(64)
 *   TIME     uint64_t (us)  250ms, 3s, 5m               microseconds, as MS(1), SECONDS(60)
 *   CHOICE   int (index)    one of the words            "auto|shm|tcp", 0
 *   ADDRESS  char[1024]     host:port, [::1]:0          1, 0: may not be empty; 0, 0: may
 *
 * Declaring and defining a table:
 *   struct router_config {
 *       struct daemon_config daemon;       // the rows that all daemons share, always first
 *   #define FIELD CONFIG_MEMBER
 *   #include "router/config.def"
 *   #undef FIELD
 *   };
 *   static const struct config_field fields[] = {
 *   #define FIELD(...) CONFIG_ROW(struct router_config, __VA_ARGS__)
 *   #include "router/config.def"
 *   #undef FIELD
 *   };
 *   const struct config_table router_config_table = CONFIG_TABLE(struct router_config, fields);
 *
 * Order of precedence, lowest first: default, file (--config FILE, `key = value`
 * lines, # comments), BATON_KEY, BATON_ROLE_KEY, flags (--key VALUE, --key=VALUE;
 * - and _ are the same; --no-key for a BOOL). One thread, before others start. */
#ifndef BATON_COMMON_CONFIG_H
#define BATON_COMMON_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/quantity.h"
#include "common/status.h"
#include "common/text_buffer.h"

#define CONFIG_TEXT_BYTES 1024 /* of TEXT and ADDRESS members, the NUL included */

enum config_type {
    CONFIG_BOOL,
    CONFIG_INT,
    CONFIG_REAL,
    CONFIG_TEXT,
    CONFIG_SIZE,
    CONFIG_TIME,
    CONFIG_CHOICE,
    CONFIG_ADDRESS,
};

union config_limit {
    int64_t i;
    uint64_t u;
    double r;
    const char *choices;
};

struct config_field {
    const char *name; /* with underscores, as the member */
    enum config_type type;
    const char *default_text;
    union config_limit min, max;
    size_t offset; /* in the values struct */
    const char *help;
};

struct config_table {
    const struct config_field *fields;
    size_t n_fields;
    size_t size; /* of the values struct */
};

#define CONFIG_CTYPE_BOOL(name)    bool name
#define CONFIG_CTYPE_INT(name)     int64_t name
#define CONFIG_CTYPE_REAL(name)    double name
#define CONFIG_CTYPE_TEXT(name)    char name[CONFIG_TEXT_BYTES]
#define CONFIG_CTYPE_SIZE(name)    uint64_t name
#define CONFIG_CTYPE_TIME(name)    uint64_t name
#define CONFIG_CTYPE_CHOICE(name)  int name
#define CONFIG_CTYPE_ADDRESS(name) char name[CONFIG_TEXT_BYTES]

/* The member of union config_limit that a type uses. */
#define CONFIG_LIMIT_BOOL    u
#define CONFIG_LIMIT_INT     i
#define CONFIG_LIMIT_REAL    r
#define CONFIG_LIMIT_TEXT    u
#define CONFIG_LIMIT_SIZE    u
#define CONFIG_LIMIT_TIME    u
#define CONFIG_LIMIT_CHOICE  choices
#define CONFIG_LIMIT_ADDRESS u

/* clang-format off */
#define CONFIG_MEMBER(name, TYPE, default_text, min, max, help) CONFIG_CTYPE_##TYPE(name);
#define CONFIG_ROW(values, name, TYPE, default_text, min, max, help) \
    { #name, CONFIG_##TYPE, default_text, { .CONFIG_LIMIT_##TYPE = (min) }, { .CONFIG_LIMIT_##TYPE = (max) }, \
      offsetof(values, name), help },
#define CONFIG_TABLE(values, rows) { rows, sizeof(rows) / sizeof(rows)[0], sizeof(values) }
/* clang-format on */

struct config;

/* Values start as the defaults. All tables describe one values struct, whose size is the largest of
 * theirs; the first struct's members come first in it. role: "router", names BATON_ROUTER_KEY; borrowed. */
MUST_CHECK status config_create(const char *role, const struct config_table *const tables[], size_t n_tables,
                                struct config **out, struct error *err);
void config_destroy(struct config **config);
/* The values struct; lives as long as config. */
void *config_values(struct config *config);

/* Where a value came from. */
enum config_source { CONFIG_FROM_DEFAULT, CONFIG_FROM_FILE, CONFIG_FROM_ENVIRONMENT, CONFIG_FROM_FLAG };

/* Sets one value; ST_NOT_FOUND for an unknown key (err names the nearest), ST_INVALID for a value
 * outside what is allowed (err names that). origin ("--port", "baton.conf:7") is copied. */
MUST_CHECK status config_set(struct config *config, const char *key, const char *value, enum config_source source,
                             const char *origin, struct error *err);
MUST_CHECK status config_load_file(struct config *config, const char *path, struct error *err);
MUST_CHECK status config_load_environment(struct config *config, struct error *err);
/* Flags without a value that stand beside the table ("help", "version"; NULL-terminated): the index of the first
 * one given, -1 for none. Looks at nothing else, so that --help answers whatever stands beside it. */
int config_find_action(int argc, char *const argv[], const char *const actions[]);
/* File, environment and flags, in that order; actions are stepped over (NULL: there are none). */
MUST_CHECK status config_load(struct config *config, int argc, char *const argv[], const char *const actions[],
                              struct error *err);
/* Multiplies all TIME values except those set to 0. */
void config_scale_times(struct config *config, double factor);

/* `key = value` lines with their sources; a file that config_load_file reads back. */
void config_write(const struct config *config, struct text_buffer *out);
/* --help's list of options. */
void config_write_help(const struct config *config, struct text_buffer *out);
/* The reference page of these rows: a markdown table. */
void config_write_markdown(const struct config *config, struct text_buffer *out);

/* "host:port" or "[v6]:port" taken apart; host without brackets. */
MUST_CHECK status config_split_address(const char *text, char *host, size_t size, uint16_t *port);

#endif
