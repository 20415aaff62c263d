/* config_value.h - one configuration value: from text, to text, and what is allowed. Used by config*.c only. */
#ifndef BATON_COMMON_CONFIG_VALUE_H
#define BATON_COMMON_CONFIG_VALUE_H

#include "common/config.h"

#define CONFIG_ALLOWED_BYTES 384
#define CONFIG_MAX_CHOICES   32

/* member is where the value stands in the values struct; it is written on success only. */
MUST_CHECK status config_value_parse(const struct config_field *field, const char *text, void *member);
/* Text that config_value_parse reads back as the same value. */
void config_value_format(const struct config_field *field, const void *member, char buf[CONFIG_TEXT_BYTES]);
/* "a number from 0 to 65535", "one of auto, shm, tcp". */
void config_value_allowed(const struct config_field *field, char buf[CONFIG_ALLOWED_BYTES]);

#endif
