/* log_file.h - one process's log: kept below a size, read from its end.
 * Processes append to the file themselves, so that a frozen supervisor blocks
 * nobody. To bound it, what stands there is copied to FILE.1 and the file is cut
 * to nothing; a line written between the last look and the cut is lost. */
#ifndef BATON_CLI_LOG_FILE_H
#define BATON_CLI_LOG_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "common/text_buffer.h"

#define LOG_FILE_MAX_BYTES ((uint64_t)16 << 20)
#define LOG_FILE_CHECK_US  1000000u
#define LOG_TAIL_MAX_BYTES ((size_t)4 << 20) /* log_file_tail gives no more */

/* Rotates when the file is larger than max_bytes; true when it did. */
bool log_file_bound(const char *path, uint64_t max_bytes);
/* Appends the last n_lines lines of FILE.1 and FILE to out, each with its newline. *offset (may be NULL): where
 * FILE ended. */
MUST_CHECK status log_file_tail(const char *path, size_t n_lines, struct text_buffer *out, uint64_t *offset);

/* Where FILE ends now; 0 without one. */
uint64_t log_file_end(const char *path);
/* As log_file_tail, but only of what FILE got since it ended at `since` (all of it when it was cut meanwhile). */
MUST_CHECK status log_file_tail_since(const char *path, uint64_t since, size_t n_lines, struct text_buffer *out);

#endif
