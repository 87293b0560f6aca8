#include <openssl/ssl.h> /* before base.h, which bans rand: a parameter's name in there */

#include "tests/support/fake_tls.h"

struct fake_tls {
    SSL *ssl;
    BIO *in, *out; /* owned by ssl */
};

static SSL_CTX *context(struct fake_tls_server *server)
{
    return (SSL_CTX *)(void *)server;
}

struct fake_tls_server *fake_tls_server_new(const char *cert_file, const char *key_file)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (ctx && SSL_CTX_use_certificate_chain_file(ctx, cert_file) == 1 &&
        SSL_CTX_use_PrivateKey_file(ctx, key_file, SSL_FILETYPE_PEM) == 1)
        return (struct fake_tls_server *)(void *)ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

struct fake_tls_server *fake_tls_client_new(const char *ca_file)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (ctx && SSL_CTX_load_verify_file(ctx, ca_file) == 1) {
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
        return (struct fake_tls_server *)(void *)ctx;
    }
    SSL_CTX_free(ctx);
    return NULL;
}

void fake_tls_server_free(struct fake_tls_server *server)
{
    SSL_CTX_free(context(server));
}

struct fake_tls *fake_tls_new(struct fake_tls_server *server)
{
    struct fake_tls *tls = calloc(1, sizeof(*tls));
    if (!tls)
        return NULL;
    tls->ssl = SSL_new(context(server));
    tls->in = BIO_new(BIO_s_mem());
    tls->out = BIO_new(BIO_s_mem());
    if (!tls->ssl || !tls->in || !tls->out) {
        BIO_free(tls->in);
        BIO_free(tls->out);
        SSL_free(tls->ssl);
        free(tls);
        return NULL;
    }
    SSL_set_bio(tls->ssl, tls->in, tls->out);
    SSL_set_accept_state(tls->ssl);
    return tls;
}

struct fake_tls *fake_tls_dial(struct fake_tls_server *client, const char *host)
{
    struct fake_tls *tls = fake_tls_new(client);
    if (!tls)
        return NULL;
    SSL_set_connect_state(tls->ssl);
    if (SSL_set1_host(tls->ssl, host) == 1 && SSL_set_tlsext_host_name(tls->ssl, host) == 1) {
        (void)SSL_do_handshake(tls->ssl); /* its first words, for fake_tls_write */
        return tls;
    }
    fake_tls_free(tls);
    return NULL;
}

bool fake_tls_is_ready(const struct fake_tls *tls)
{
    return SSL_is_init_finished(tls->ssl);
}

void fake_tls_free(struct fake_tls *tls)
{
    if (!tls)
        return;
    SSL_free(tls->ssl);
    free(tls);
}

enum err fake_tls_feed(struct fake_tls *tls, struct span wire)
{
    return BIO_write(tls->in, wire.ptr, (int)wire.len) == (int)wire.len ? OK : ERR_NOMEM;
}

enum err fake_tls_read(struct fake_tls *tls, char *out, size_t out_bytes, size_t *ret_n)
{
    int n = SSL_read(tls->ssl, out, (int)out_bytes);
    if (n > 0) {
        *ret_n = (size_t)n;
        return OK;
    }
    return SSL_get_error(tls->ssl, n) == SSL_ERROR_WANT_READ ? ERR_AGAIN : ERR_CLOSED;
}

enum err fake_tls_write(struct fake_tls *tls, struct buf *plain, struct buf *wire)
{
    while (plain->len > 0) {
        struct span record = span_head(buf_span(plain), 16 * 1024); /* a TLS record's most, RFC 8446, section 5.1 */
        int n = SSL_write(tls->ssl, record.ptr, (int)record.len);
        if (n <= 0)
            break;
        buf_consume(plain, (size_t)n);
    }
    size_t pending;
    while ((pending = BIO_ctrl_pending(tls->out)) > 0) {
        char *at;
        enum err err = buf_reserve(wire, pending, &at);
        if (err != OK)
            return err;
        int n = BIO_read(tls->out, at, (int)pending);
        if (n <= 0)
            break;
        buf_commit(wire, (size_t)n);
    }
    return OK;
}
