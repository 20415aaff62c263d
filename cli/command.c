#include "cli/command.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define HELP_MAX_BYTES    ((size_t)1 << 16)
#define MESSAGE_MAX_BYTES 2048 /* what is longer is cut */

/* "fetch" of "model fetch": what stands on the command line behind the prefix. */
static const char *own_word(const struct command *command)
{
    const char *space = strrchr(command->name, ' ');
    return space ? space + 1 : command->name;
}

static void print_list(const char *prefix, const struct command *const table[], FILE *to)
{
    size_t widest = 0;
    for (size_t i = 0; table[i]; i++)
        if (strlen(own_word(table[i])) > widest)
            widest = strlen(own_word(table[i]));
    fprintf(to, "usage: %s COMMAND [ARGUMENTS]\n\n", prefix);
    for (size_t i = 0; table[i]; i++)
        fprintf(to, "  %-*s  %s\n", (int)widest, own_word(table[i]), table[i]->about);
    fprintf(to, "\n%s COMMAND --help says more.\n", prefix);
}

static int unknown_command(const char *prefix, const struct command *const table[], const char *text)
{
    const char *names[64];
    size_t n = 0;
    for (; table[n] && n < COUNT_OF(names); n++)
        names[n] = own_word(table[n]);
    const char *nearest = nearest_name(text, names, n);
    fprintf(stderr, "%s: there is no command \"%.60s\"", prefix, text);
    if (nearest)
        fprintf(stderr, "; did you mean \"%s\"?", nearest);
    fprintf(stderr, " (see %s help)\n", prefix);
    return EXIT_USAGE;
}

int command_dispatch(const char *prefix, const struct command *const table[], int argc, char **argv)
{
    if (argc < 2) {
        print_list(prefix, table, stderr);
        return EXIT_USAGE;
    }
    if (argc > 2 && !strcmp(argv[1], "help")) {
        /* "help chat" becomes "chat --help" */
        static char option[] = "--help";
        memmove(argv + 1, argv + 2, (size_t)(argc - 2) * sizeof *argv);
        argv[argc - 1] = option;
    }
    if (!strcmp(argv[1], "help") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        print_list(prefix, table, stdout);
        return EXIT_DONE;
    }
    for (size_t i = 0; table[i]; i++)
        if (!strcmp(own_word(table[i]), argv[1]))
            return table[i]->run(table[i], argc - 1, argv + 1);
    return unknown_command(prefix, table, argv[1]);
}

static void print_help(const struct command *self, const struct option_row *rows, size_t n_rows)
{
    struct text_buffer page;
    text_buffer_init(&page, HELP_MAX_BYTES);
    text_buffer_printf(&page, "baton %s: %s\n\nusage: baton %s %s%s[OPTIONS]\n\n", self->name, self->about, self->name,
                       self->arguments, self->arguments[0] ? " " : "");
    option_write_help(rows, n_rows, &page);
    fputs(text_buffer_text(&page), stdout);
    text_buffer_free(&page);
}

bool command_options(const struct command *self, int argc, char **argv, const struct option_row *rows, size_t n_rows,
                     struct arguments *arguments, int *code)
{
    struct error err;
    struct arguments none;
    if (option_given_help(argc, argv)) {
        print_help(self, rows, n_rows);
        *code = EXIT_DONE;
        return false;
    }
    if (option_parse(argc, argv, rows, n_rows, arguments ? arguments : &none, &err) != ST_OK)
        *code = command_misuse(self, "%s", err.text);
    else if (!arguments && none.n > 0)
        *code = command_misuse(self, "it takes no argument \"%.60s\"", none.items[0]);
    else
        return true;
    return false;
}

/* What it quotes comes from files and other hosts: a blank stands for each character that would steer the terminal. */
static void complain(const struct command *self, const char *fmt, va_list args)
{
    char text[MESSAGE_MAX_BYTES];
    vsnprintf(text, sizeof text, fmt, args);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = ' ';
    fprintf(stderr, "baton %s: %s", self->name, text);
}

int command_misuse(const struct command *self, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    complain(self, fmt, args);
    va_end(args);
    fprintf(stderr, " (see baton %s --help)\n", self->name);
    return EXIT_USAGE;
}

int command_print(struct text_buffer *page)
{
    bool ok = page->state == ST_OK && fwrite(page->data, 1, page->len, stdout) == page->len && fflush(stdout) == 0;
    text_buffer_free(page);
    return ok ? EXIT_DONE : EXIT_FAILED;
}

int command_failed(const struct command *self, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    complain(self, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    return EXIT_FAILED;
}
