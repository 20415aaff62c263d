/* metrics_text.h - one value out of a page in the Prometheus text format. */
#ifndef BATON_CLI_METRICS_TEXT_H
#define BATON_CLI_METRICS_TEXT_H

#include <stdbool.h>

/* series as the page writes it: "name" or "name{label=\"value\"}". */
bool metrics_text_value(const char *page, const char *series, double *out);

#endif
