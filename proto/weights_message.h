/* weights_message.h - what workers and the holder of packed weights say to each other, over a Unix
 * socket of sequenced packets. Same host, same build: the struct is what travels.
 * A connection stands for one use of one key; it ends with the process that uses the weights.
 *   worker   ASK key                    give me the weights, or let me pack them
 *   worker   REFUSE key                 the same; what was given is damaged
 *   holder     HELD + descriptor        here they are (see engine/weight_image.h)
 *   holder     PACK                     nobody has them: pack them
 *   worker   GIVE key, bytes, pages + descriptor
 *   holder     KEPT or NO
 *   holder     NO                       a bound is reached, or the request made no sense: pack for yourself
 * While somebody packs, others who ask get no answer until it is done, or lost: then the next one is told to PACK. */
#ifndef BATON_PROTO_WEIGHTS_MESSAGE_H
#define BATON_PROTO_WEIGHTS_MESSAGE_H

#include <stdint.h>

#define WEIGHTS_KEY_BYTES 96u /* the NUL included */
#define WEIGHTS_SOCKET    "weights.sock"

enum weights_verb {
    WEIGHTS_ASK = 1,
    WEIGHTS_REFUSE,
    WEIGHTS_GIVE,
    WEIGHTS_HELD,
    WEIGHTS_PACK,
    WEIGHTS_KEPT,
    WEIGHTS_NO
};

struct weights_message {
    uint32_t verb;
    uint32_t pages; /* enum page_kind */
    uint64_t bytes; /* of the whole image */
    char key[WEIGHTS_KEY_BYTES];
};
_Static_assert(sizeof(struct weights_message) == 112, "what travels");

#endif
