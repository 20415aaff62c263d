/* trace_parent.h - the W3C Trace Context header "00-<trace id>-<parent id>-<flags>"
 * (https://www.w3.org/TR/trace-context/, version 00 and the known part of later ones). */
#ifndef BATON_ROUTER_TRACE_PARENT_H
#define BATON_ROUTER_TRACE_PARENT_H

#include <stdbool.h>

#include "proto/frame.h"

/* False, with *out all zero, when text is NULL or not valid. */
bool trace_parent_read(const char *text, struct trace_context *out);

#endif
