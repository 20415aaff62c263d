/* How often a long step is spoken of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/progress.h"

static FILE *said;

static void tick(struct progress *p)
{
    int kept = dup(STDERR_FILENO);
    assert_true(kept >= 0 && dup2(fileno(said), STDERR_FILENO) >= 0);
    progress_tick(p);
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
}

/* What was said since the last call. */
static const char *heard(void)
{
    static char text[4096];
    rewind(said);
    text[fread(text, 1, sizeof text - 1, said)] = '\0';
    rewind(said);
    assert_int_equal(ftruncate(fileno(said), 0), 0);
    return text;
}

static void wait_us(struct progress *p, uint64_t us)
{
    p->began_us -= us;
    if (p->said_us)
        p->said_us -= us;
    tick(p);
}

static void short_steps_are_not_spoken_of(void **state)
{
    (void)state;
    struct progress p = { .said = false };
    progress_step(&p, "a");
    tick(&p);
    progress_step(&p, "b");
    wait_us(&p, PROGRESS_AFTER_US / 2);
    assert_string_equal(heard(), "");
}

static void many_short_steps_are_one_long_wait(void **state)
{
    (void)state;
    struct progress p = { .said = false };
    progress_step(&p, "a");
    wait_us(&p, PROGRESS_AFTER_US);
    assert_string_equal(heard(), "a (2 s)\n");
    progress_step(&p, "b");
    tick(&p);
    progress_step(&p, "c");
    tick(&p); /* all in one moment: one line was enough */
    assert_string_equal(heard(), "");
    wait_us(&p, PROGRESS_AFTER_US);
    assert_string_equal(heard(), "c (4 s)\n");
    progress_step(&p, "c");
    wait_us(&p, PROGRESS_AFTER_US);
    assert_string_equal(heard(), "");
    wait_us(&p, PROGRESS_EVERY_US - PROGRESS_AFTER_US);
    assert_string_equal(heard(), "c (9 s)\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_steps_are_not_spoken_of),
        cmocka_unit_test(many_short_steps_are_one_long_wait),
    };
    said = tmpfile();
    return said ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
