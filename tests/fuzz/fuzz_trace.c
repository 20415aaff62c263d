/* A trace from any bytes: refused with a sentence, or requests in order whose blocks are all within their bounds. */
#include <stdio.h>

#include "bench/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct trace *t)
{
    for (size_t i = 0, n; i < t->n_requests; i++) {
        const uint32_t *blocks = trace_blocks(t, i, &n);
        ASSERT(i == 0 || t->requests[i].arrival_us >= t->requests[i - 1].arrival_us);
        ASSERT(t->requests[i].input_tokens <= TRACE_MAX_TOKENS && t->requests[i].output_tokens <= TRACE_MAX_TOKENS);
        for (size_t k = 0; k < n; k++)
            ASSERT(blocks[k] < t->n_ids);
    }
    ASSERT(t->n_requests > 0 && t->ends[t->n_requests - 1] == t->n_blocks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (unsigned needs = 0; size > 0 && needs <= (TRACE_NEEDS_ARRIVALS | TRACE_NEEDS_BLOCKS); needs++) {
        struct trace trace = { 0 };
        struct error err = { "" };
        FILE *file = fmemopen((void *)(uintptr_t)data, size, "r");
        ASSERT(file);
        if (trace_read(file, "fuzz", needs, &trace, &err) == ST_OK)
            check(&trace);
        else
            ASSERT(!trace.requests && err.text[0] != '\0');
        trace_free(&trace);
        (void)fclose(file);
    }
    return 0;
}
