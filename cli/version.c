#include <stdio.h>

#include "cli/command.h"

static int run(const struct command *self, int argc, char **argv)
{
    int code;
    if (!command_options(self, argc, argv, NULL, 0, NULL, &code))
        return code;
    printf("baton %s\n", BATON_VERSION);
    return EXIT_DONE;
}

const struct command command_version = { "version", "", "Print the version", run };
