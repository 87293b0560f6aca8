#include "dataplane/node/feedback_secret.h"
#include "common/file.h"
#include "proto/home.h"

#define SECRET_BYTES_MAX 4096u /* a file of something else */
#define SECRET_LETTERS   52u   /* of 5 bits: more than the key that is made of them */

static enum err read_file(const char *path, struct buf *out)
{
    const enum err err = path ? file_read(path, SECRET_BYTES_MAX, out) : ERR_NOMEM;
    while (!err && out->len > 0 && buf_span(out).ptr[out->len - 1] == '\n')
        buf_truncate(out, out->len - 1);
    return err;
}

static enum err read_secret(const struct node_config *config, struct buf *out)
{
    const char *source = config->feedback_secret;
    enum err err;
    if (source && strncmp(source, "env:", 4) == 0) {
        const char *value = getenv(source + 4);
        err = value ? buf_append_cstr(out, value) : ERR_NOT_FOUND;
    } else if (source) {
        err = read_file(source + 5, out);
    } else {
        char *path = node_config_path(config, HOME_FEEDBACK_SECRET);
        err = read_file(path, out);
        free(path);
    }
    return !err && out->len == 0 ? ERR_NOT_FOUND : err;
}

enum err feedback_secret_key(const struct node_config *config, struct request_id_key *ret)
{
    struct buf secret = BUF_INIT(SECRET_BYTES_MAX);
    const enum err err = read_secret(config, &secret);
    if (!err)
        *ret = request_id_key_of(buf_span(&secret));
    if (secret.cap > 0)
        explicit_bzero(secret.data, secret.cap);
    buf_release(&secret);
    return err;
}

static enum err make(const struct node_config *config)
{
    char text[SECRET_LETTERS + 2];
    char *path = node_config_path(config, HOME_FEEDBACK_SECRET);
    enum err err = path ? OK : ERR_NOMEM;
    if (!err && !file_exists(path)) {
        (void)random_id("", SECRET_LETTERS, text);
        text[SECRET_LETTERS] = '\n';
        err = file_write_atomic(path, span_of(text, SECRET_LETTERS + 1), 0600);
        explicit_bzero(text, sizeof(text));
    }
    free(path);
    return err;
}

enum err feedback_secret_prepare(const struct node_config *config)
{
    struct request_id_key unused;
    const enum err err = config->feedback_secret ? OK : make(config);
    return err ? err : feedback_secret_key(config, &unused);
}
