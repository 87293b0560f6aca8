/* json_accepts FILE - is what stands in the file one JSON text? Exit codes: 0 accepted, 1 rejected, 2 usage or
 * unreadable file. */
#include "common/arena.h"
#include "common/buf.h"
#include "common/file.h"
#include "common/json.h"

int main(int argc, char **argv)
{
    struct json_limits limits = json_limits_default;
    struct buf bytes = BUF_INIT((size_t)limits.bytes_max + 1);
    if (argc != 2) {
        fprintf(stderr, "usage: json_accepts FILE\n");
        return 2;
    }
    enum err err = file_read(argv[1], bytes.max, &bytes);
    if (err) {
        bool too_large = err == ERR_TOO_LARGE;
        fprintf(too_large ? stdout : stderr, "%s: %s\n", too_large ? "reject" : "json_accepts", err_name(err));
        buf_release(&bytes);
        return too_large ? 1 : 2;
    }
    struct arena arena;
    arena_init(&arena, (size_t)1 << 30);
    struct json_index index;
    struct json_error error;
    err = json_index(&arena, buf_span(&bytes), &limits, &index, &error);
    if (err)
        printf("reject: %u:%u: %s\n", error.line, error.column, error.message);
    else
        printf("accept: %u values\n", index.count);
    arena_release(&arena);
    buf_release(&bytes);
    return err == OK ? 0 : 1;
}
