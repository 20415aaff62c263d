/* message_memory.h - memory for unpacking one message at a time: taken from one
 * block and given back all at once, since Tokens messages come at the rate of
 * tokens and have a small object in them for each. One thread at a time. */
#ifndef BATON_ROUTER_MESSAGE_MEMORY_H
#define BATON_ROUTER_MESSAGE_MEMORY_H

#include <protobuf-c/protobuf-c.h>

#define MESSAGE_MEMORY_BYTES ((size_t)256 << 10) /* what does not fit is malloc'ed */

/* Forgets what the last message held and lends the allocator for the next one; its unpacked form is freed
 * with the same allocator before that. */
ProtobufCAllocator *message_memory_begin(void);

#endif
