/* page_kind.h - the pages that hold a mapping, as the kernel says afterwards.
 * madvise and ftruncate succeed where no huge page is to be had, so only smaps tells. */
#ifndef BATON_ENGINE_PAGE_KIND_H
#define BATON_ENGINE_PAGE_KIND_H

#define PAGE_KINDS(X)                                                                                                  \
    X(PLAIN, "plain")                                                                                                  \
    X(HUGE, "huge")         /* transparent: at least half of what is resident lies in huge pages */                    \
    X(RESERVED, "reserved") /* of vm.nr_hugepages */

enum page_kind {
#define X(name, text) PAGES_##name,
    PAGE_KINDS(X)
#undef X
        PAGE_KIND_COUNT
};

const char *page_kind_name(enum page_kind kind);
/* Of the mapping that map lies in and that was touched. Reads through all mappings before it: milliseconds a gigabyte.
 */
enum page_kind page_kind_of(const void *map);

#endif
