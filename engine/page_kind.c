#include "engine/page_kind.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define PLAIN_PAGE_KB 4u

const char *page_kind_name(enum page_kind kind)
{
    static const char *const names[] = {
#define X(name, text) text,
        PAGE_KINDS(X)
#undef X
    };
    return names[kind];
}

struct reading {
    uint64_t page_kb, resident_kb, huge_kb;
};

/* The first line of a mapping's description. */
static bool read_range(const char *line, uintptr_t *from, uintptr_t *to)
{
    return sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", from, to) == 2;
}

static void read_field(const char *line, struct reading *r)
{
    uint64_t kb;
    if (sscanf(line, "KernelPageSize: %" SCNu64, &kb) == 1)
        r->page_kb = kb;
    else if (sscanf(line, "Rss: %" SCNu64, &kb) == 1)
        r->resident_kb = kb;
    else if (sscanf(line, "AnonHugePages: %" SCNu64, &kb) == 1 || sscanf(line, "ShmemPmdMapped: %" SCNu64, &kb) == 1)
        r->huge_kb += kb;
}

enum page_kind page_kind_of(const void *map)
{
    char line[512];
    struct reading r = { 0, 0, 0 };
    uintptr_t at = (uintptr_t)map, from = 0, to = 0;
    FILE *file = fopen("/proc/self/smaps", "re");
    if (!file)
        return PAGES_PLAIN;
    /* Neighbours of one kind are one mapping to the kernel, so that map may lie inside. */
    while (from <= at && fgets(line, sizeof line, file))
        if (!read_range(line, &from, &to) && from <= at && at < to)
            read_field(line, &r);
    (void)fclose(file);
    if (r.page_kb > PLAIN_PAGE_KB)
        return PAGES_RESERVED;
    return r.huge_kb > 0 && r.huge_kb * 2 >= r.resident_kb ? PAGES_HUGE : PAGES_PLAIN;
}
