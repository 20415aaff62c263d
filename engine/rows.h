/* rows.h - which rows of a step belong to which sequence, and their removal.
 * Rows of one sequence are neighbours, positions ascending. Rows only ever leave
 * from the front of a sequence (all of them when it was cancelled). */
#ifndef BATON_ENGINE_ROWS_H
#define BATON_ENGINE_ROWS_H

#include "engine/device.h"
#include "engine/engine.h"

struct row_span {
    struct step_seq *seq;
    uint32_t first_row, n_rows, first_pos;
};

struct rows {
    uint32_t n_rows, n_spans;
    uint32_t max_rows, max_spans;
    struct row_span *spans; /* [max_spans] */
    uint32_t *span_of;      /* [max_rows]: row -> span */
};

/* A buffer [row][width] whose rows move along. */
struct row_buffer {
    float *data; /* the backend's own address */
    size_t width;
};

MUST_CHECK status rows_create(uint32_t max_rows, uint32_t max_spans, struct rows *out);
void rows_release(struct rows *rows);

/* Takes all rows of a step; its bounds are asserted. */
void rows_begin(struct rows *rows, struct step *step);

/* keep says how many of a span's last rows stay; the others are cut out of the
 * buffers, in the order of the stream (NULL: at once). Returns whether any row left. */
bool rows_compact(struct rows *rows, uint32_t (*keep)(const struct row_span *), const struct row_buffer *buffers,
                  size_t n_buffers, struct device_stream *stream);

static inline uint32_t rows_position(const struct rows *rows, uint32_t row)
{
    const struct row_span *span = &rows->spans[rows->span_of[row]];
    return span->first_pos + (row - span->first_row);
}

#endif
