/* bench_transfer.h - GB/s of takes by mapping against memcpy, and by TCP between two
 * network name spaces against a plain socket; each pair in the same run, with the same
 * pieces, footprint and number of copies. */
#ifndef BATON_BENCH_BENCH_TRANSFER_H
#define BATON_BENCH_BENCH_TRANSFER_H

/* argv[0] is the benchmark's name; --block-bytes N --layers N --seconds S --json. Exit code. The process
 * must not have used UCX before. */
int bench_transfer(int argc, char **argv);

#endif
