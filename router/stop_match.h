/* stop_match.h - finds stop strings in text that comes in pieces. The first one
 * that is complete wins (of several that end together: the longest), wherever the pieces
 * were cut. Text that may yet turn out to be the beginning of a stop string is withheld.
 * Knuth, Morris and Pratt's automaton for each string: linear in the text. */
#ifndef BATON_ROUTER_STOP_MATCH_H
#define BATON_ROUTER_STOP_MATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/arena.h"
#include "common/status.h"
#include "common/text_buffer.h"

#define STOP_MAX_STRINGS 16
#define STOP_MAX_BYTES   1024 /* of one string */

/* The strings of one request; shared by its choices. Memory is the arena's. */
struct stop_set {
    uint32_t n;
    bool keep; /* the stop string itself is part of the answer */
    size_t longest;
    struct stop_string {
        const char *text;
        uint16_t len;
        uint16_t *fall; /* [len]: where the automaton goes on after a mismatch */
    } strings[STOP_MAX_STRINGS];
};

/* text is copied, 1..STOP_MAX_BYTES bytes. ST_LIMIT: there are STOP_MAX_STRINGS already. */
MUST_CHECK status stop_set_add(struct stop_set *set, struct arena *arena, const char *text, size_t len);

/* The state of one choice. */
struct stop_match {
    const struct stop_set *set; /* borrowed */
    char *held;                 /* [set->longest]: what is withheld */
    size_t n_held;
    uint16_t at[STOP_MAX_STRINGS];
};

MUST_CHECK status stop_match_init(struct stop_match *m, const struct stop_set *set, struct arena *arena);
/* Appends to out what may be shown now. True: a stop string is complete, nothing may be pushed any more. */
bool stop_match_push(struct stop_match *m, const char *text, size_t len, struct text_buffer *out);
/* The text ends here: appends what was withheld. */
void stop_match_finish(struct stop_match *m, struct text_buffer *out);

#endif
