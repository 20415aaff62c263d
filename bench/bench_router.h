/* bench_router.h - what a router costs: its processor time for a short request and for a streamed token,
 * the latency that it adds to a token, and whether its memory stays flat. One router alone on one processor, mock
 * workers and the load client on another; the rest of the machine should be idle. */
#ifndef BATON_BENCH_BENCH_ROUTER_H
#define BATON_BENCH_BENCH_ROUTER_H

/* argv[0] is the benchmark's name; --help lists the options. Exit code. */
int bench_router(int argc, char **argv);

#endif
