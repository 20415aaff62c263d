/* link_thread.h - ZeroMQ's thread beside a loop that polls (loop_set_poll). A thread that preempts what its processor
 * runs is announced to it by an interrupt, for which the sender of the message waits. While polling pays there is no
 * need: the loop yields all the time. So the thread is a batch thread then, which preempts nobody. */
#ifndef BATON_PROTO_LINK_THREAD_H
#define BATON_PROTO_LINK_THREAD_H

#include <stdbool.h>
#include <sys/types.h>

struct link_thread { /* zero at first */
    bool searched;
    pid_t id; /* 0: not found */
};

/* For loop_on_poll: arg is a struct link_thread. The process has one ZeroMQ context, with one thread for its sockets.
 */
void link_thread_on_poll(void *arg, bool pays);

#endif
