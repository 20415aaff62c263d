#include "engine/rows.h"

#include <stdlib.h>

status rows_create(uint32_t max_rows, uint32_t max_spans, struct rows *out)
{
    struct rows rows = { .max_rows = max_rows, .max_spans = max_spans };
    rows.spans = calloc(max_spans, sizeof *rows.spans);
    rows.span_of = calloc(max_rows, sizeof *rows.span_of);
    *out = rows;
    if (rows.spans != NULL && rows.span_of != NULL)
        return ST_OK;
    rows_release(out);
    return ST_NO_MEMORY;
}

void rows_release(struct rows *rows)
{
    free(rows->spans);
    free(rows->span_of);
    *rows = (struct rows){ 0 };
}

static void append(struct rows *rows, struct row_span span)
{
    span.first_row = rows->n_rows;
    for (uint32_t r = 0; r < span.n_rows; r++)
        rows->span_of[rows->n_rows + r] = rows->n_spans;
    rows->spans[rows->n_spans++] = span;
    rows->n_rows += span.n_rows;
}

void rows_begin(struct rows *rows, struct step *step)
{
    ASSERT(step->n_seqs <= rows->max_spans);
    rows->n_rows = 0;
    rows->n_spans = 0;
    for (uint32_t i = 0; i < step->n_seqs; i++) {
        struct step_seq *seq = &step->seqs[i];
        ASSERT(seq->n_rows > 0 && seq->n_rows <= rows->max_rows - rows->n_rows);
        seq->done = seq->gate_failed = false;
        append(rows, (struct row_span){ .seq = seq, .n_rows = seq->n_rows, .first_pos = seq->first_pos });
    }
}

bool rows_compact(struct rows *rows, uint32_t (*keep)(const struct row_span *), const struct row_buffer *buffers,
                  size_t n_buffers, struct device_stream *stream)
{
    uint32_t n_spans = rows->n_spans;
    uint32_t before = rows->n_rows;
    rows->n_rows = 0;
    rows->n_spans = 0;
    for (uint32_t i = 0; i < n_spans; i++) {
        struct row_span span = rows->spans[i];
        uint32_t n = keep(&span);
        ASSERT(n <= span.n_rows);
        if (n == 0)
            continue;
        uint32_t from = span.first_row + span.n_rows - n;
        for (size_t b = 0; b < n_buffers && from != rows->n_rows; b++)
            device_move_down(stream, buffers[b].data + rows->n_rows * buffers[b].width,
                             buffers[b].data + from * buffers[b].width, n * buffers[b].width * sizeof *buffers[b].data);
        span.first_pos += span.n_rows - n;
        span.n_rows = n;
        append(rows, span);
    }
    return rows->n_rows != before;
}
