/* First: base.h bans a name that OpenSSL uses. */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include "dataplane/worker/setup_tls.h"
#include "common/fault.h"
#include "common/log.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define CLIENT_CHAIN_BYTES (64u << 10) /* of a client's certificates, before anything is known of it */
#define CLIENT_CHAIN_DEPTH 8           /* each link costs a verification */
/* For TLS 1.2; forward secrecy and authenticated encryption only, as HTTP/2 wants it (RFC 9113 section 9.2.2). */
#define CIPHERS_OF_1_2 "ECDHE+AESGCM:ECDHE+CHACHA20"

/* ERR_INVALID with "FILE: WHAT"; ERR_NOMEM. */
static enum err complain(char **ret_message, const char *file, const char *what)
{
    const size_t room = strlen(file) + strlen(what) + 3;
    ERR_clear_error();
    *ret_message = fault_malloc(room);
    if (!*ret_message)
        return ERR_NOMEM;
    (void)snprintf(*ret_message, room, "%s: %s", file, what);
    return ERR_INVALID;
}

/* What OpenSSL says, after `what`. */
static enum err complain_of(char **ret_message, const char *file, const char *what)
{
    char text[256];
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    (void)snprintf(text, sizeof(text), "%s%s%s", what, reason ? ": " : "", reason ? reason : "");
    return complain(ret_message, file, text);
}

static enum err check_readable(const char *file, char **ret_message)
{
    const int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return complain(ret_message, file, strerror(errno));
    close(fd);
    return OK;
}

/* OpenSSL would ask the terminal. */
static int no_password(char *out, int room, int writing, void *user)
{
    (void)out;
    (void)room;
    (void)writing;
    (void)user;
    return -1;
}

/* OpenSSL's errors pile up, the cause below what followed from it. */
static bool among_errors(int library, int reason)
{
    bool found = false;
    for (unsigned long code; (code = ERR_get_error()) != 0;)
        found = found || (ERR_GET_LIB(code) == library && ERR_GET_REASON(code) == reason);
    return found;
}

static const char *why_no_key(void)
{
    const unsigned long last = ERR_peek_last_error();
    if (ERR_GET_LIB(last) == ERR_LIB_X509 && ERR_GET_REASON(last) == X509_R_KEY_VALUES_MISMATCH)
        return "the key is not that of the certificate";
    return among_errors(ERR_LIB_PEM, PEM_R_BAD_PASSWORD_READ) ? "the key is encrypted; this program knows no passphrase"
                                                              : "no private key in PEM that can be used";
}

static void warn_of_age(const SSL_CTX *ctx, const char *file)
{
    const X509 *certificate = SSL_CTX_get0_certificate(ctx);
    if (certificate && X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0)
        log_warn("tls.certificate_expired", LOG_STR("file", file));
    if (certificate && X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0)
        log_warn("tls.certificate_of_the_future", LOG_STR("file", file));
}

static enum err load_pair(SSL_CTX *ctx, const struct listener_config *config, char **ret_message)
{
    enum err err = check_readable(config->certificate, ret_message);
    if (err == OK)
        err = check_readable(config->key, ret_message);
    if (err)
        return err;
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
    if (SSL_CTX_use_certificate_chain_file(ctx, config->certificate) != 1)
        return complain_of(ret_message, config->certificate, "no certificate in PEM that can be used");
    if (SSL_CTX_use_PrivateKey_file(ctx, config->key, SSL_FILETYPE_PEM) != 1)
        return complain(ret_message, config->key, why_no_key());
    if (SSL_CTX_check_private_key(ctx) != 1)
        return complain(ret_message, config->key, "the key is not that of the certificate");
    warn_of_age(ctx, config->certificate);
    return OK;
}

static enum err load_client_ca(SSL_CTX *ctx, const struct listener_config *config, char **ret_message)
{
    if (!config->client_ca || config->client_certificates == CLIENT_CERTIFICATES_NONE)
        return OK;
    const enum err err = check_readable(config->client_ca, ret_message);
    if (err)
        return err;
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(config->client_ca);
    if (!names || SSL_CTX_load_verify_file(ctx, config->client_ca) != 1) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return complain_of(ret_message, config->client_ca, "no certificates in PEM that can be used");
    }
    SSL_CTX_set_client_CA_list(ctx, names); /* takes them */
    const bool required = config->client_certificates == CLIENT_CERTIFICATES_REQUIRED;
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | (required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), NULL);
    SSL_CTX_set_verify_depth(ctx, CLIENT_CHAIN_DEPTH);
    SSL_CTX_set_max_cert_list(ctx, CLIENT_CHAIN_BYTES);
    return OK;
}

/* RFC 7301: of what the client offers, what we like best; nothing in common is an error, not a guess. */
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_size, const unsigned char *offered,
                           unsigned size, void *user)
{
    static const unsigned char both[] = "\x02h2\x08http/1.1";
    const struct listener_setup *setup = user;
    const unsigned skip = setup->http2 ? 0 : 3;
    unsigned char *chosen = NULL;
    (void)ssl;
    if (SSL_select_next_proto(&chosen, out_size, both + skip, (unsigned)sizeof(both) - 1 - skip, offered, size) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

enum err setup_tls_load(struct listener_setup *setup, const struct listener_config *config, char **ret_message)
{
    SSL_CTX *ctx = fault_hit(FAULT_ALLOC) ? NULL : SSL_CTX_new(TLS_server_method());
    if (!ctx)
        return ERR_NOMEM;
    setup->tls = ctx;
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);         /* an idle connection holds no record buffers */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF); /* tickets: the client holds the state */
    SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, setup);
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 || SSL_CTX_set_cipher_list(ctx, CIPHERS_OF_1_2) != 1) {
        ERR_clear_error();
        return ERR_NOMEM;
    }
    enum err err = load_pair(ctx, config, ret_message);
    if (err == OK)
        err = load_client_ca(ctx, config, ret_message);
    ERR_clear_error();
    return err;
}

void setup_tls_free(struct listener_setup *setup)
{
    SSL_CTX_free(setup->tls);
    setup->tls = NULL;
}

/* ---- a certificate's team ---- */

static bool look_up(const struct listener_setup *setup, struct span name, bool any_case, const char **ret_team,
                    const char **ret_name)
{
    for (unsigned i = 0; i < setup->team_count; i++) {
        const struct span known = span_cstr(setup->teams[i].name);
        if (any_case ? span_eq_nocase(known, name) : span_eq(known, name)) {
            *ret_team = setup->teams[i].team;
            *ret_name = setup->teams[i].name;
            return true;
        }
    }
    return false;
}

static struct span text_of(const ASN1_STRING *string)
{
    return span_of((const char *)ASN1_STRING_get0_data(string), (size_t)ASN1_STRING_length(string));
}

/* *ret_any: the certificate has such a name at all; then its common name counts for nothing. */
static enum err by_other_names(const struct listener_setup *setup, const X509 *certificate, const char **ret_team,
                               const char **ret_name, bool *ret_any)
{
    int critical;
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, &critical, NULL);
    bool any = false, found = false;
    if (!names && critical != -1) /* there, and not read */
        return ERR_DENIED;
    for (int i = 0; names && !found && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_DNS && name->type != GEN_EMAIL && name->type != GEN_URI)
            continue;
        any = true;
        found = look_up(setup, text_of(name->d.ia5), name->type == GEN_DNS, ret_team, ret_name);
    }
    GENERAL_NAMES_free(names);
    *ret_any = any;
    return OK;
}

static enum err by_common_name(const struct listener_setup *setup, const X509 *certificate, const char **ret_team,
                               const char **ret_name)
{
    const X509_NAME *subject = X509_get_subject_name(certificate);
    const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    unsigned char *text = NULL;
    if (at < 0)
        return OK;
    const int size = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    if (size < 0)
        return ERR_DENIED;
    if (size > 0)
        (void)look_up(setup, span_of((const char *)text, (size_t)size), false, ret_team, ret_name);
    OPENSSL_free(text);
    return OK;
}

enum err listener_setup_team(const struct listener_setup *setup, const X509 *certificate, const char **ret_team,
                             const char **ret_name)
{
    bool any;
    *ret_team = *ret_name = NULL;
    if (!certificate || setup->team_count == 0)
        return OK;
    const int left = X509_cmp_current_time(X509_get0_notAfter(certificate)); /* 0: not known */
    if (left <= 0)
        return left ? OK : ERR_DENIED;
    const enum err err = by_other_names(setup, certificate, ret_team, ret_name, &any);
    return err || any ? err : by_common_name(setup, certificate, ret_team, ret_name);
}
