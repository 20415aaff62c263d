/* trace_reader.h - a trace while it is read: what the forms of trace.h have in common. */
#ifndef BATON_BENCH_TRACE_READER_H
#define BATON_BENCH_TRACE_READER_H

#include <stdbool.h>

#include "bench/trace.h"

#define TRACE_MAX_COLUMNS 4u

enum trace_column { TRACE_ARRIVAL, TRACE_INPUT, TRACE_OUTPUT, TRACE_BLOCK_IDS, TRACE_COLUMNS };

struct trace_reader {
    struct trace trace;
    const char *name; /* of the file; borrowed */
    size_t line;      /* from 1 */
    unsigned needs;
    double first_s, last_s; /* of the first request and of the latest, on the trace's own clock */
    struct error *err;
    /* Of CSV. */
    bool is_azure;
    enum trace_column columns[TRACE_MAX_COLUMNS];
    uint32_t n_columns;
};

/* Blocks come before the request that they belong to. */
MUST_CHECK status trace_reader_add_block(struct trace_reader *r, int64_t id);
MUST_CHECK status trace_reader_add_request(struct trace_reader *r, double arrival_s, int64_t input, int64_t output);
/* Of a request that says nothing but its blocks. */
MUST_CHECK status trace_reader_add_blocks_only(struct trace_reader *r);

/* The first line of CSV, and each other one; text is changed. */
MUST_CHECK status trace_csv_header(struct trace_reader *r, char *text);
MUST_CHECK status trace_csv_line(struct trace_reader *r, char *text);

/* "2023-11-16 18:17:03.9799600", with nothing, "Z" or "+00:00" behind it, as seconds since 1970; false: it is no such
 * time. */
bool trace_csv_time(const char *text, double *seconds);

#endif
