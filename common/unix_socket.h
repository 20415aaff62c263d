/* unix_socket.h - sockets that are files of a folder, by names of any length, and descriptors sent over them. */
#ifndef BATON_COMMON_UNIX_SOCKET_H
#define BATON_COMMON_UNIX_SOCKET_H

#include <stddef.h>
#include <sys/un.h>

#include "common/status.h"

/* A socket's path holds 107 bytes, a folder's may be longer: the folder is named by its descriptor. */
void unix_socket_name(int dir_fd, const char *file, struct sockaddr_un *name);

/* type: SOCK_STREAM or SOCK_SEQPACKET, with SOCK_NONBLOCK where that is wanted; always close-on-exec. -1 with errno. */
int unix_socket_connect(const char *folder, const char *file, int type);
/* Replaces a file that lies there. */
int unix_socket_bind(int dir_fd, const char *file, int type);

/* One record, and a descriptor with it unless that is -1. ST_AGAIN: would block; ST_CLOSED: the other end is gone. */
MUST_CHECK status unix_socket_send(int socket, const void *record, size_t len, int fd);
/* One record of exactly len bytes; *fd is the caller's to close, or -1. ST_AGAIN, ST_CLOSED, ST_CORRUPT (another
 * length). */
MUST_CHECK status unix_socket_receive(int socket, void *record, size_t len, int *fd);

#endif
