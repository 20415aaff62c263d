/* option.h - the options of one command line, from a table of rows.
 * --name VALUE, --name=VALUE, -n VALUE, and flags without a value; what is no
 * option is an argument, and so is everything behind "--". */
#ifndef BATON_CLI_OPTION_H
#define BATON_CLI_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/distribution.h"
#include "common/status.h"
#include "common/text_buffer.h"

#define OPTION_LIST_MAX 64
#define ARGUMENTS_MAX   64

enum option_kind {
    OPTION_FLAG, /* bool */
    OPTION_TEXT, /* const char *; borrowed from argv */
    OPTION_INT,  /* int64_t within min, max */
    OPTION_REAL, /* double within min, max */
    OPTION_WORD, /* const char *; one of the words of `words` */
    OPTION_LIST, /* struct option_list; may be repeated */
};

struct option_list {
    const char *items[OPTION_LIST_MAX]; /* borrowed from argv */
    size_t n;
};

struct option_row {
    const char *name; /* without the dashes */
    char letter;      /* 0: none */
    enum option_kind kind;
    void *value;      /* of the kind's type, holding the default */
    const char *meta; /* what help shows for the value: "N", "DIR"; for OPTION_WORD "auto|shm|tcp" */
    const char *help;
    double min, max;
};

struct arguments {
    char *items[ARGUMENTS_MAX]; /* borrowed */
    size_t n;
};

/* argv[0] is skipped. ST_INVALID with a sentence that names the option and what is allowed, or the nearest option. */
MUST_CHECK status option_parse(int argc, char **argv, const struct option_row *rows, size_t n_rows,
                               struct arguments *arguments, struct error *err);
/* The value of option `name` as a distribution; ST_INVALID names both. */
MUST_CHECK status option_distribution(const char *name, const char *text, struct distribution *out, struct error *err);
bool option_given_help(int argc, char **argv);
void option_write_help(const struct option_row *rows, size_t n_rows, struct text_buffer *out);

/* Of n names the one with the least edit distance; NULL when none is near enough to be meant. */
const char *nearest_name(const char *text, const char *const names[], size_t n);

#endif
