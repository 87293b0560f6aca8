/* Runs a fuzz target without libFuzzer: every file of the folders given, and mutations of each that are the same in
 * every run. A failing mutation is written to the working directory, to be replayed as a seed. */
#include "tests/fuzz/fuzz.h"
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#define MUTATIONS         96
#define MUTATED_BYTES_MAX 8192 /* larger seeds are run as they are: they are about size */

static const uint8_t *running;
static size_t running_bytes;
static char running_name[256];

/* Only async-signal-safe calls; the process ends right after. */
static void save_input(int sig)
{
    int fd = creat("fuzz-failed-input", 0644);
    if (fd >= 0) {
        ssize_t n = write(fd, running, running_bytes);
        (void)n;
        n = write(STDERR_FILENO, running_name, strlen(running_name));
        (void)n;
        n = write(STDERR_FILENO, ": saved as fuzz-failed-input\n", 29);
        (void)n;
    }
    signal(sig, SIG_DFL);
    raise(sig);
}

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Memory of exactly the size: a sanitizer sees the first byte read too many. */
static void run(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    MUST(copy != NULL);
    memcpy(copy, bytes, size);
    running = copy;
    running_bytes = size;
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static size_t mutate(uint8_t *bytes, size_t size, size_t cap, uint64_t *random)
{
    static const uint8_t telling[] = "\0\r\n\t :;,\"\\{}[]0-+eE9\x7F\x80\xC0\xED\xF4\xFF";
    unsigned steps = 1 + (unsigned)(random_next(random) % 4);
    for (unsigned i = 0; i < steps; i++) {
        size_t at = size ? random_next(random) % size : 0;
        size_t length = size ? 1 + random_next(random) % (size - at > 16 ? 16 : size - at) : 0;
        switch (random_next(random) % 6) {
        case 0: /* one bit */
            if (size)
                bytes[at] ^= (uint8_t)(1u << random_next(random) % 8);
            break;
        case 1: /* a byte that means something */
            if (size)
                bytes[at] = telling[random_next(random) % (sizeof(telling) - 1)];
            break;
        case 2: /* cut out */
            memmove(bytes + at, bytes + at + length, size - at - length);
            size -= length;
            break;
        case 3: /* doubled */
            if (size + length <= cap) {
                memmove(bytes + at + length, bytes + at, size - at);
                size += length;
            }
            break;
        case 4: /* a byte put in */
            if (size < cap) {
                memmove(bytes + at + 1, bytes + at, size - at);
                bytes[at] = telling[random_next(random) % (sizeof(telling) - 1)];
                size++;
            }
            break;
        default: /* cut short */
            size = at;
            break;
        }
    }
    return size;
}

static unsigned replay(const char *path)
{
    static uint8_t seed[1 << 20], mutated[MUTATED_BYTES_MAX + 64];
    FILE *file = fopen(path, "rb");
    MUST(file != NULL);
    size_t size = fread(seed, 1, sizeof(seed), file);
    fclose(file);
    run(seed, size);
    if (size > MUTATED_BYTES_MAX)
        return 1;
    uint64_t random = 0x9E3779B97F4A7C15u ^ size;
    for (int i = 0; i < MUTATIONS; i++) {
        memcpy(mutated, seed, size);
        run(mutated, mutate(mutated, size, sizeof(mutated), &random));
    }
    return 1 + MUTATIONS;
}

static unsigned replay_folder(const char *folder)
{
    unsigned count = 0;
    DIR *dir = opendir(folder);
    if (!dir) {
        fprintf(stderr, "cannot open %s\n", folder);
        exit(2);
    }
    const struct dirent *entry;
    while ((entry = readdir(dir))) {
        char path[4096];
        struct stat info;
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (stat(path, &info) != 0 || !S_ISREG(info.st_mode))
            continue;
        snprintf(running_name, sizeof(running_name), "%s", entry->d_name);
        count += replay(path);
    }
    closedir(dir);
    return count;
}

int main(int argc, char **argv)
{
    unsigned count = 0;
    signal(SIGABRT, save_input);
    for (int i = 1; i < argc; i++)
        count += replay_folder(argv[i]);
    printf("%u inputs\n", count);
    return count > 0 ? 0 : 2; /* a target without seeds tests nothing */
}
