/* http_accepts request|response FILE - is what stands in the file right, as HTTP/1.x messages one after the other?
 *
 * The bytes are fed whole, then cut in two at every place (at 4,096 places when there are more than 8 KiB); every run
 * must say the same. Prints the verdict. Exit codes: 0 accepted, 1 rejected, 2 usage or unreadable file, 3 the runs
 * disagree. */
#include "common/file.h"
#include "tests/conformance/http_verdict.h"

#define FILE_BYTES_MAX     (64u << 20)
#define ALL_CUTS_BYTES_MAX 8192u
#define SAMPLED_CUTS       4096u

static int judge(enum http1_kind kind, struct span bytes, struct buf *whole, struct buf *cut_in_two)
{
    bool accepted = http_verdict(kind, bytes, bytes.len, whole);
    size_t step = bytes.len <= ALL_CUTS_BYTES_MAX ? 1 : bytes.len / SAMPLED_CUTS + 1;
    for (size_t cut = 0; cut < bytes.len; cut += step) {
        (void)http_verdict(kind, bytes, cut, cut_in_two);
        if (!span_eq(buf_span(whole), buf_span(cut_in_two))) {
            printf("DISAGREE\n whole     %s\n cut %5zu %s\n", buf_cstr(whole), cut, buf_cstr(cut_in_two));
            return 3;
        }
    }
    printf("%s\n", buf_cstr(whole));
    return accepted ? 0 : 1;
}

int main(int argc, char **argv)
{
    bool request = argc == 3 && strcmp(argv[1], "request") == 0;
    if (!request && (argc != 3 || strcmp(argv[1], "response") != 0)) {
        fprintf(stderr, "usage: http_accepts request|response FILE\n");
        return 2;
    }
    struct buf bytes = BUF_INIT(FILE_BYTES_MAX), whole = BUF_INIT(SIZE_MAX / 2), cut = BUF_INIT(SIZE_MAX / 2);
    int code = 2;
    if (file_read(argv[2], bytes.max, &bytes) == OK)
        code = judge(request ? HTTP1_REQUEST : HTTP1_RESPONSE, buf_span(&bytes), &whole, &cut);
    else
        fprintf(stderr, "http_accepts: cannot read %s\n", argv[2]);
    buf_release(&bytes);
    buf_release(&whole);
    buf_release(&cut);
    return code;
}
