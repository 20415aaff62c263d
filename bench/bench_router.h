/* bench_router.h - what a router costs: its processor time for a short request and for a streamed token,
 * the latency that it adds to a token, and whether its memory stays flat. One router alone on one processor, mock
 * workers and the load client on another; the rest of the machine should be idle. */
#ifndef BATON_BENCH_BENCH_ROUTER_H
#define BATON_BENCH_BENCH_ROUTER_H

/* --help lists the options. argv[0] becomes "baton bench router". Exit code. */
int bench_router(int argc, char **argv);

#endif
