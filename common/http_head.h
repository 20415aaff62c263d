/* http_head.h - where the head of a request ends, and whether its lines are well-formed. */
#ifndef BATON_COMMON_HTTP_HEAD_H
#define BATON_COMMON_HTTP_HEAD_H

#include <stdbool.h>
#include <stddef.h>

/* An answer that the request earned by itself. */
struct http_fault {
    int status;
    const char *reason; /* static text */
};

enum http_step { HTTP_MORE, HTTP_DONE, HTTP_FAULTY };

/* Fills fault, returns HTTP_FAULTY. */
enum http_step http_faulty(struct http_fault *fault, int code, const char *reason);

/* Looks for the end of the head in all of what has come of it so far. *scanned, 0 at first, remembers where
 * to go on. HTTP_DONE: *head_len bytes belong to it. Checks line ends, which llhttp takes more lightly. */
enum http_step http_head_find(const char *data, size_t len, size_t max_header_bytes, size_t *scanned, size_t *head_len,
                              struct http_fault *fault);

/* RFC 9110 5.6.2 */
bool http_is_token_char(unsigned char c);
/* Bytes of tolerated empty lines at the front. */
size_t http_skip_empty_lines(const char *data, size_t len);

#endif
