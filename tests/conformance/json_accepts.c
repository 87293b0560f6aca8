/* json_accepts FILE - is what stands in the file one JSON text? Exit codes: 0 accepted, 1 rejected, 2 usage or
 * unreadable file. */
#include "common/arena.h"
#include "common/buf.h"
#include "common/json.h"

static bool read_file(const char *path, struct buf *buf)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return false;
    char block[65536];
    size_t n;
    bool fits = true;
    while (fits && (n = fread(block, 1, sizeof(block), file)) > 0)
        fits = buf_append(buf, span_of(block, n)) == OK;
    bool good = fits && !ferror(file);
    fclose(file);
    return good;
}

int main(int argc, char **argv)
{
    struct json_limits limits = json_limits_default;
    struct buf bytes = BUF_INIT((size_t)limits.bytes_max + 1);
    if (argc != 2 || !read_file(argv[1], &bytes)) {
        fprintf(stderr, argc == 2 ? "json_accepts: cannot read it, or far too large\n" : "usage: json_accepts FILE\n");
        buf_release(&bytes);
        return 2;
    }
    struct arena arena;
    arena_init(&arena, (size_t)1 << 30);
    struct json_index index;
    struct json_error error;
    enum err err = json_index(&arena, buf_span(&bytes), &limits, &index, &error);
    if (err)
        printf("reject: %u:%u: %s\n", error.line, error.column, error.message);
    else
        printf("accept: %u values\n", index.count);
    arena_release(&arena);
    buf_release(&bytes);
    return err == OK ? 0 : 1;
}
