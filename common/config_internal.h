/* config_internal.h - what config.c, config_pages.c and stray_variable.c share. */
#ifndef BATON_COMMON_CONFIG_INTERNAL_H
#define BATON_COMMON_CONFIG_INTERNAL_H

#include "common/config.h"

#define CONFIG_NAME_BYTES   64
#define CONFIG_ORIGIN_BYTES 192

struct config_row {
    const struct config_field *field;
    enum config_source source;
    char origin[CONFIG_ORIGIN_BYTES];
};

struct config {
    const char *role; /* borrowed */
    void *values;
    size_t n_rows;
    struct config_row rows[];
};

/* Letters to insert, remove or replace in the first n_a of a to have b; - and _ are the same, as is case. SIZE_MAX: too
 * long. */
size_t config_edit_distance(const char *a, size_t n_a, const char *b);
/* The name with - for _, written into buf. */
const char *config_flag_name(const char *name, char buf[CONFIG_NAME_BYTES]);

#endif
