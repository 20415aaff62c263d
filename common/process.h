/* process.h - which process somebody is, and whether it still lives. Any thread. */
#ifndef BATON_COMMON_PROCESS_H
#define BATON_COMMON_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The process's start in clock ticks after boot; 0 when there is no such process. */
uint64_t process_start_ticks(pid_t pid);
/* The same process is still there (a zombie is not). */
bool process_is_alive(pid_t pid, uint64_t start_ticks);
/* By a signal; it hears no other until it is told to go on. */
bool process_is_stopped(pid_t pid);

#define PROCESS_NAME_BYTES 128

/* "BOOT/NAMESPACE/PID/START": boot of the machine, space in which the pid counts, and the process. No other process
 * has ever the same. "" where /proc tells nothing. Returns buf. */
const char *process_name(char buf[PROCESS_NAME_BYTES]);

enum process_life { PROCESS_LIVES, PROCESS_ENDED, PROCESS_ELSEWHERE };

/* Of the process of this name. ELSEWHERE: its pid says nothing here (another machine, an earlier boot, another
 * container), or the name is none. */
enum process_life process_life(const char *name);

#endif
