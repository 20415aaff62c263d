/* command.h - one command of `baton`: its name, its options, its exit code.
 * A command prints what people or scripts asked for on standard output, and
 * progress and complaints on standard error. */
#ifndef BATON_CLI_COMMAND_H
#define BATON_CLI_COMMAND_H

#include <stdbool.h>
#include <stddef.h>

#include "cli/option.h"
#include "common/status.h"

enum exit_code { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

struct command {
    const char *name;                                              /* "scale", "model fetch" */
    const char *arguments;                                         /* "ROLE N", "" for none */
    const char *about;                                             /* one line */
    int (*run)(const struct command *self, int argc, char **argv); /* argv[0] is the command's name */
};

extern const struct command command_up, command_down, command_status, command_logs, command_scale, command_drain,
    command_chat, command_model, command_kv, command_bench, command_sim, command_replay, command_doctor,
    command_version;
extern const struct command command_model_list, command_model_fetch, command_model_inspect, command_model_quantize,
    command_model_score, command_model_gc, command_kv_status, command_kv_find, command_kv_pin, command_kv_unpin,
    command_kv_wipe, command_bench_share, command_bench_evict, command_bench_index, command_bench_multiturn,
    command_bench_disk, command_bench_serve, command_bench_sim;

/* Finds argv[1] among the commands (by the last word of their names) and runs it; prefix ("baton model") is for
 * messages. "help" lists them, "help NAME" is "NAME --help"; argv may be changed for that. */
int command_dispatch(const char *prefix, const struct command *const table[], int argc, char **argv);

/* Reads the options of one command. True: go on; false: end with *code (help was printed, or a complaint).
 * arguments is NULL for a command that takes none, which is told of one. */
MUST_CHECK bool command_options(const struct command *self, int argc, char **argv, const struct option_row *rows,
                                size_t n_rows, struct arguments *arguments, int *code);
/* For wrong use that only the command can see: prints and returns EXIT_USAGE. */
int command_misuse(const struct command *self, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Prints a page that was gathered and frees it. */
int command_print(struct text_buffer *page);
/* Prints "baton NAME: ..." and returns EXIT_FAILED. */
int command_failed(const struct command *self, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

#endif
