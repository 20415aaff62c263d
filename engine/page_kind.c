#include "engine/page_kind.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

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

/* One line of a mapping's description; false at the next mapping. */
static bool read_field(const char *line, struct reading *r)
{
    uint64_t kb, from, to;
    if (sscanf(line, "%" SCNx64 "-%" SCNx64, &from, &to) == 2)
        return false;
    if (sscanf(line, "KernelPageSize: %" SCNu64, &kb) == 1)
        r->page_kb = kb;
    else if (sscanf(line, "Rss: %" SCNu64, &kb) == 1)
        r->resident_kb = kb;
    else if (sscanf(line, "AnonHugePages: %" SCNu64, &kb) == 1 || sscanf(line, "ShmemPmdMapped: %" SCNu64, &kb) == 1)
        r->huge_kb += kb;
    return true;
}

enum page_kind page_kind_of(const void *map)
{
    char line[512], begin[32];
    struct reading r = { 0, 0, 0 };
    FILE *file = fopen("/proc/self/smaps", "re");
    if (!file)
        return PAGES_PLAIN;
    int n = snprintf(begin, sizeof begin, "%08" PRIxPTR "-", (uintptr_t)map);
    bool found = false;
    while (!found && fgets(line, sizeof line, file))
        found = n > 0 && !strncmp(line, begin, (size_t)n);
    while (found && fgets(line, sizeof line, file) && read_field(line, &r)) {
    }
    (void)fclose(file);
    if (r.page_kb > PLAIN_PAGE_KB)
        return PAGES_RESERVED;
    return r.huge_kb > 0 && r.huge_kb * 2 >= r.resident_kb ? PAGES_HUGE : PAGES_PLAIN;
}
