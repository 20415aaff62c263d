/* replay_main.c - runs a fuzz target once over every file of the folders given as arguments.
 * A finding ends the process (sanitizer or abort), with the file's name as the last line. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An exact allocation, so that a read past the end is seen. */
static int replay_file(const char *path)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    if (!f || fstat(fileno(f), &st) < 0) {
        perror(path);
        if (f)
            fclose(f);
        return 0;
    }
    size_t size = (size_t)st.st_size;
    uint8_t *data = malloc(size ? size : 1);
    int ok = data && fread(data, 1, size, f) == size;
    fclose(f);
    if (ok)
        LLVMFuzzerTestOneInput(data, size);
    else
        fprintf(stderr, "%s: cannot read it\n", path);
    free(data);
    return ok;
}

static int replay_folder(const char *folder, unsigned *passed, unsigned *failed)
{
    DIR *dir = opendir(folder);
    if (!dir) {
        perror(folder);
        return 0;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        char path[4096];
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        fprintf(stderr, "%s\n", path);
        if (replay_file(path))
            ++*passed;
        else
            ++*failed;
    }
    closedir(dir);
    return 1;
}

int main(int argc, char **argv)
{
    unsigned passed = 0, failed = 0;
    int ok = argc > 1;
    for (int i = 1; i < argc; i++)
        ok &= replay_folder(argv[i], &passed, &failed);
    printf("%u passed, %u failed\n", passed, failed);
    /* An empty corpus is a mistake in the tree, not a success. */
    return ok && passed && !failed ? 0 : 1;
}
