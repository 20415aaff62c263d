#include "cli/metrics_text.h"

#include <stdlib.h>
#include <string.h>

bool metrics_text_value(const char *page, const char *series, double *out)
{
    size_t len = strlen(series);
    for (const char *line = page; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        char *end;
        if (strncmp(line, series, len) != 0 || line[len] != ' ')
            continue;
        double value = strtod(line + len, &end);
        if (end == line + len)
            return false;
        *out = value;
        return true;
    }
    return false;
}
