/* TLS for clients: versions, protocols, certificates of both sides, what is not TLS, and files that are none. */
/* First: base.h bans a name that OpenSSL uses. */
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/kdf.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include "identity.h"
#include "rig.h"

#define ELSEWHERE "GET /v1/nowhere HTTP/1.1\r\nHost: x\r\n\r\n"

/* ---- a client ---- */

struct secure {
    SSL_CTX *ctx;
    SSL *ssl;
    struct client *c;
    struct buf in;
    bool failed, ended;
};

/* What came over the socket into TLS, and out again. False: the connection is dead. */
static void move(struct secure *s)
{
    char bytes[16384];
    const struct span came = buf_span(&s->c->in);
    if (came.len) {
        assert_int_equal(BIO_write(SSL_get_rbio(s->ssl), came.ptr, (int)came.len), (int)came.len);
        buf_clear(&s->c->in);
    }
    int n = 0;
    if (!SSL_is_init_finished(s->ssl))
        n = SSL_do_handshake(s->ssl);
    else
        while ((n = SSL_read(s->ssl, bytes, sizeof(bytes))) > 0)
            assert_int_equal(buf_append(&s->in, span_of(bytes, (size_t)n)), OK);
    const int what = SSL_get_error(s->ssl, n);
    s->ended |= what == SSL_ERROR_ZERO_RETURN;
    s->failed |= what == SSL_ERROR_SSL || what == SSL_ERROR_SYSCALL;
    ERR_clear_error();
    for (int count; (count = BIO_read(SSL_get_wbio(s->ssl), bytes, sizeof(bytes))) > 0;)
        (void)send(s->c->fd, bytes, (size_t)count, MSG_NOSIGNAL);
}

#define UNTIL_TLS(rig, s, condition)                                                                                   \
    do {                                                                                                               \
        uint64_t until_ms_ = clock_ms() + 20000;                                                                       \
        while (!(condition)) {                                                                                         \
            rig_pump(rig);                                                                                             \
            move(s);                                                                                                   \
            if (!(condition))                                                                                          \
                poll(NULL, 0, 1);                                                                                      \
            if (clock_ms() > until_ms_)                                                                                \
                fail_msg("never: %s", #condition);                                                                     \
        }                                                                                                              \
    } while (0)

static SSL_CTX *client_context(const struct identity *trusted, int version, const struct identity *shown)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    assert_non_null(ctx);
    assert_int_equal(SSL_CTX_set_min_proto_version(ctx, version), 1);
    assert_int_equal(SSL_CTX_set_max_proto_version(ctx, version), 1);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    assert_int_equal(SSL_CTX_load_verify_file(ctx, trusted->certificate_file), 1);
    if (shown) {
        assert_int_equal(SSL_CTX_use_certificate(ctx, shown->certificate), 1);
        assert_int_equal(SSL_CTX_use_PrivateKey(ctx, shown->key), 1);
    }
    return ctx;
}

/* Takes over ctx. protocols: in ALPN's form, or NULL. */
static void begin(struct rig *rig, struct secure *s, SSL_CTX *ctx, const char *protocols)
{
    *s = (struct secure){ .ctx = ctx, .ssl = SSL_new(ctx), .c = rig_client(rig), .in = BUF_INIT(256u << 20) };
    SSL_set_bio(s->ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(s->ssl);
    if (protocols)
        assert_int_equal(SSL_set_alpn_protos(s->ssl, (const unsigned char *)protocols, (unsigned)strlen(protocols)), 0);
    move(s);
}

static void end(struct secure *s)
{
    SSL_free(s->ssl);
    SSL_CTX_free(s->ctx);
    buf_release(&s->in);
}

static void tell(struct secure *s, const char *text)
{
    assert_int_equal(SSL_write(s->ssl, text, (int)strlen(text)), (int)strlen(text));
    move(s);
}

static bool got(struct secure *s, const char *text)
{
    return span_find(buf_span(&s->in), span_cstr(text)) != SIZE_MAX;
}

static void serve(struct rig *rig, const struct identity *id)
{
    rig->listen[0].certificate = (char *)(uintptr_t)id->certificate_file;
    rig->listen[0].key = (char *)(uintptr_t)id->key_file;
}

static const struct stream_facts *newest(struct rig *rig)
{
    return stream_facts(&rig->listener.first->stream);
}

/* ---- tests ---- */

static void both_versions_and_their_protocols(void **state)
{
    (void)state;
    static const struct {
        int version;
        bool http2;
        const char *offered, *chosen; /* "": none; NULL: the handshake fails */
    } cases[] = {
        { TLS1_2_VERSION, false, NULL, "" },
        { TLS1_3_VERSION, false, NULL, "" },
        { TLS1_2_VERSION, true, "\x08http/1.1", "http/1.1" },
        { TLS1_3_VERSION, false, "\x02h2\x08http/1.1", "http/1.1" },
        { TLS1_3_VERSION, false, "\x02h2", NULL },
        { TLS1_3_VERSION, true, "\x03h99", NULL },
    };
    struct identity id;
    identity_make(&id, "localhost", "IP:127.0.0.1", NULL);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct rig rig = { .port = 0 };
        struct secure s;
        serve(&rig, &id);
        rig.listen[0].http2 = cases[i].http2;
        rig_start(&rig, true);
        begin(&rig, &s, client_context(&id, cases[i].version, NULL), cases[i].offered);
        if (!cases[i].chosen) {
            UNTIL_TLS(&rig, &s, s.failed && rig.listener.count == 0);
        } else {
            UNTIL_TLS(&rig, &s, SSL_is_init_finished(s.ssl));
            tell(&s, ELSEWHERE);
            UNTIL_TLS(&rig, &s, got(&s, "HTTP/1.1 404 "));
            assert_int_equal(newest(&rig)->protocol, STREAM_HTTP1);
            assert_true(newest(&rig)->tls);
            const unsigned char *name = NULL;
            unsigned size = 0;
            SSL_get0_alpn_selected(s.ssl, &name, &size);
            assert_true(span_eq(span_of((const char *)name, size), span_cstr(cases[i].chosen)));
        }
        end(&s);
        rig_stop(&rig);
    }
    identity_drop(&id);
}

/* A long answer to a slow reader: order and backpressure as without TLS; then the end is said. */
static void large_answers_and_the_end(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    struct identity id;
    struct secure s;
    identity_make(&id, "localhost", "IP:127.0.0.1", NULL);
    serve(&rig, &id);
    rig_start(&rig, true);
    begin(&rig, &s, client_context(&id, TLS1_3_VERSION, NULL), NULL);
    UNTIL_TLS(&rig, &s, SSL_is_init_finished(s.ssl));
    char text[1024];
    snprintf(text, sizeof(text),
             "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: "
             "close\r\nContent-Length: %zu\r\n\r\n%s",
             rig.key, strlen(STREAM_ASK), STREAM_ASK);
    tell(&s, text);
    UNTIL_TLS(&rig, &s, rig.lane.count == 1);
    struct try *t = &rig.lane.tries[0];
    static char event[65536];
    memset(event, 'y', sizeof(event) - 1);
    memcpy(event, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"", 49);
    memcpy(event + sizeof(event) - 10, "\"}}]}\n\n\0", 8);
    s.c->deaf = true;
    try_head(t, 200, "text/event-stream", NULL, NULL);
    unsigned sent = 0;
    for (; !t->paused; sent++)
        try_body(t, event);
    assert_true(sent > 1);
    s.c->deaf = false;
    UNTIL_TLS(&rig, &s, !t->paused);
    try_body(t, FINISH DONE);
    try_done(t, OK);
    UNTIL_TLS(&rig, &s, s.ended); /* close_notify: not cut */
    assert_true(got(&s, "[DONE]"));
    assert_true(s.in.len > sent * (strlen(event) - 1));
    end(&s);
    rig_stop(&rig);
    identity_drop(&id);
}

/* The ClientHello, and the request's record, in single bytes. */
static void any_cut(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    struct identity id;
    identity_make(&id, "localhost", "IP:127.0.0.1", NULL);
    serve(&rig, &id);
    rig_start(&rig, true);
    struct secure s;
    s = (struct secure){ .ctx = client_context(&id, TLS1_3_VERSION, NULL), .in = BUF_INIT(1u << 20) };
    s.ssl = SSL_new(s.ctx);
    s.c = rig_client(&rig);
    SSL_set_bio(s.ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(s.ssl);
    assert_true(SSL_do_handshake(s.ssl) < 0);
    for (int phase = 0; phase < 2; phase++) {
        char bytes[4096];
        const int count = BIO_read(SSL_get_wbio(s.ssl), bytes, sizeof(bytes));
        assert_true(count > 0);
        for (int i = 0; i < count; i++) {
            assert_int_equal(send(s.c->fd, bytes + i, 1, MSG_NOSIGNAL), 1);
            rig_pump(&rig);
        }
        if (phase == 0) {
            UNTIL_TLS(&rig, &s, SSL_is_init_finished(s.ssl));
            assert_int_equal(SSL_write(s.ssl, ELSEWHERE, sizeof(ELSEWHERE) - 1), sizeof(ELSEWHERE) - 1);
        }
    }
    UNTIL_TLS(&rig, &s, got(&s, "HTTP/1.1 404 "));
    end(&s);
    rig_stop(&rig);
    identity_drop(&id);
}

static void what_is_no_tls_is_cut(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    struct identity id;
    identity_make(&id, "localhost", "IP:127.0.0.1", NULL);
    serve(&rig, &id);
    rig.config.limits.head_time_ms = 100;
    rig_start(&rig, true);
    struct client *plain = rig_client(&rig), *silent = rig_client(&rig), *slow = rig_client(&rig);
    say(plain, ELSEWHERE);
    say(slow, "\x16\x03\x01"); /* the beginning of a hello */
    UNTIL(&rig, plain->eof && silent->eof && slow->eof);
    assert_false(has(plain, "HTTP/1.1"));
    UNTIL(&rig, rig.listener.count == 0);
    rig_stop(&rig);
    identity_drop(&id);
}

/* A client that asks for new keys again and again makes us work for nothing. */
static void key_updates_are_bounded(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    struct identity id;
    struct secure s;
    identity_make(&id, "localhost", "IP:127.0.0.1", NULL);
    serve(&rig, &id);
    rig_start(&rig, true);
    begin(&rig, &s, client_context(&id, TLS1_3_VERSION, NULL), NULL);
    UNTIL_TLS(&rig, &s, SSL_is_init_finished(s.ssl));
    for (int i = 0; i < 10; i++) {
        assert_int_equal(SSL_key_update(s.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        assert_int_equal(SSL_do_handshake(s.ssl), 1);
        move(&s);
        rig_pump(&rig);
    }
    tell(&s, ELSEWHERE);
    UNTIL_TLS(&rig, &s, got(&s, "HTTP/1.1 404 ")); /* a few are fine */
    for (int i = 0; i < 100; i++) {
        assert_int_equal(SSL_key_update(s.ssl, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
        assert_int_equal(SSL_do_handshake(s.ssl), 1);
    }
    UNTIL_TLS(&rig, &s, s.c->eof);
    end(&s);
    rig_stop(&rig);
    identity_drop(&id);
}

/* What was to be said to a client that is cut goes to nobody else. */
static void a_cut_client_harms_no_other(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    struct identity id;
    struct secure bad, good;
    identity_make(&id, "localhost", "IP:127.0.0.1", NULL);
    serve(&rig, &id);
    rig_start(&rig, true);
    begin(&rig, &good, client_context(&id, TLS1_3_VERSION, NULL), NULL);
    UNTIL_TLS(&rig, &good, SSL_is_init_finished(good.ssl));
    begin(&rig, &bad, client_context(&id, TLS1_3_VERSION, NULL), NULL);
    UNTIL_TLS(&rig, &bad, SSL_is_init_finished(bad.ssl));
    for (int i = 0; i < 100; i++) { /* each wants an answer; all in one write */
        assert_int_equal(SSL_key_update(bad.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        assert_int_equal(SSL_do_handshake(bad.ssl), 1);
    }
    UNTIL_TLS(&rig, &bad, bad.c->eof);
    tell(&good, ELSEWHERE);
    UNTIL_TLS(&rig, &good, good.failed || got(&good, "HTTP/1.1 404 "));
    assert_false(good.failed);
    end(&good);
    end(&bad);
    rig_stop(&rig);
    identity_drop(&id);
}

/* One record of TLS 1.2 with AES-128-GCM, made by hand: no library asks again after it was told no (RFC 5288). */
static void seal(SSL *ssl, uint64_t sequence, unsigned char type, const char *text, unsigned size, unsigned char *out)
{
    unsigned char master[48], random[64], keys[40], nonce[12], extra[13];
    assert_int_equal(SSL_SESSION_get_master_key(SSL_get_session(ssl), master, sizeof(master)), sizeof(master));
    assert_int_equal(SSL_get_server_random(ssl, random, 32), 32);
    assert_int_equal(SSL_get_client_random(ssl, random + 32, 32), 32);
    EVP_KDF *prf = EVP_KDF_fetch(NULL, "TLS1-PRF", NULL);
    EVP_KDF_CTX *kdf = EVP_KDF_CTX_new(prf);
    OSSL_PARAM params[] = { OSSL_PARAM_construct_utf8_string("digest", (char *)(uintptr_t) "SHA256", 0),
                            OSSL_PARAM_construct_octet_string("secret", master, sizeof(master)),
                            OSSL_PARAM_construct_octet_string("seed", (char *)(uintptr_t) "key expansion", 13),
                            OSSL_PARAM_construct_octet_string("seed", random, sizeof(random)), OSSL_PARAM_END };
    assert_int_equal(EVP_KDF_derive(kdf, keys, sizeof(keys), params), 1);
    EVP_KDF_CTX_free(kdf);
    EVP_KDF_free(prf);
    for (unsigned i = 0; i < 8; i++)
        extra[i] = out[5 + i] = nonce[4 + i] = (unsigned char)(sequence >> (56 - 8 * i));
    memcpy(nonce, keys + 32, 4);
    memcpy(extra + 8, (unsigned char[]){ type, 3, 3, 0, (unsigned char)size }, 5);
    memcpy(out, (unsigned char[]){ type, 3, 3, 0, (unsigned char)(size + 24) }, 5);
    EVP_CIPHER_CTX *aead = EVP_CIPHER_CTX_new();
    int n = 0;
    assert_int_equal(EVP_EncryptInit_ex(aead, EVP_aes_128_gcm(), NULL, keys, nonce), 1);
    assert_int_equal(EVP_EncryptUpdate(aead, NULL, &n, extra, sizeof(extra)), 1);
    assert_int_equal(EVP_EncryptUpdate(aead, out + 13, &n, (const unsigned char *)text, (int)size), 1);
    assert_int_equal(EVP_EncryptFinal_ex(aead, out + 13 + size, &n), 1);
    assert_int_equal(EVP_CIPHER_CTX_ctrl(aead, EVP_CTRL_GCM_GET_TAG, 16, out + 13 + size), 1);
    EVP_CIPHER_CTX_free(aead);
}

/* It never reads that it is told no: what waits for it must not grow. */
static void new_handshakes_are_refused_a_few_times(void **state)
{
    (void)state;
    struct rig rig = { .port = 0 };
    struct identity id;
    struct secure s;
    identity_make(&id, "localhost", "IP:127.0.0.1", NULL);
    serve(&rig, &id);
    rig_start(&rig, true);
    SSL_CTX *ctx = client_context(&id, TLS1_2_VERSION, NULL);
    assert_int_equal(SSL_CTX_set_cipher_list(ctx, "ECDHE-ECDSA-AES128-GCM-SHA256"), 1);
    begin(&rig, &s, ctx, NULL);
    UNTIL_TLS(&rig, &s, SSL_is_init_finished(s.ssl));
    uint64_t sequence = 1; /* 0 was Finished */
    for (int i = 0; i < 3; i++) {
        unsigned char hello[33];
        seal(s.ssl, sequence++, SSL3_RT_HANDSHAKE, "\x01\0\0\0", 4, hello);
        assert_int_equal(send(s.c->fd, hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
    }
    rig_pump(&rig);
    assert_int_equal(rig.listener.count, 1); /* a few are harmless */
    const uint64_t until_ms = clock_ms() + 20000;
    while (rig.listener.count > 0) {
        unsigned char hellos[64][33];
        for (size_t i = 0; i < ARRAY_LEN(hellos); i++)
            seal(s.ssl, sequence++, SSL3_RT_HANDSHAKE, "\x01\0\0\0", 4, hellos[i]);
        (void)send(s.c->fd, hellos, sizeof(hellos), MSG_NOSIGNAL);
        rig_pump(&rig);
        if (sequence > 20000 || clock_ms() > until_ms)
            fail_msg("%llu new handshakes are put up with", (unsigned long long)sequence);
    }
    end(&s);
    rig_stop(&rig);
    identity_drop(&id);
}

static void certificates_of_clients(void **state)
{
    (void)state;
    struct identity server, authority, stranger;
    struct certificate_team teams[] = { { (char *)(uintptr_t) "ci.example.com", (char *)(uintptr_t) "research" },
                                        { (char *)(uintptr_t) "ann@example.com", (char *)(uintptr_t) "research" },
                                        { (char *)(uintptr_t) "spiffe://x/y", (char *)(uintptr_t) "nobody" },
                                        { (char *)(uintptr_t) "robot", (char *)(uintptr_t) "research" } };
    static const struct {
        const char *name, *alt;
        bool strangers; /* not of the authority */
        enum client_certificates want;
        const char *team; /* NULL: none; "": no connection */
    } cases[] = {
        { NULL, NULL, false, CLIENT_CERTIFICATES_OPTIONAL, NULL },
        { NULL, NULL, false, CLIENT_CERTIFICATES_REQUIRED, "" },
        { "x", "DNS:other.example.com,DNS:CI.example.com", false, CLIENT_CERTIFICATES_REQUIRED, "research" },
        { "x", "email:ann@example.com", false, CLIENT_CERTIFICATES_OPTIONAL, "research" },
        { "x", "URI:spiffe://x/y", false, CLIENT_CERTIFICATES_OPTIONAL, "nobody" },
        { "robot", NULL, false, CLIENT_CERTIFICATES_OPTIONAL, "research" },
        { "robot", "DNS:elsewhere", false, CLIENT_CERTIFICATES_OPTIONAL, NULL },
        { "robot", NULL, true, CLIENT_CERTIFICATES_OPTIONAL, "" },
    };
    identity_make(&server, "localhost", "IP:127.0.0.1", NULL);
    identity_make(&authority, "authority", NULL, NULL);
    identity_make(&stranger, "authority", NULL, NULL);
    for (size_t i = 0; i < ARRAY_LEN(cases) * 2; i++) {
        const int version = i % 2 ? TLS1_3_VERSION : TLS1_2_VERSION;
        const size_t k = i / 2;
        struct rig rig = { .port = 0 };
        struct identity own;
        struct secure s;
        serve(&rig, &server);
        rig.listen[0].client_ca = authority.certificate_file;
        rig.listen[0].client_certificates = cases[k].want;
        rig.listen[0].teams = teams;
        rig.listen[0].team_count = ARRAY_LEN(teams);
        rig_start(&rig, true);
        if (cases[k].name)
            identity_make(&own, cases[k].name, cases[k].alt, cases[k].strangers ? &stranger : &authority);
        begin(&rig, &s, client_context(&server, version, cases[k].name ? &own : NULL), NULL);
        if (cases[k].team && !cases[k].team[0]) {
            UNTIL_TLS(&rig, &s, s.failed && rig.listener.count == 0);
        } else {
            UNTIL_TLS(&rig, &s, SSL_is_init_finished(s.ssl));
            tell(&s, "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n");
            UNTIL_TLS(&rig, &s, got(&s, "\r\n\r\n"));
            const bool known = cases[k].team && strcmp(cases[k].team, "research") == 0;
            assert_true(got(&s, known ? "HTTP/1.1 200 " : "HTTP/1.1 401 "));
            const char *team = newest(&rig)->team;
            assert_true(cases[k].team ? team && strcmp(team, cases[k].team) == 0 : !team);
            struct buf out;
            assert_int_equal(records(&rig, &out), known);
            if (known) {
                assert_non_null(strstr(buf_cstr(&out), "\"key_id\":\"certificate:"));
                assert_non_null(strstr(buf_cstr(&out), "\"client\":\"127.0.0.1:"));
            }
            buf_release(&out);
        }
        end(&s);
        if (cases[k].name)
            identity_drop(&own);
        rig_stop(&rig);
    }
    identity_drop(&server);
    identity_drop(&authority);
    identity_drop(&stranger);
}

/* A session that is resumed brings its certificate along: but no further than the setup that verified it. */
static void sessions_end_with_their_setup(void **state)
{
    (void)state;
    struct identity server, authority, own;
    struct certificate_team team = { (char *)(uintptr_t) "robot", (char *)(uintptr_t) "research" };
    SSL_SESSION *session = NULL;
    identity_make(&server, "localhost", "IP:127.0.0.1", NULL);
    identity_make(&authority, "authority", NULL, NULL);
    identity_make(&own, "robot", NULL, &authority);
    for (int i = 0; i < 3; i++) {
        static struct rig rig;
        struct secure s;
        if (i != 1) {
            rig = (struct rig){ .port = 0 };
            serve(&rig, &server);
            rig.listen[0].client_ca = i == 0 ? authority.certificate_file : server.certificate_file;
            rig.listen[0].client_certificates = CLIENT_CERTIFICATES_OPTIONAL;
            rig.listen[0].teams = &team;
            rig.listen[0].team_count = 1;
            rig_start(&rig, true);
        }
        SSL_CTX *ctx = client_context(&server, TLS1_2_VERSION, i == 0 ? &own : NULL);
        s = (struct secure){ .ctx = ctx, .ssl = SSL_new(ctx), .c = rig_client(&rig), .in = BUF_INIT(1u << 20) };
        SSL_set_bio(s.ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
        SSL_set_connect_state(s.ssl);
        if (session)
            assert_int_equal(SSL_set_session(s.ssl, session), 1);
        UNTIL_TLS(&rig, &s, SSL_is_init_finished(s.ssl));
        assert_int_equal(SSL_session_reused(s.ssl), i == 1);
        tell(&s, "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n");
        UNTIL_TLS(&rig, &s, got(&s, i < 2 ? "HTTP/1.1 200 " : "HTTP/1.1 401 "));
        if (i == 0)
            session = SSL_get1_session(s.ssl);
        SSL_set_shutdown(s.ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN); /* else its session is forgotten */
        end(&s);
        if (i > 0)
            rig_stop(&rig);
    }
    SSL_SESSION_free(session);
    identity_drop(&server);
    identity_drop(&authority);
    identity_drop(&own);
}

/* A handshake with a setup, without sockets; afterwards *session is the one to go on with. True: it was resumed. */
static bool shakes_hands(const struct listener_config *config, const struct board *board, int version,
                         const struct identity *server_id, const struct identity *shown, SSL_SESSION **session)
{
    struct listener_setup *setup;
    char *message, byte;
    assert_int_equal(listener_setup_load(config, board, &setup, &message), OK);
    SSL_CTX *ctx = client_context(server_id, version, shown);
    SSL *client = SSL_new(ctx), *server = SSL_new(setup->tls);
    BIO *near, *far;
    assert_int_equal(BIO_new_bio_pair(&near, 65536, &far, 65536), 1);
    SSL_set_bio(client, near, near);
    SSL_set_bio(server, far, far);
    SSL_set_connect_state(client);
    SSL_set_accept_state(server);
    if (*session)
        assert_int_equal(SSL_set_session(client, *session), 1);
    for (int i = 0; i < 10 && !(SSL_is_init_finished(client) && SSL_is_init_finished(server)); i++) {
        (void)SSL_do_handshake(client);
        (void)SSL_do_handshake(server);
    }
    assert_true(SSL_is_init_finished(client) && SSL_is_init_finished(server));
    assert_int_equal(SSL_read(client, &byte, 1), -1); /* takes the ticket */
    const bool resumed = SSL_session_reused(server) == 1;
    assert_int_equal(SSL_session_reused(client), resumed);
    SSL_SESSION_free(*session);
    *session = SSL_get1_session(client);
    SSL_set_shutdown(client, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN); /* else its session is forgotten */
    SSL_set_shutdown(server, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(client);
    SSL_free(server);
    SSL_CTX_free(ctx);
    listener_setup_unref(setup);
    ERR_clear_error();
    return resumed;
}

/* Each setup stands for another worker, or the same after a reload. */
static void tickets_are_taken_by_all_under_the_same_rules(void **state)
{
    (void)state;
    struct identity server, authority, own;
    struct certificate_team team = { (char *)(uintptr_t) "robot", (char *)(uintptr_t) "research" };
    struct certificate_team other_team = { (char *)(uintptr_t) "robot", (char *)(uintptr_t) "build" };
    char path[] = "/dev/shm/fairlead-tickets-XXXXXX";
    const int fd = mkstemp(path);
    struct board *board;
    close(fd);
    assert_int_equal(board_create(path, 1, &board), OK);
    board_tickets_renew(board, 1);
    uint64_t at_ms = 1;
    identity_make(&server, "localhost", "IP:127.0.0.1", NULL);
    identity_make(&authority, "authority", NULL, NULL);
    identity_make(&own, "robot", NULL, &authority);
    const struct listener_config usual = { .address = (char *)(uintptr_t) "127.0.0.1:1",
                                           .certificate = server.certificate_file,
                                           .key = server.key_file,
                                           .client_ca = authority.certificate_file,
                                           .client_certificates = CLIENT_CERTIFICATES_OPTIONAL,
                                           .teams = &team,
                                           .team_count = 1 };
    struct listener_config elsewhere = usual, trusts_another = usual, asks_more = usual, maps_otherwise = usual,
                           maps_none = usual;
    elsewhere.address = (char *)(uintptr_t) "127.0.0.1:2";
    trusts_another.client_ca = server.certificate_file;
    asks_more.client_certificates = CLIENT_CERTIFICATES_REQUIRED;
    maps_otherwise.teams = &other_team;
    maps_none.team_count = 0;
    const struct listener_config *const others[] = { &elsewhere, &asks_more, &maps_otherwise, &maps_none };
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        SSL_SESSION *session = NULL;
        assert_false(shakes_hands(&usual, board, version, &server, &own, &session));
        assert_true(shakes_hands(&usual, board, version, &server, &own, &session));
        for (size_t i = 0; i < ARRAY_LEN(others); i++) {
            assert_false(shakes_hands(others[i], board, version, &server, &own, &session));
            assert_true(shakes_hands(others[i], board, version, &server, &own, &session));
            assert_false(shakes_hands(&usual, board, version, &server, &own, &session));
        }
        assert_false(shakes_hands(&trusts_another, board, version, &server, NULL, &session));
        assert_false(shakes_hands(&usual, board, version, &server, &own, &session));
        assert_false(shakes_hands(&usual, NULL, version, &server, &own, &session)); /* keys of its own */
        for (unsigned keys = 0; keys <= BOARD_TICKET_KEYS; keys++) {
            SSL_SESSION *old = NULL;
            assert_false(shakes_hands(&usual, board, version, &server, &own, &old));
            for (unsigned i = 0; i < keys; i++)
                board_tickets_renew(board, at_ms += BOARD_TICKET_MS);
            const bool known = keys < BOARD_TICKET_KEYS;
            assert_int_equal(shakes_hands(&usual, board, version, &server, &own, &old), known);
            board_tickets_renew(board, at_ms += BOARD_TICKET_MS);
            board_tickets_renew(board, at_ms += BOARD_TICKET_MS);
            assert_true(shakes_hands(&usual, board, version, &server, &own, &old)); /* the new one, of the newest key */
            SSL_SESSION_free(old);
        }
        SSL_SESSION_free(session);
    }
    board_close(board);
    unlink(path);
    identity_drop(&server);
    identity_drop(&authority);
    identity_drop(&own);
}

/* From the PROXY header on: whichever fails, the client is answered, or cut, and the next one is served. */
static void each_failed_allocation_is_survived(void **state)
{
    (void)state;
    static const char header[] = "\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\x0a\x00\x00\x01\x30\x39\x01\xbb";
    struct network loopback = { .bytes = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127 }, .bits = 104 };
    struct certificate_team team = { (char *)(uintptr_t) "robot", (char *)(uintptr_t) "research" };
    struct rig rig = { .port = 0 };
    struct identity server, authority, own;
    identity_make(&server, "localhost", "IP:127.0.0.1", NULL);
    identity_make(&authority, "authority", NULL, NULL);
    identity_make(&own, "robot", NULL, &authority);
    serve(&rig, &server);
    rig.listen[0].client_ca = authority.certificate_file;
    rig.listen[0].client_certificates = CLIENT_CERTIFICATES_OPTIONAL;
    rig.listen[0].teams = &team;
    rig.listen[0].team_count = 1;
    rig.listen[0].proxies = &loopback;
    rig.listen[0].proxy_count = 1;
    rig_start(&rig, true);
    bool untouched = false;
    unsigned served = 0, busy = 0, cut = 0;
    for (unsigned k = 0; !untouched; k++) {
        struct secure s;
        char *room;
        SSL_CTX *ctx = client_context(&server, k % 2 ? TLS1_2_VERSION : TLS1_3_VERSION, &own);
        s = (struct secure){ .ctx = ctx, .ssl = SSL_new(ctx), .c = rig_client(&rig), .in = BUF_INIT(1u << 20) };
        /* The test's own are made beforehand. */
        assert_int_equal(buf_reserve(&s.in, 65536, &room), OK);
        assert_int_equal(buf_reserve(&s.c->in, 65536, &room), OK);
        SSL_set_bio(s.ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
        SSL_set_connect_state(s.ssl);
        assert_int_equal(send(s.c->fd, header, sizeof(header) - 1, MSG_NOSIGNAL), (ssize_t)sizeof(header) - 1);
        fault_arm(FAULT_ALLOC, k, 1);
        UNTIL_TLS(&rig, &s, SSL_is_init_finished(s.ssl) || s.failed || s.c->eof);
        if (SSL_is_init_finished(s.ssl))
            tell(&s, "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n");
        UNTIL_TLS(&rig, &s, got(&s, "\r\n\r\n") || s.failed || s.ended || s.c->eof);
        untouched = fault_seen(FAULT_ALLOC) <= k;
        fault_disarm_all();
        const bool good = got(&s, "HTTP/1.1 200 "), full = got(&s, "HTTP/1.1 503 ");
        if (s.in.len > 0 && !good && !full)
            fail_msg("allocation %u: %.*s", k, (int)s.in.len, buf_span(&s.in).ptr);
        assert_true(good || !untouched);
        served += good;
        busy += full;
        cut += !good && !full;
        close(s.c->fd);
        buf_release(&s.c->in);
        rig.client_count--;
        end(&s);
        UNTIL(&rig, rig.listener.count == 0 && rig.core.buffered == 0);
    }
    assert_true(served > 0 && busy > 0 && cut > 0);
    rig_stop(&rig);
    identity_drop(&server);
    identity_drop(&authority);
    identity_drop(&own);
}

static void bad_files_are_named(void **state)
{
    (void)state;
    struct identity one, two;
    identity_make(&one, "a", NULL, NULL);
    identity_make(&two, "b", NULL, NULL);
    char missing[] = "/nonexistent/key.pem", locked[] = "/tmp/fairlead-tls-XXXXXX";
    FILE *file = fdopen(mkstemp(locked), "w");
    assert_int_equal(PEM_write_PrivateKey(file, one.key, EVP_aes_128_cbc(), (const unsigned char *)"x", 1, NULL, NULL),
                     1);
    fclose(file);
    const struct {
        char *certificate, *key, *ca, *says;
    } cases[] = {
        { missing, one.key_file, NULL, "/nonexistent/key.pem: No such file" },
        { one.certificate_file, missing, NULL, "/nonexistent/key.pem: No such file" },
        { one.key_file, one.key_file, NULL, "no certificate in PEM" },
        { one.certificate_file, one.certificate_file, NULL, "no private key in PEM" },
        { one.certificate_file, two.key_file, NULL, "the key is not that of the certificate" },
        { one.certificate_file, locked, NULL, "the key is encrypted" },
        { one.certificate_file, one.key_file, missing, "/nonexistent/key.pem: No such file" },
        { one.certificate_file, one.key_file, one.key_file, "no certificates in PEM" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const struct listener_config config = { .certificate = cases[i].certificate,
                                                .key = cases[i].key,
                                                .client_ca = cases[i].ca,
                                                .client_certificates = CLIENT_CERTIFICATES_OPTIONAL };
        struct listener_setup *setup;
        char *message;
        assert_int_equal(listener_setup_load(&config, NULL, &setup, &message), ERR_INVALID);
        if (!strstr(message, cases[i].says))
            fail_msg("case %zu: %s", i, message);
        free(message);
    }
    unlink(locked);
    identity_drop(&one);
    identity_drop(&two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_versions_and_their_protocols),
        cmocka_unit_test(large_answers_and_the_end),
        cmocka_unit_test(any_cut),
        cmocka_unit_test(what_is_no_tls_is_cut),
        cmocka_unit_test(key_updates_are_bounded),
        cmocka_unit_test(a_cut_client_harms_no_other),
        cmocka_unit_test(new_handshakes_are_refused_a_few_times),
        cmocka_unit_test(certificates_of_clients),
        cmocka_unit_test(sessions_end_with_their_setup),
        cmocka_unit_test(tickets_are_taken_by_all_under_the_same_rules),
        cmocka_unit_test(each_failed_allocation_is_survived),
        cmocka_unit_test(bad_files_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
