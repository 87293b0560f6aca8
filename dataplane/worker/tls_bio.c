/* First: base.h bans a name that OpenSSL uses. */
#include <openssl/bio.h>
#include "dataplane/worker/tls_bio.h"

static int bio_read(BIO *bio, char *out, int room)
{
    struct tls_bio *ends = BIO_get_data(bio);
    const size_t n = size_min(ends->in.len, room > 0 ? (size_t)room : 0);
    BIO_clear_retry_flags(bio);
    if (n == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    memcpy(out, ends->in.ptr, n);
    ends->in = span_skip(ends->in, n);
    return (int)n;
}

static int bio_write(BIO *bio, const char *bytes, int count)
{
    struct tls_bio *ends = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (count <= 0)
        return 0;
    return buf_append(ends->out, span_of(bytes, (size_t)count)) == OK ? count : -1;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

BIO *tls_bio_new(struct tls_bio *ends)
{
    static BIO_METHOD *method; /* as long as the process, which has one loop */
    if (!method) {
        BIO_METHOD *made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "fairlead");
        if (!made)
            return NULL;
        BIO_meth_set_read(made, bio_read);
        BIO_meth_set_write(made, bio_write);
        BIO_meth_set_ctrl(made, bio_control);
        method = made;
    }
    BIO *bio = BIO_new(method);
    if (bio) {
        BIO_set_data(bio, ends);
        BIO_set_init(bio, 1);
    }
    return bio;
}
